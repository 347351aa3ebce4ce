"""Tests of the commands, links and names in README, docs and configs."""

import pathlib
import re
import shlex
import sys

import pytest
from absl.testing import flagsaver

from sqlm_jax import command_line, configs
from sqlm_jax.config import schema as config_lib

ROOT = pathlib.Path(__file__).parent.parent
PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').rglob('*.md'))]
PAGES += sorted((ROOT / 'tools').rglob('*.md'))
PAGES += sorted((ROOT / 'configs').glob('*.py'))
PAGES += sorted((ROOT / 'examples').glob('*.sh'))


def commands():
  """Returns the page and flags of every documented command line."""
  lines = set()
  for page in PAGES:
    text = page.read_text().replace('\\\\\n', ' ').replace('\\\n', ' ')
    for match in re.finditer(
      r'(?:python -m sqlm_jax\.main|sqlm-jax(?= --)|launch/[^\n]* -- )'
      r'((?:"[^"\n]*"|[^`|&\n"])*)',
      text,
    ):
      lines.add((page.name, ' '.join(match[1].split())))
  return sorted(lines)


def shown_in_docs(path: str) -> bool:
  """Returns True if a page tells the user to save a file with this name."""
  return any(f'`{path}`' in page.read_text() for page in PAGES) or any(
    f'--config={path}' in page.read_text() and page.suffix == '.md'
    for page in PAGES
  )


def test_there_are_commands_to_check():
  assert len(commands()) > 8


@pytest.mark.parametrize('page, line', commands())
def test_commands_parse(page, line, monkeypatch):
  words = shlex.split(line)
  # The config file itself interprets the text after a colon.
  config_files = [
    w.removeprefix('--config=').split(':')[0] for w in words if '--config=' in w
  ]
  by_name = bool(config_files) and config_files[0] in configs.names()
  if config_files and not by_name and not (ROOT / config_files[0]).exists():
    path = config_files[0]
    assert shown_in_docs(path), f'{page}: {path} does not exist'
    words = [w.replace(path, 'configs/quickstart.py') for w in words]
  monkeypatch.chdir(ROOT)
  # ml_collections reads overrides from sys.argv, not from its argument.
  monkeypatch.setattr(sys, 'argv', ['main', *words])
  with flagsaver.flagsaver():
    command_line.parse_flags(sys.argv)
    if config_files:
      config_lib.from_dict(command_line.CONFIG.value.to_dict())


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_links_and_named_functions_exist(page):
  text = page.read_text()
  # The badges' addresses relative to the page are those of a repository's host.
  for target in re.findall(r'\]\((?!http|\.\./\.\./actions)([^)#]+)', text):
    assert (page.parent / target).exists(), target
  for path, name in re.findall(r'`(\w+/\w+\.py):(\w+)`', text):
    source = (ROOT / 'sqlm_jax' / path).read_text()
    assert f'def {name}(' in source, f'{path}:{name}'


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_named_python_files_exist(page):
  folders = (ROOT, ROOT / 'sqlm_jax', ROOT / 'tests')
  for path in re.findall(r'`((?:\w+/)+\w+\.py)\b', page.read_text()):
    exists = any((folder / path).exists() for folder in folders)
    assert exists or f'--config={path}' in page.read_text(), path


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_named_scripts_exist(page):
  names = re.findall(
    r'python -m ((?:benchmarks|tools)[\w.]*\w)', page.read_text()
  )
  for name in names:
    path = ROOT / name.replace('.', '/')
    assert path.with_suffix('.py').exists() or path.is_dir(), name


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_named_config_keys_exist(page):
  names = {key.name for key in config_lib.KEYS}
  # `policy.name` is also a function of `models/policy.py`.
  groups = '|'.join({name.split('.')[0] for name in names} - {'policy'})
  for key in re.findall(rf'`((?:{groups})\.[\w.]+)[=`]', page.read_text()):
    key = key.rstrip('.')
    if key == 'alarms.jsonl':  # a file
      continue
    assert key in names or any(name.startswith(f'{key}.') for name in names)


def test_the_index_of_the_docs_site_has_every_page():
  pages = {
    str(path.relative_to(ROOT / 'docs').with_suffix(''))
    for pattern in ('*.md', '*.ipynb')
    for path in (ROOT / 'docs').rglob(pattern)
  }
  index = set((ROOT / 'docs' / 'index.md').read_text().splitlines())
  missing = pages - index - {'index'}
  assert not missing, f'docs/index.md: add {missing} to a toctree'


@pytest.mark.parametrize('folder', ['ops', 'engine'])
def test_the_docs_site_has_every_module(folder):
  page = (ROOT / 'docs' / 'api' / f'{folder}.md').read_text()
  for path in (ROOT / 'sqlm_jax' / folder).glob('[!_]*.py'):
    name = f'sqlm_jax.{folder}.{path.stem}'
    count = page.count(f'.. automodule:: {name}\n')
    assert count == 1, f'docs/api/{folder}.md: {name} is there {count} times'
