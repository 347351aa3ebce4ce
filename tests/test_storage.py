"""Files of a workdir, and the lock on it."""

import os
import signal
import subprocess
import sys

import pytest
from etils import epath

from sqlm_jax import storage

HOLD = (
  'import sys, time\n'
  'from sqlm_jax import storage\n'
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
