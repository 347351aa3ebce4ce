"""Files of a workdir, and the lock on it."""

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


def test_a_second_run_is_refused_and_told_whose_it_is(tmp_path):
  with storage.locked(tmp_path / 'run'):
    message = rf'another run is writing there \(process {os.getpid()} on '
    with (
      pytest.raises(RuntimeError, match=message),
      storage.locked(tmp_path / 'run'),
    ):
      pass
    with storage.locked(tmp_path / 'other'):
      pass
  with storage.locked(tmp_path / 'run'):
    pass  # given back


def test_a_killed_process_leaves_no_lock(tmp_path):
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


def test_a_file_that_is_replaced_is_never_half(tmp_path):
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


def test_a_path_of_objects_stays_one():
  assert f'{storage.absolute("gs://bucket/run")}' == 'gs://bucket/run'
  assert f'{storage.absolute("runs")}' == f'{os.getcwd()}/runs'


def test_a_full_disk_is_an_error_of_the_line(tmp_path):
  """/dev/full is a disk without room: no write to it succeeds."""
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
def test_a_path_without_a_file_system_is_refused(path, message):
  with pytest.raises(ValueError, match=message) as caught:
    storage.check(path, '--workdir')
  assert str(caught.value).startswith(f'--workdir={path!r}: expected')


@pytest.mark.parametrize(
  'scheme, extra', [('gs', r"'\.\[gs\]'"), ('s3', r"'\.\[s3\]'")]
)
def test_the_extra_of_a_bucket_is_named(scheme, extra, monkeypatch):
  def missing(protocol):
    raise ImportError(f'no {protocol}')

  monkeypatch.setattr(storage.fsspec, 'get_filesystem_class', missing)
  message = rf'{scheme}://, which is not installed: pip install -e {extra}'
  with pytest.raises(ValueError, match=message):
    storage.check(f'{scheme}://bucket/run')


@pytest.mark.parametrize(
  'path', ['runs/a', '/tmp/a b', 'a:b/c', 'runs/seeds=[0,1]', '~', '-']
)
def test_a_path_of_files_is_accepted(path):
  storage.check(path)


def test_entries_are_not_sought_by_a_pattern_in_the_path(tmp_path):
  directory = epath.Path(tmp_path) / 'seeds=[0,1]'
  (tmp_path / 'seeds=0').mkdir()
  (tmp_path / 'seeds=0' / 'step_1').touch()
  assert storage.entries(directory, 'step_.*') == []
  directory.mkdir()
  for name in ('step_2', 'step_1', 'other'):
    (directory / name).touch()
  found = storage.entries(directory, r'step_\d+')
  assert found == [directory / 'step_1', directory / 'step_2']


def test_a_leading_tilde_is_the_home(monkeypatch):
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


def test_nothing_imports_what_windows_lacks():
  found = subprocess.run(
    [sys.executable, '-c', WITHOUT_POSIX],
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert found.returncode == 0, found.stderr
