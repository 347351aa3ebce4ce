"""Workers that hang, crash or are killed."""

import collections
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from sqlm_jax.grading import pool

WAYS_TO_END = ('killed', 'hang', 'stopped')  # of a worker
MODULE = """
import os, signal, sys, time

def act(task):
  match task:
    case 'hang':
      while True: pass
    case 'hang in C':
      return len(str(9**(9**8)))
    case 'crash':
      os._exit(3)
    case 'killed':
      os.kill(os.getpid(), signal.SIGKILL)
    case 'stopped':
      os.kill(os.getpid(), signal.SIGSTOP)
    case 'recursion':
      return act_again(task)
    case 'memory':
      return len(bytearray(2**34))
    case 'print':
      print('noise'); os.write(1, b'noise')
      sys.stderr.write('noise')
    case 'write':
      open(os.environ['WOULD_BE'], 'w').write('x' * 10**5)
    case 'leave':
      sys.exit()
    case 'not JSON':
      return object()
    case ['once', mark, how]:
      try:
        os.mkdir(mark)
      except FileExistsError:
        return task
      return act(how)
    case ['sleep', seconds]:
      time.sleep(seconds)
    case 'pid':
      return os.getpid()
    case 'modules':
      return sorted(sys.modules)
  return task

def act_again(task):
  return act(task)
"""


@pytest.fixture(name='act', scope='module')
def act_fixture(tmp_path_factory):
  """Yields the name of a function that misbehaves on request."""
  path = tmp_path_factory.mktemp('modules')
  (path / 'misbehaving.py').write_text(MODULE)
  with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(path))
    patch.setenv('WOULD_BE', str(path / 'written'))
    yield 'misbehaving:act'
  written = path / 'written'
  assert not written.exists() or not written.read_text()


@pytest.fixture(name='workers', scope='module')
def workers_fixture(act):
  with pool.Pool(act, workers=2, time_limit=2.0) as workers:
    yield workers


def exists(pid):
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return False
  return True


def test_results_keep_the_order_of_the_tasks(workers):
  tasks = [*range(50), 'Straße', None, [1, {'a': 0.5}], '\n', '\x00']
  assert workers.map(tasks) == [pool.Result(task) for task in tasks]


def test_no_tasks(workers):
  assert workers.map([]) == []


@pytest.mark.parametrize(
  'task, reason',
  [
    ('hang', 'timeout'),
    ('hang in C', 'timeout'),
    ('stopped', 'timeout'),
    ('crash', 'crash'),
    ('killed', 'crash'),
    ('leave', 'crash'),
    ('not JSON', 'crash'),
    ('recursion', 'error'),
    ('memory', 'memory'),
  ],
)
def test_a_failing_task_does_not_affect_other_tasks(workers, task, reason):
  start = time.monotonic()
  results = workers.map([1, task, 2, 3])
  seconds = time.monotonic() - start
  assert [r.value for r in results] == [1, None, 2, 3]
  assert [r.reason for r in results] == ['', reason, '', '']
  assert (
    seconds < 30
  )  # the time limit is 2 s; the rest is a start on a busy machine
  assert workers.map(list(range(10))) == [pool.Result(i) for i in range(10)]


def test_a_failing_task_is_retried_once_and_counted(act, tmp_path):
  given_up = collections.Counter()
  with pool.Pool(act, workers=2, time_limit=0.5, given_up=given_up) as workers:
    marks = [str(tmp_path / name) for name in 'abc']
    tasks = [
      *(
        ['once', mark, how]
        for mark, how in zip(marks, WAYS_TO_END, strict=True)
      ),
      'hang',
      'killed',
      7,
    ]
    results = workers.map(tasks)
  # Those that failed once only were done by the second worker.
  assert [r.value for r in results] == [*tasks[:3], None, None, 7]
  assert [r.reason for r in results[3:]] == ['timeout', 'crash', '']
  assert given_up == {'timeout': 1, 'crash': 1}


def test_hanging_tasks_time_out_in_parallel(act):
  with pool.Pool(act, workers=4, time_limit=0.5) as workers:
    workers.map([0] * 40)  # waits until all workers are ready
    start = time.monotonic()
    results = workers.map([['sleep', 100]] * 4)
  assert [r.reason for r in results] == ['timeout'] * 4
  assert 0.5 <= time.monotonic() - start < 10


def test_call_limit(act):
  with pool.Pool(act, workers=2, time_limit=0.4, call_limit=1.0) as workers:
    workers.map([0] * 20)  # waits until all workers are ready
    start = time.monotonic()
    results = workers.map(['hang'] * 1000)
    seconds = time.monotonic() - start
    assert workers.map([5]) == [pool.Result(5)]
  assert 'late' in {r.reason for r in results} <= {'timeout', 'late'}
  assert 1.0 <= seconds < 10


def test_warm_up_does_not_count_against_the_time_limit(act):
  with pool.Pool(
    act, workers=1, time_limit=0.5, warm_up=['sleep', 1.5]
  ) as workers:
    assert workers.map([5, 6]) == [pool.Result(5), pool.Result(6)]


def test_output_of_a_task_is_discarded(workers, capfd):
  assert workers.map(['print', 5]) == [pool.Result('print'), pool.Result(5)]
  assert capfd.readouterr() == ('', '')


def test_workers_cannot_write_files(workers):
  (result,) = workers.map(['write'])
  assert result.reason in ('crash', 'error')  # the fixture checks the file


def test_workers_are_reused(workers):
  pids = {r.value for _ in range(5) for r in workers.map(['pid'] * 4)}
  assert pids <= set(workers.pids())


def test_task_of_a_killed_worker_is_retried(workers):
  workers.map([0, 0])
  victim, _ = workers.pids()
  timer = threading.Timer(0.2, os.kill, (victim, signal.SIGKILL))
  timer.start()
  results = workers.map([['sleep', 0.6], ['sleep', 0.6], 1, 2, 3])
  timer.join()
  # Another worker repeated its task.
  expected = [['sleep', 0.6], ['sleep', 0.6], 1, 2, 3]
  assert results == [pool.Result(value) for value in expected]
  assert victim not in workers.pids()


def test_workers_killed_while_idle_are_replaced(workers):
  workers.map([0, 0])
  for pid in workers.pids():
    os.kill(pid, signal.SIGKILL)
  time.sleep(0.1)
  assert workers.map([1, 2, 3]) == [pool.Result(i) for i in (1, 2, 3)]


def test_a_worker_stopped_while_idle_is_replaced(act):
  # The task is longer than a socket's buffer, so sending it blocks.
  with pool.Pool(act, workers=1, time_limit=1.0) as workers:
    workers.map([0])
    (stopped,) = workers.pids()
    os.kill(stopped, signal.SIGSTOP)
    long = 'x' * 250_000
    assert workers.map([long, 1]) == [pool.Result(long), pool.Result(1)]
    assert workers.pids() != (stopped,)


def test_map_is_thread_safe(workers):
  results = {}

  def call(name):
    results[name] = workers.map([name * 100 + i for i in range(20)])

  threads = [threading.Thread(target=call, args=(i,)) for i in range(4)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert results == {
    name: [pool.Result(name * 100 + i) for i in range(20)] for name in range(4)
  }


def test_workers_do_not_import_the_main_script_or_jax(workers):
  import jax.numpy as jnp

  jnp.ones(3).sum().block_until_ready()  # JAX has threads, so a fork would warn
  os.kill(workers.pids()[0], signal.SIGKILL)
  time.sleep(0.1)
  (result,) = workers.map(['modules'])
  assert not {'jax', 'numpy', 'pytest'} & set(result.value)


def test_no_process_outlives_the_pool(act):
  with pool.Pool(act, workers=3, time_limit=60) as workers:
    workers.map([0] * 9)
    pids = workers.pids()
    assert len(set(pids)) == 3
    assert all(exists(pid) for pid in pids)
  assert not any(exists(pid) for pid in pids)
  assert workers.pids() == ()


def test_closed_on_an_exception_and_restarted(act):
  workers = pool.Pool(act, workers=1)
  with pytest.raises(KeyError), workers:
    raise KeyError
  with pytest.raises(RuntimeError, match='closed'):
    workers.map([1])
  workers.close()  # closing again has no effect
  with workers:
    assert workers.map([1]) == [pool.Result(1)]


def test_results_of_an_interrupted_call_are_discarded(workers):
  """Results that arrive after Ctrl-C must not be read by the next call."""
  workers.map([0, 0])

  def interrupt(*_):
    raise KeyboardInterrupt

  before = signal.signal(signal.SIGALRM, interrupt)
  try:
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    with pytest.raises(KeyboardInterrupt):
      workers.map([['sleep', 0.5], ['sleep', 0.5]])
  finally:
    signal.signal(signal.SIGALRM, before)
  time.sleep(0.5)
  assert workers.map([7, 8, 9]) == [pool.Result(i) for i in (7, 8, 9)]


def test_workers_end_after_the_parent_is_killed(act, tmp_path):
  script = (
    'import os, signal, sys, threading\n'
    'from sqlm_jax.grading import pool\n'
    f'workers = pool.Pool({act!r}, workers=2, time_limit=0.5).start()\n'
    'workers.map([0, 0])\n'
    'sys.stdout.write(" ".join(map(str, workers.pids())))\n'
    'sys.stdout.flush()\n'
    'kill = lambda: os.kill(os.getpid(), signal.SIGKILL)\n'
    'threading.Timer(0.2, kill).start()\n'
    'workers.map(["hang"])\n'
  )
  process = subprocess.run(
    [sys.executable, '-c', script],
    env={**os.environ, 'PYTHONPATH': os.pathsep.join(filter(None, sys.path))},
    stdout=subprocess.PIPE,
    timeout=60,
  )
  assert process.returncode == -signal.SIGKILL
  pids = [int(pid) for pid in process.stdout.split()]
  assert len(pids) == 2
  late = time.monotonic() + 20
  while any(map(is_running, pids)) and time.monotonic() < late:
    time.sleep(0.05)
  assert not any(map(is_running, pids))


def is_running(pid):
  """Returns True if a process runs; an orphan may remain as a zombie."""
  try:
    status = pathlib.Path(f'/proc/{pid}/stat').read_text()
  except FileNotFoundError:
    return False
  return status.rpartition(')')[2].split()[0] != 'Z'


def test_import_errors_are_reported():
  with (
    pool.Pool('no_such_module:f', workers=1) as workers,
    pytest.raises(RuntimeError, match='no_such_module'),
  ):
    workers.map([1])


def test_too_long_tasks_are_refused(workers):
  with pytest.raises(ValueError, match='more than'):
    workers.map(['x' * 10**6])


@pytest.mark.parametrize(
  'options', [{'workers': 0}, {'time_limit': 0}, {'call_limit': 0}]
)
def test_bounds(options):
  with pytest.raises(ValueError, match='expected'):
    pool.Pool('math:sqrt', **options)
