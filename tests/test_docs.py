"""Commands and links of the README and the docs."""

import pathlib
import re
import shlex
import sys

import pytest
from absl import flags
from ml_collections import config_flags

from sqlm_jax import main
from sqlm_jax.config import schema as config_lib

ROOT = pathlib.Path(__file__).parent.parent
OUR_FLAGS = [
  'workdir',
  'mode',
  'role',
  'questions_file',
  'checkpoint',
  'dataset',
  'compare',
  'export_dir',
  'export_dtype',
  'export_adapter',
  'distributed',
  'coordinator_address',
  'num_processes',
  'process_id',
  'verbosity',
]
PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))]
PAGES += sorted((ROOT / 'configs').glob('*.py'))


def commands():
  """Every command line that starts our program, wherever it stands."""
  found = set()
  for page in PAGES:
    text = page.read_text().replace('\\\\\n', ' ').replace('\\\n', ' ')
    for match in re.finditer(
      r'(?:python -m sqlm_jax\.main|launch/[^\n]* -- )([^`|&\n]*)', text
    ):
      found.add((page.name, ' '.join(match[1].split())))
  return sorted(found)


def shown_in_docs(path: str) -> bool:
  """Returns True if a page tells the user to save a file of this name."""
  return any(f'`{path}`' in page.read_text() for page in PAGES) or any(
    f'--config={path}' in page.read_text() and page.suffix == '.md'
    for page in PAGES
  )


def test_there_are_commands_to_check():
  assert len(commands()) > 8


@pytest.mark.parametrize('page, line', commands())
def test_commands_parse(page, line, monkeypatch):
  words = shlex.split(line)
  # What follows a colon is the file's own.
  named = [
    w.removeprefix('--config=').split(':')[0] for w in words if '--config=' in w
  ]
  if named and not (ROOT / named[0]).exists():
    assert shown_in_docs(named[0]), f'{page}: {named[0]} does not exist'
    words = [w.replace(named[0], 'configs/quickstart.py') for w in words]
  monkeypatch.chdir(ROOT)
  with_flags = flags.FlagValues()
  for name in OUR_FLAGS:
    with_flags[name] = flags.FLAGS[name]
  # The flag of a config puts its overrides where it was defined.
  config_flags.DEFINE_config_file('config', flag_values=with_flags)
  monkeypatch.setattr(flags, 'FLAGS', with_flags)
  # ml_collections looks for overrides there, whatever it is told to parse.
  monkeypatch.setattr(sys, 'argv', ['main', *words])
  main.parse_flags(sys.argv)
  if named:
    config_lib.from_dict(with_flags['config'].value.to_dict())
  assert with_flags['mode'].value in ('train', 'eval', 'sample', 'export')


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_links_and_named_functions_exist(page):
  text = page.read_text()
  for target in re.findall(r'\]\((?!http)([^)#]+)\)', text):
    assert (page.parent / target).exists(), target
  for path, name in re.findall(r'`(\w+/\w+\.py):(\w+)`', text):
    source = (ROOT / 'sqlm_jax' / path).read_text()
    assert f'def {name}(' in source, f'{path}:{name}'


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_named_config_keys_exist(page):
  names = {key.name for key in config_lib.KEYS}
  # `policy.name` is also a function of `models/policy.py`.
  groups = '|'.join({name.split('.')[0] for name in names} - {'policy'})
  for key in re.findall(rf'`((?:{groups})\.[\w.]+)[=`]', page.read_text()):
    key = key.rstrip('.')
    assert key in names or any(name.startswith(f'{key}.') for name in names)
