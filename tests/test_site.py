"""Tests of the docs site, built as `docs/conf.py` says."""

import html.parser
import importlib
import inspect
import pathlib
import subprocess
import sys
import urllib.parse

import pytest
from sphinx.util import inventory

ROOT = pathlib.Path(__file__).parent.parent
# Modules whose public functions and classes the site documents.
DOCUMENTED = [
  *sorted((ROOT / 'sqlm_jax' / 'ops').glob('[a-z]*.py')),
  *sorted((ROOT / 'sqlm_jax' / 'engine').glob('[a-z]*.py')),
  *(ROOT / 'sqlm_jax' / 'game' / f'{n}.py' for n in ('rewards', 'vote')),
]


class Page(html.parser.HTMLParser):
  """Finds the links and the targets of links of a page."""

  def __init__(self, text: str):
    super().__init__()
    self.links: set[str] = set()
    self.targets = {''}
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    found = dict(attrs)
    self.targets.add(found.get('id') or '')
    for name in ('href', 'src'):
      self.links.add(found.get(name) or '')


@pytest.fixture(scope='module')
def site(tmp_path_factory):
  """Builds the site; a warning is an error."""
  site = tmp_path_factory.mktemp('site')
  command = [sys.executable, '-m', 'sphinx', '-W', '-n', '-q', '--keep-going']
  # The build does not write into the repository.
  command += ['-d', str(site / 'doctrees'), 'docs', str(site / 'html')]
  process = subprocess.run(
    command, cwd=ROOT, capture_output=True, text=True, timeout=300
  )
  assert process.returncode == 0, process.stdout + process.stderr
  return site / 'html'


def test_links_within_the_site_lead_somewhere(site):
  pages = {path: Page(path.read_text()) for path in site.rglob('*.html')}
  assert site / 'watch.html' in pages
  for path, page in pages.items():
    for link in page.links:
      parts = urllib.parse.urlsplit(link)
      if parts.scheme or parts.netloc:
        continue
      name = urllib.parse.unquote(parts.path)
      target = (path.parent / name).resolve() if name else path
      assert target.exists(), f'{path.name}: {link}'
      if target in pages and parts.fragment:
        fragment = urllib.parse.unquote(parts.fragment)
        assert fragment in pages[target].targets, f'{path.name}: {link}'


def test_public_functions_are_documented(site):
  with (site / 'objects.inv').open('rb') as file:
    entries = inventory.InventoryFile.load(file, '', lambda base, uri: uri)
  documented = {
    name for kind in ('class', 'function') for name in entries[f'py:{kind}']
  }
  missing = set()
  for path in DOCUMENTED:
    name = '.'.join(path.relative_to(ROOT).with_suffix('').parts)
    module = importlib.import_module(name)
    missing |= {
      f'{name}.{key}'
      for key, value in vars(module).items()
      if not key.startswith('_')
      and (inspect.isfunction(value) or inspect.isclass(value))
      and value.__module__ == name
    } - documented
  assert not missing


@pytest.mark.parametrize('name', ['advantages', 'losses'])
def test_equations_are_on_lines_of_their_own(site, name):
  text = (site / 'api' / 'ops.html').read_text()
  equation = {
    'advantages': 'A_i = r_i - sum_{j != i} r_j / (n - 1)',
    'losses': ' A)\nw = exp(logp - old_logp)',
  }[name]
  assert equation in text
