"""Sandboxes with hostile and with honest programs."""

import contextlib
import os
import pathlib
import platform
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from typing import NamedTuple

import pytest

from sqlm_jax.game import types
from sqlm_jax.sandbox import outcomes, sandbox, seccomp
from sqlm_jax.sandbox import process as process_lib
from tests.sandbox import hostile_programs

needs_bubblewrap = pytest.mark.skipif(
  not shutil.which('bwrap'), reason='bubblewrap is not installed'
)
LIMITS = sandbox.Limits(
  cpu_seconds=0.4,
  wall_seconds=3.0,  # allows for a busy machine
  memory_bytes=160 * 2**20,
  processes=4,
  file_bytes=2**18,
  output_bytes=2**16,
)
WORKERS = 2
SUM = 'a, b = map(int, input().split())\nprint(a + b)'
SUM_TESTS = [types.TestCase(f'{i} {i}\n', f'{2 * i}\n') for i in range(2)]


class Canaries(NamedTuple):
  """Files, processes and sockets that reveal whether a program reached them."""

  folder: pathlib.Path
  file: pathlib.Path
  process: subprocess.Popen
  sockets: tuple[socket.socket, ...]  # these listen or receive
  bystanders: set[int]  # processes that other tests have started

  def fill_in(self, source: str) -> str:
    for word, value in (
      ('FILE', self.file),
      ('FOLDER', self.folder),
      ('PID', self.process.pid),
      ('PORT', self.sockets[0].getsockname()[1]),
      ('ABSTRACT', self.sockets[2].getsockname()[1:].decode()),
    ):
      source = source.replace(f'@{word}@', str(value))
    return source

  def touched(self) -> list[str]:
    """Returns descriptions of the harm that a program has done."""
    harm = []
    if self.file.read_text() != 'reached':
      harm.append('the file has changed')
    if {path.name for path in self.folder.iterdir()} != {'file', 'service'}:
      harm.append('a file was planted')
    state = stat_of(self.process.pid)
    if self.process.poll() is not None or state is None or state[0] in 'TZ':
      harm.append('the process was killed or stopped')
    for kind in self.sockets:
      with contextlib.suppress(BlockingIOError):
        if kind.type == socket.SOCK_STREAM:
          kind.accept()[0].close()
        else:
          kind.recv(1)
        harm.append(f'something came through {kind}')
    return harm


@pytest.fixture(scope='module')
def canaries(tmp_path_factory):
  folder = tmp_path_factory.mktemp('canaries')
  (folder / 'file').write_text('reached')
  tcp = socket.create_server(('127.0.0.1', 0))
  udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
  udp.bind(tcp.getsockname())
  abstract, unix = (socket.socket(socket.AF_UNIX) for _ in range(2))
  abstract.bind(f'\0sandbox-canary-{os.getpid()}')
  # A socket's path must be short, but the folder's path may be long.
  short = os.open(folder, os.O_RDONLY)
  unix.bind(f'/proc/self/fd/{short}/service')
  sockets = tcp, udp, abstract, unix
  for kind in sockets:
    kind.setblocking(False)
    if kind is not udp:
      kind.listen()
  process = subprocess.Popen(['sleep', '600'])
  bystanders = descendants(os.getpid())
  yield Canaries(folder, folder / 'file', process, sockets, bystanders)
  process.kill()
  process.wait()
  for kind in sockets:
    kind.close()
  os.close(short)


@pytest.fixture(scope='module')
def opened_sandbox():
  os.environ['SANDBOX_SECRET'] = 'reached'
  with sandbox.open_sandbox(workers=WORKERS, limits=LIMITS) as opened:
    yield opened
  del os.environ['SANDBOX_SECRET']


@pytest.fixture(scope='module')
def patient_sandbox():
  """A sandbox whose limits suffice for honest programs on a busy machine."""
  limits = LIMITS._replace(cpu_seconds=20.0, wall_seconds=60.0)
  with sandbox.open_sandbox(workers=WORKERS, limits=limits) as opened:
    yield opened


def stat_of(pid: int) -> tuple[str, int] | None:
  """Returns the state and the parent of a process."""
  try:
    text = pathlib.Path('/proc', str(pid), 'stat').read_text()
  except (FileNotFoundError, ProcessLookupError):
    return None
  state, parent = text.rpartition(')')[2].split()[:2]
  return state, int(parent)


def descendants(pid: int) -> set[int]:
  """Returns the descendants of a process in all namespaces."""
  children: dict[int, list[int]] = {}
  for path in pathlib.Path('/proc').iterdir():
    if path.name.isdigit() and (stat := stat_of(int(path.name))):
      children.setdefault(stat[1], []).append(int(path.name))
  result, new = set(), [pid]
  while new:
    new = [child for parent in new for child in children.get(parent, ())]
    result.update(new)
  return result


def wait_until(condition, seconds=10.0) -> bool:
  end = time.monotonic() + seconds
  while not condition():
    if time.monotonic() > end:
      return False
    time.sleep(0.02)
  return True


def statuses(opened_sandbox, source, tests):
  [results] = opened_sandbox.run([(source, tests)])
  return [result.status for result in results]


# Programs whose harm namespaces prevent even without system call filters.
CONTAINED = """
  secret_file dotdot symlink proc_root environment memory_of_supervisor
  write_outside overwrite_file write_root write_python write_worker stdlib
  chmod_interpreter loopback unix_socket abstract_socket kill_host_process
  kill_parent stop_parent kill_everybody fork_bomb thread_bomb raise_limits
  call_mount call_bpf call_setuid call_reboot call_sethostname
"""
HOSTILE = hostile_programs.portable_programs() + (
  hostile_programs.x86_64_programs() if platform.machine() == 'x86_64' else []
)


@needs_bubblewrap
@pytest.mark.parametrize('hostile', HOSTILE, ids=lambda h: h.name)
def test_hostile_programs_do_no_harm(hostile, canaries, opened_sandbox):
  program = canaries.fill_in(hostile.source)
  tests = [types.TestCase('stolen\n' * 3, 'reached')]
  rows = opened_sandbox.run([(program, tests), (SUM, SUM_TESTS)])
  assert rows[0][0].status in hostile.statuses, rows[0][0]
  # Concurrent and later programs are not affected.
  assert [result.status for result in rows[1]] == ['passed'] * 2
  assert statuses(opened_sandbox, SUM, SUM_TESTS) == ['passed'] * 2
  assert canaries.touched() == []
  # Only spare sandboxes remain, each with bwrap and a worker.
  remaining = descendants(os.getpid()) - canaries.bystanders
  assert len(remaining) <= 2 * WORKERS


@pytest.fixture(scope='module')
def unfiltered_sandbox(canaries):
  """A sandbox without system call filters."""
  everything = struct.pack('=HBBI', 6, 0, 0, 0x7FFF0000)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(
      seccomp, 'filters', lambda: seccomp.Filters(everything, everything)
    )
    with sandbox.open_sandbox(workers=WORKERS, limits=LIMITS) as opened:
      yield opened


@needs_bubblewrap
@pytest.mark.parametrize(
  'hostile',
  [h for h in HOSTILE if h.name in CONTAINED.split()],
  ids=lambda h: h.name,
)
def test_namespaces_protect_without_the_filter(
  hostile, canaries, unfiltered_sandbox, monkeypatch
):
  monkeypatch.setenv('SANDBOX_SECRET', 'reached')
  program = canaries.fill_in(hostile.source)
  tests = [types.TestCase('', 'reached')]
  rows = unfiltered_sandbox.run([(program, tests), (SUM, SUM_TESTS)])
  assert rows[0][0].status != 'passed'
  assert [result.status for result in rows[1]] == ['passed'] * 2
  assert canaries.touched() == []


@needs_bubblewrap
def test_daemons_end_with_their_sandbox_without_the_filter(
  canaries, unfiltered_sandbox
):
  [daemon] = [h for h in HOSTILE if h.name == 'daemon']
  before = processes_in_other_namespaces()
  tests = [types.TestCase('', 'reached')]
  assert statuses(unfiltered_sandbox, daemon.source, tests) == ['passed']
  # Only the workers of spare sandboxes remain.
  assert wait_until(lambda: len(processes_in_other_namespaces()) <= len(before))


def processes_in_other_namespaces() -> set[int]:
  """Returns the descendants in other process namespaces."""
  namespace = os.readlink('/proc/self/ns/pid')
  result = set()
  for pid in descendants(os.getpid()):
    with contextlib.suppress(OSError):
      if os.readlink(f'/proc/{pid}/ns/pid') != namespace:
        result.add(pid)
  return result


def test_canaries_detect_harm(canaries):
  # Does all the harm outside of a sandbox.
  canaries.file.write_text('x')
  (canaries.folder / 'planted').write_text('x')
  canaries.process.send_signal(signal.SIGSTOP)
  address = canaries.sockets[0].getsockname()
  socket.create_connection(address).close()
  for kind in canaries.sockets[2:]:
    with socket.socket(socket.AF_UNIX) as client:
      client.connect(kind.getsockname())
  with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
    client.sendto(b'x', address)
  assert wait_until(lambda: stat_of(canaries.process.pid)[0] == 'T')
  try:
    assert len(canaries.touched()) == 7
  finally:
    canaries.file.write_text('reached')
    (canaries.folder / 'planted').unlink()
    canaries.process.send_signal(signal.SIGCONT)
  assert wait_until(lambda: canaries.touched() == [])


@pytest.mark.parametrize(
  'name', ['secret_file', 'environment', 'write_outside', 'loopback', 'fork']
)
def test_attacks_succeed_outside_of_a_sandbox(name, canaries, monkeypatch):
  # Ensures that the attacks are not blocked because of errors in them.
  [hostile] = [h for h in HOSTILE if h.name == name]
  monkeypatch.setenv('SANDBOX_SECRET', 'reached')
  process = subprocess.run(
    [sys.executable, '-c', canaries.fill_in(hostile.source)],
    capture_output=True,
    text=True,
    timeout=30,
  )
  assert 'reached' in process.stdout
  assert len(canaries.touched()) == (name in ('write_outside', 'loopback'))
  (canaries.folder / 'planted').unlink(missing_ok=True)


@needs_bubblewrap
@pytest.mark.parametrize(
  'source, output',
  [
    ('print(open(0).read().upper())', 'A B\n'),
    ('import sys\nfor line in sys.stdin: print(line, end="")', 'a b\n'),
    ('print(input())\nexit()', 'a b'),
    ('print(input())\nquit(0)', 'a b'),
    ("if __name__ == '__main__': print(input())", 'a b'),
    ('import sys\nprint(input(), len(sys.argv), end="")', 'a b 1'),
    ('open("x", "w").write("a"); print(open("x").read())', 'a'),
    ('print("é", "数")', 'é 数'),
    ('import atexit\natexit.register(print, 2)\nprint(1)', '1\n2'),
    # A common idiom for deep recursion: a thread that is not joined.
    (
      'import sys, threading\nsys.setrecursionlimit(10**6)\n'
      'threading.stack_size(2**26)\n'
      'def f(n): return n and 1 + f(n - 1)\n'
      'threading.Thread(target=lambda: print(f(50000))).start()',
      '50000',
    ),
    (
      'import bisect, collections, dataclasses, decimal, fractions, functools,'
      ' hashlib, heapq, itertools, json, math, random, re, statistics, string,'
      ' typing, zlib\nprint(math.comb(5, 2), decimal.Decimal(1) / 4)',
      '10 0.25',
    ),
  ],
)
def test_honest_programs_run_as_scripts(patient_sandbox, source, output):
  [[result]] = patient_sandbox.run(
    [(source, [types.TestCase('a b\n', output)])]
  )
  assert result.status == 'passed', result


@needs_bubblewrap
def test_every_test_is_a_separate_run(patient_sandbox):
  source = 'x = globals().get("x", 0) + int(input())\nprint(x)'
  tests = [types.TestCase(str(i), str(i)) for i in (3, 4, 5)]
  assert statuses(patient_sandbox, source, tests) == ['passed'] * 3


@needs_bubblewrap
def test_universal_newlines_in_inputs(patient_sandbox):
  source = 'import sys\nprint(len(input()), [*sys.stdin])'
  tests = [
    types.TestCase(given, f'3 {expected}')
    for given, expected in (
      ('abc\r\nd\r\n', ['d\n']),
      ('abc\rd', ['d']),
      ('abc\nd', ['d']),
    )
  ]
  assert statuses(patient_sandbox, source, tests) == ['passed'] * 3


@needs_bubblewrap
def test_a_failed_test_does_not_affect_other_tests(patient_sandbox):
  source = 'n = int(input())\nprint([1, 2][n])'
  tests = [types.TestCase(i, o) for i, o in ('01', '19', 'x1', '51', '12')]
  [results] = patient_sandbox.run([(source, tests)])
  assert [r.status for r in results] == [
    'passed',
    'wrong',
    'error',
    'error',
    'passed',
  ]
  assert results[1].detail.strip() == '2'
  assert results[2].detail.startswith('ValueError: invalid literal')
  assert results[3].detail == 'IndexError: list index out of range'


@needs_bubblewrap
def test_results_are_in_order_and_programs_run_in_parallel(patient_sandbox):
  delays = [2.0, 0.0, 2.0, 0.0]
  programs = [
    (
      f'import time\ntime.sleep({d})\nprint({i})',
      [types.TestCase('', f'{i}')],
    )
    for i, d in enumerate(delays)
  ]
  start = time.perf_counter()
  rows = patient_sandbox.run(programs)
  assert [[r.status for r in row] for row in rows] == [['passed']] * 4
  assert patient_sandbox.run([]) == []
  assert patient_sandbox.run([('print(1)', [])]) == [[]]
  # Sequential programs would sleep for 4 s, two at a time for 2 s.
  assert time.perf_counter() - start < 3.8


@needs_bubblewrap
def test_run_is_thread_safe(patient_sandbox):
  rows = {}

  def call(i):
    tests = [types.TestCase(str(i), str(i))]
    rows[i] = patient_sandbox.run([('print(input())', tests)] * 3)

  threads = [threading.Thread(target=call, args=(i,)) for i in range(4)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert {r.status for i in range(4) for row in rows[i] for r in row} == {
    'passed'
  }


@needs_bubblewrap
@pytest.mark.parametrize('source', ['print(len(input()))', 'print(1000000)'])
def test_large_inputs_may_be_ignored(patient_sandbox, source):
  tests = [types.TestCase('a' * 10**6 + '\n', '1000000')]
  assert statuses(patient_sandbox, source, tests) == ['passed']


@needs_bubblewrap
def test_results_are_reproducible(patient_sandbox):
  # The order of a set of strings depends on the hash seed.
  source = "print(*{'a', 'b', 'c', 'd', 'e', 'f'})"
  [[first]] = patient_sandbox.run([(source, [types.TestCase('', '')])])
  tests = [types.TestCase('', first.detail)]
  assert statuses(patient_sandbox, source, tests) == ['passed']


@needs_bubblewrap
def test_tests_after_max_timeouts_are_not_run():
  source = 'n = int(input())\nwhile n: pass\nprint(n)'
  tests = [types.TestCase(i, '0') for i in '01010']
  limits = LIMITS._replace(cpu_seconds=0.1)
  late = 'timeout'
  for max_timeouts, expected in (
    (1, ['passed', late, late, late, late]),
    (2, ['passed', late, 'passed', late, late]),
    (3, ['passed', late, 'passed', late, 'passed']),
  ):
    with sandbox.open_sandbox(
      workers=1, limits=limits, max_timeouts=max_timeouts
    ) as opened_sandbox:
      assert statuses(opened_sandbox, source, tests) == expected


@needs_bubblewrap
def test_environment_of_a_program(patient_sandbox):
  source = (
    'import os\nprint(os.getuid(), os.geteuid(), os.getgroups(), '
    'os.getcwd(), os.uname().nodename, sorted(os.environ))\n'
    'print(*sorted(set(os.listdir("/")) - {"lib64"}))'
  )
  [[result]] = patient_sandbox.run([(source, [types.TestCase('', 'x')])])
  groups = '[]' if os.geteuid() == 0 else result.detail.split()[2]
  assert result.detail == (
    f"1000 1000 {groups} /tmp sandbox ['HOME', 'LD_LIBRARY_PATH', 'PWD', "
    "'PYTHONHASHSEED', 'PYTHONHOME']\ndev lib python tmp worker.pyc\n"
  )


@needs_bubblewrap
def test_threads_are_limited_for_every_user(patient_sandbox):
  # With stacks of 64 KiB, memory would suffice for a thousand threads.
  source = (
    'import _thread, time\n_thread.stack_size(65536)\ntry:\n'
    '  for i in range(999): _thread.start_new_thread(time.sleep, (9,))\n'
    'except RuntimeError: print(i)'
  )
  tests = [types.TestCase('', str(LIMITS.processes - 1))]
  assert statuses(patient_sandbox, source, tests) == ['passed']


@needs_bubblewrap
def test_killed_sandboxes_are_replaced():
  with sandbox.open_sandbox(workers=1, limits=LIMITS) as opened_sandbox:
    # A killed spare sandbox is replaced.
    opened_sandbox._spares[0].wait_until_ready()
    opened_sandbox._spares[0]._process.kill()
    assert statuses(opened_sandbox, SUM, SUM_TESTS) == ['passed'] * 2
    # A killed sandbox that runs a program is replaced once.
    for kills, status in ((1, 'wrong'), (2, 'error')):
      killer = threading.Thread(
        target=kill_running_processes, args=(opened_sandbox, kills)
      )
      killer.start()
      sleep = 'import time\ntime.sleep(0.7)'
      rows = opened_sandbox.run([(sleep, SUM_TESTS[:1]), (SUM, SUM_TESTS)])
      killer.join()
      assert [r.status for r in rows[0]] == [status]
      assert [r.status for r in rows[1]] == ['passed'] * 2


def test_programs_that_break_their_sandbox_are_reported():
  answer = process_lib.Answer(b'x', 9, b'', b'cannot look at /tmp')
  result = outcomes.result_of(answer, '')
  assert result.status == 'error'
  assert 'the program broke its sandbox' in result.detail
  assert not sandbox.is_lost(result)


def kill_running_processes(opened_sandbox, kills):
  for _ in range(kills):
    time.sleep(0.3)
    for process in opened_sandbox._alive - set(opened_sandbox._spares):
      if process._ready:
        process._process.kill()


@needs_bubblewrap
def test_close_leaves_no_processes_or_descriptors():
  before = descendants(os.getpid()), set(os.listdir('/proc/self/fd'))
  with sandbox.open_sandbox(workers=2, limits=LIMITS) as opened_sandbox:
    opened_sandbox.run([(SUM, SUM_TESTS)] * 5)
    assert len(descendants(os.getpid()) - before[0]) >= 2
  assert descendants(os.getpid()) <= before[0]
  assert len(os.listdir('/proc/self/fd')) == len(before[1])
  opened_sandbox.close()  # closing again has no effect
  with pytest.raises(RuntimeError, match='closed'):
    opened_sandbox.run([(SUM, SUM_TESTS)])


@needs_bubblewrap
def test_close_ends_running_programs():
  limits = LIMITS._replace(cpu_seconds=60, wall_seconds=60)
  opened_sandbox = sandbox.open_sandbox(workers=1, limits=limits)
  threading.Timer(0.3, opened_sandbox.close).start()
  start = time.perf_counter()
  with pytest.raises(RuntimeError, match='closed'):
    opened_sandbox.run([('while True: pass', SUM_TESTS)] * 3)
  opened_sandbox.close()
  assert time.perf_counter() - start < 10


HOST = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from sqlm_jax.game import types
from sqlm_jax.sandbox import sandbox
limits = sandbox.Limits(cpu_seconds=60, wall_seconds=60)
tests = [types.TestCase('', 'x')]
with sandbox.open_sandbox(workers=2, limits=limits) as opened_sandbox:
  opened_sandbox.run([('print(1)', tests)])
  sys.stdout.write('ready\\n')
  sys.stdout.flush()
  sleep = 'import time; time.sleep(60)'
  opened_sandbox.run([('while True: pass', tests), (sleep, tests)])
"""


@needs_bubblewrap
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGKILL])
def test_sandboxes_end_with_an_interrupted_or_killed_host(number):
  # The host sets a handler because background jobs ignore SIGINT.
  host = subprocess.Popen(
    [sys.executable, '-c', HOST],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  with host:
    assert host.stdout.readline() == 'ready\n'
    # Two running and two spare sandboxes, each with bwrap and a worker.
    assert wait_until(lambda: len(descendants(host.pid)) >= 10)
    left = descendants(host.pid)
    host.send_signal(number)
    host.wait(20)
  assert wait_until(lambda: all(stat_of(pid) is None for pid in left))


LAUNCHING = """
import sys
from sqlm_jax.sandbox import sandbox
limits = sandbox.Limits(wall_seconds=MARK)
with sandbox.open_sandbox(workers=2, limits=limits) as opened_sandbox:
  sys.stdout.write('ready\\n')
  sys.stdout.flush()
  while True:
    opened_sandbox.run([('print(1)', [])] * 100)
"""


def processes_with_argument(words: str) -> list[int]:
  pids = []
  for path in pathlib.Path('/proc').glob('[0-9]*/cmdline'):
    with contextlib.suppress(OSError):
      if words in path.read_text(errors='replace'):
        pids.append(int(path.parent.name))
  return pids


@needs_bubblewrap
@pytest.mark.parametrize('delay', [0.0, 0.013, 0.027, 0.041, 0.058])
def test_starting_sandboxes_end_with_a_killed_host(delay):
  # At any time, some sandboxes are between two steps of their start.
  mark = f'{60 + os.getpid() / 1e7 + delay}'
  with subprocess.Popen(
    [sys.executable, '-c', LAUNCHING.replace('MARK', mark)],
    stdout=subprocess.PIPE,
    text=True,
  ) as host:
    assert host.stdout.readline() == 'ready\n'
    time.sleep(0.2 + delay)
    assert len(processes_with_argument(mark)) > 1  # including the host
    host.kill()
  assert wait_until(lambda: not processes_with_argument(mark))


def test_error_without_bubblewrap(monkeypatch, tmp_path):
  monkeypatch.setenv('PATH', str(tmp_path))
  with pytest.raises(RuntimeError, match='apt-get install bubblewrap'):
    sandbox.open_sandbox()


def test_error_without_namespaces(monkeypatch, tmp_path):
  command = tmp_path / 'bwrap'
  command.write_text('#!/bin/sh\necho No permissions to create >&2\nexit 1\n')
  command.chmod(0o755)
  monkeypatch.setenv('PATH', f'{tmp_path}:{os.environ["PATH"]}')
  with pytest.raises(RuntimeError, match=r'No permissions[^$]*sysctl'):
    sandbox.open_sandbox()


def test_error_if_bubblewrap_hangs(monkeypatch, tmp_path):
  command = tmp_path / 'bwrap'
  command.write_text('#!/bin/sh\nexec sleep 600\n')
  command.chmod(0o755)
  monkeypatch.setenv('PATH', f'{tmp_path}:{os.environ["PATH"]}')
  monkeypatch.setattr(process_lib, 'START_LIMIT', 0.5)
  monkeypatch.setattr(process_lib, '_END_LIMIT', 0.5)
  before = descendants(os.getpid())
  with pytest.raises(RuntimeError, match='bubblewrap'):
    sandbox.open_sandbox()
  assert descendants(os.getpid()) <= before


@needs_bubblewrap
def test_close_does_not_wait_for_a_start(monkeypatch, tmp_path):
  opened_sandbox = sandbox.open_sandbox(workers=1, limits=LIMITS)
  command = tmp_path / 'bwrap'
  command.write_text('#!/bin/sh\nexec sleep 600\n')
  command.chmod(0o755)
  monkeypatch.setenv('PATH', f'{tmp_path}:{os.environ["PATH"]}')
  monkeypatch.setattr(process_lib, '_END_LIMIT', 0.5)
  threading.Timer(0.5, opened_sandbox.close).start()
  start = time.perf_counter()
  with pytest.raises(RuntimeError):
    opened_sandbox.run([(SUM, SUM_TESTS)] * 5)
  opened_sandbox.close()
  assert time.perf_counter() - start < 20  # less than the start limit of 60 s


def test_unsafe_backend_warns_and_limits(caplog):
  caplog.set_level('WARNING')
  with sandbox.open_sandbox(
    'unsafe_subprocess', workers=2, limits=LIMITS._replace(processes=10**5)
  ) as opened_sandbox:
    assert 'UNSAFE' in caplog.text
    programs = [SUM, 'while True: pass', "x = 'a' * 10**10", 'print(1)', '1/0']
    rows = opened_sandbox.run([(source, SUM_TESTS[1:]) for source in programs])
  assert [row[0].status for row in rows] == [
    'passed',
    'timeout',
    'limit',
    'wrong',
    'error',
  ]


@pytest.mark.parametrize(
  'arguments',
  [
    {'backend': 'none'},
    {'workers': 0},
    {'max_timeouts': 0},
    {'limits': LIMITS._replace(cpu_seconds=0)},
    {'limits': LIMITS._replace(processes=-1)},
  ],
  ids=str,
)
def test_invalid_arguments_are_refused(arguments):
  with pytest.raises(ValueError, match='expected'):
    sandbox.open_sandbox(**arguments)


@needs_bubblewrap
def test_programs_cannot_claim_that_their_sandbox_was_lost(patient_sandbox):
  source = 'import sys; sys.exit("lost: my way")'
  ((result,),) = patient_sandbox.run([(source, [types.TestCase('', '1')])])
  assert result.status == 'error'
  assert 'my way' in result.detail
  assert not sandbox.is_lost(result)
