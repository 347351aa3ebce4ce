"""Tests of atomic files, of paths, and of the lock on a workdir."""

import os
import signal
import subprocess
import sys

import pytest
from etils import epath

from sqlm_jax.workdir import storage

HOLD = (
  'import sys, time\n'
  'from sqlm_jax.workdir import storage\n'
  'with storage.locked(sys.argv[1]):\n'
  '  print("held", flush=True)\n'
  '  time.sleep(600)\n'
)


def test_a_second_run_is_rejected_with_the_process_of_the_first(tmp_path):
  with storage.locked(tmp_path / 'run'):
    message = (
      rf'another run is writing to this directory \(process {os.getpid()} on '
    )
    with (
      pytest.raises(RuntimeError, match=message),
      storage.locked(tmp_path / 'run'),
    ):
      pass
    with storage.locked(tmp_path / 'other'):
      pass
  with storage.locked(tmp_path / 'run'):
    pass  # the lock was released


def test_the_lock_of_a_killed_process_is_released(tmp_path):
  with subprocess.Popen(
    [sys.executable, '-c', HOLD, tmp_path], stdout=subprocess.PIPE
  ) as process:
    assert process.stdout.readline() == b'held\n'
    message = rf'process {process.pid} on '
    with (
      pytest.raises(RuntimeError, match=message),
      storage.locked(tmp_path),
    ):
      pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    with storage.locked(tmp_path):
      pass


def test_a_file_is_replaced_completely_or_not_at_all(tmp_path):
  path = epath.Path(tmp_path) / 'file'
  storage.write_text(path, 'first')
  with (
    pytest.raises(ZeroDivisionError),
    storage.replacing(path) as temporary,
  ):
    temporary.write_text(f'sec{1 / 0}')
  assert path.read_text() == 'first'
  storage.append(path, ' and more\n')
  assert path.read_text() == 'first and more\n'


def test_absolute_keeps_bucket_paths():
  assert f'{storage.absolute("gs://bucket/run")}' == 'gs://bucket/run'
  assert f'{storage.absolute("runs")}' == f'{os.getcwd()}/runs'


def test_a_full_disk_raises_an_error_with_the_path(tmp_path):
  """Every write to /dev/full fails, as on a full disk."""
  (tmp_path / 'metrics.jsonl').symlink_to('/dev/full')
  path = epath.Path(tmp_path) / 'metrics.jsonl'
  message = r'metrics\.jsonl could not be written: .* No space left on device'
  with pytest.raises(OSError, match=message):
    storage.append(path, 'a line\n')


@pytest.mark.parametrize(
  'path, message',
  [
    ('foo://bucket/run', r'a directory, gs://bucket/… or s3://bucket/…; there'),
    ('file:///tmp/run', 'no file system for file://'),
    ('http://host/run', 'no file system for http://'),
    ('GS://bucket/run', 'no file system for GS://'),
    ('runs/a://b', 'no file system for runs/a://'),
    ('gs:/bucket/run', 'expected a directory, gs://bucket'),
    ('gs://', r'expected gs://bucket/…'),
    ('s3:///', r'expected s3://bucket/…'),
    ('', 'expected a directory'),
    ('  ', 'expected a directory'),
  ],
)
def test_a_path_without_a_file_system_is_rejected(path, message):
  with pytest.raises(ValueError, match=message) as caught:
    storage.check(path, '--workdir')
  assert str(caught.value).startswith(f'--workdir={path!r}: expected')


@pytest.mark.parametrize(
  'scheme, extra', [('gs', r"'\.\[gs\]'"), ('s3', r"'\.\[s3\]'")]
)
def test_a_missing_file_system_names_the_extra_to_install(
  scheme, extra, monkeypatch
):
  def missing(protocol):
    raise ImportError(f'no {protocol}')

  monkeypatch.setattr(storage.fsspec, 'get_filesystem_class', missing)
  message = rf'{scheme}://, which is not installed: pip install -e {extra}'
  with pytest.raises(ValueError, match=message):
    storage.check(f'{scheme}://bucket/run')


@pytest.mark.parametrize(
  'path', ['runs/a', '/tmp/a b', 'a:b/c', 'runs/seeds=[0,1]', '~', '-']
)
def test_local_paths_are_accepted(path):
  storage.check(path)


def test_entries_do_not_treat_the_directory_as_a_pattern(tmp_path):
  directory = epath.Path(tmp_path) / 'seeds=[0,1]'
  (tmp_path / 'seeds=0').mkdir()
  (tmp_path / 'seeds=0' / 'step_1').touch()
  assert storage.entries(directory, 'step_.*') == []
  directory.mkdir()
  for name in ('step_2', 'step_1', 'other'):
    (directory / name).touch()
  paths = storage.entries(directory, r'step_\d+')
  assert paths == [directory / 'step_1', directory / 'step_2']


def test_a_leading_tilde_is_the_home_directory(monkeypatch):
  monkeypatch.setenv('HOME', '/home/me')
  assert storage.expand('~/runs/a') == '/home/me/runs/a'
  assert storage.expand('runs/~') == 'runs/~'
  assert storage.expand('gs://bucket/~') == 'gs://bucket/~'


WITHOUT_POSIX = """
import sys

class Without:
  names = 'fcntl', 'resource', 'pwd', 'grp', 'termios', 'readline', 'syslog'

  def find_spec(self, name, path=None, target=None):
    if name in self.names:
      raise ModuleNotFoundError(f'No module named {name!r}', name=name)

for name in Without.names:
  sys.modules.pop(name, None)
sys.meta_path.insert(0, Without())
import sqlm_jax.main
import sqlm_jax.grading.pool
"""


def test_no_module_needs_a_library_that_windows_lacks():
  process = subprocess.run(
    [sys.executable, '-c', WITHOUT_POSIX],
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert process.returncode == 0, process.stderr
