"""A pool of worker processes that can be killed, for work that may hang.

A worker is a fresh interpreter with a socket on which it receives tasks and
sends results, one line of JSON each. Workers are not forked because JAX has
already started threads. They are not started by multiprocessing because it
would import the main script, and JAX, into every worker. They do not use pipes
because other processes can use up a user's pipe buffers, and a pipe then holds
less than a task.
"""

import collections
import contextlib
import importlib
import json
import os
import select
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

_MAX_TASK_BYTES = 256 * 1024  # bytes
_START_LIMIT = 60.0  # seconds until a worker is ready; busy machines are slow
_END_LIMIT = 10.0  # seconds for the kernel to end a killed process
_MAX_FAILED_STARTS = 3  # consecutive, per worker, before an error is raised


class Result(NamedTuple):
  """The result of a task."""

  value: Any = None  # a JSON value
  reason: str = ''  # 'timeout', 'crash', 'memory', 'error' or 'late'


class Pool:
  """A pool whose workers are alive between `start` and `close`.

  A worker that exceeds the time limit or dies is replaced, and its task is
  retried once, because the machine or a user may have ended the worker. The
  pool is thread-safe; concurrent calls wait for each other.

  Args:
    function: 'package.module:name' of a function that maps a JSON value to a
      JSON value.
    workers: the number of processes.
    time_limit: seconds for one task.
    call_limit: seconds for all tasks of a call. Tasks that have not started by
      then are given up as 'late'.
    memory_limit: bytes of address space of a worker. With this limit, a worker
      also cannot write files. None, for trusted code, disables both limits.
    given_up: counts the tasks that failed twice, by reason, and the tasks that
      were 'late'.
    warm_up: a task that a worker runs before its first task and outside of all
      limits, so that slow imports do not count against a task. None for no
      warm-up.
  """

  def __init__(
    self,
    function: str,
    *,
    workers: int = 2,
    time_limit: float = 2.0,
    call_limit: float = 60.0,
    memory_limit: int | None = 2**30,
    given_up: collections.Counter[str] | None = None,
    warm_up: Any = None,
  ):
    if workers < 1:
      raise ValueError(f'workers={workers!r}: expected at least 1')
    if min(time_limit, call_limit) <= 0:
      raise ValueError(
        f'{time_limit=}, {call_limit=}: expected more than 0 seconds'
      )
    self._arguments = (
      function,
      str(time_limit),
      str(memory_limit or 0),
      json.dumps(warm_up),
    )
    self._given_up = collections.Counter() if given_up is None else given_up
    self._call_limit = call_limit
    self._time_limit = time_limit
    self._size = workers
    self._workers: list[_Worker] = []
    self._failed_starts = 0
    self._lock = threading.Lock()

  def start(self) -> 'Pool':
    """Starts the workers without waiting for their imports."""
    with self._lock:
      if not self._workers:
        self._workers = [_Worker(self._arguments) for _ in range(self._size)]
    return self

  def close(self) -> None:
    """Kills the workers and waits until they are gone."""
    with self._lock:
      for worker in self._workers:
        worker.kill()
      self._workers = []

  def __enter__(self) -> 'Pool':
    return self.start()

  def __exit__(self, *error: object) -> None:
    self.close()

  def pids(self) -> tuple[int, ...]:
    """Returns the process ids of the workers, () if the pool is closed."""
    return tuple(worker.process.pid for worker in self._workers)

  def map(self, tasks: Sequence[Any]) -> list[Result]:
    """Calls the function on every task.

    Returns:
      One result for each task, in order.

    Raises:
      RuntimeError: if the pool is closed, or if workers do not start.
      ValueError: if a task is too long.
    """
    lines = [json.dumps(task).encode() + b'\n' for task in tasks]
    if any(len(line) > _MAX_TASK_BYTES for line in lines):
      raise ValueError(f'a task has more than {_MAX_TASK_BYTES} bytes')
    with self._lock:
      if not self._workers:
        raise RuntimeError('the pool is closed; call start() first')
      try:
        return self._map(lines)
      except BaseException:
        self._drop_tasks()  # otherwise the next call would read their answers
        raise

  def _map(self, lines: Sequence[bytes]) -> list[Result]:
    results: dict[int, Result] = {}
    waiting = collections.deque(enumerate(lines))
    tried_twice = set()
    end = time.monotonic() + self._call_limit
    while len(results) < len(lines):
      if waiting and time.monotonic() > end:
        results.update((index, Result(reason='late')) for index, _ in waiting)
        self._given_up['late'] += len(waiting)
        waiting.clear()
      for worker in self._workers:
        if (
          waiting
          and worker.idle()
          and worker.send(*waiting[0], time_limit=self._time_limit)
        ):
          waiting.popleft()
      self._wait()
      for slot, worker in enumerate(self._workers):
        lost = self._collect(slot, worker, results)
        if lost is None:
          continue
        index, reason = lost
        if index in tried_twice or time.monotonic() > end:
          results[index] = Result(reason=reason)
          self._given_up[reason] += 1
        else:
          tried_twice.add(index)
          waiting.append((index, lines[index]))
    return [results[index] for index in range(len(lines))]

  def _wait(self) -> None:
    """Waits until a worker answers, dies or exceeds its deadline."""
    poll = select.poll()  # unlike select, it accepts any file descriptor
    for worker in self._workers:
      poll.register(worker.socket, select.POLLIN)
    late = min(worker.deadline for worker in self._workers)
    poll.poll(max(0.0, min(late - time.monotonic(), 1.0)) * 1000)

  def _collect(
    self, slot: int, worker: '_Worker', results: dict
  ) -> tuple[int, str] | None:
    """Collects one worker's answers and replaces the worker if needed.

    Returns:
      The index of the task that was lost and the reason, or None.
    """
    lines, alive = worker.receive()
    for line in lines:
      if worker.ready:
        results[worker.task] = result = Result(*json.loads(line))
        worker.rest()
        worker.spent = result.reason == 'memory'
      else:
        self._failed_starts = 0
        worker.rest()
        worker.ready = True
    late = time.monotonic() > worker.deadline
    if alive and not late and not worker.spent:
      return None
    lost = None
    if not worker.ready:
      self._count_failed_start()
    elif worker.task is not None:
      lost = worker.task, 'timeout' if alive else 'crash'
    self._replace(slot)
    return lost

  def _count_failed_start(self) -> None:
    self._failed_starts += 1
    if self._failed_starts >= _MAX_FAILED_STARTS * self._size:
      command = shlex.join(_command(self._arguments))
      raise RuntimeError(f'workers do not start; see the output of: {command}')

  def _replace(self, slot: int) -> None:
    self._workers[slot].kill()
    self._workers[slot] = _Worker(self._arguments)

  def _drop_tasks(self) -> None:
    for slot, worker in enumerate(self._workers):
      if worker.task is not None:
        self._replace(slot)


def _command(arguments: Sequence[str]) -> list[str]:
  return [sys.executable, '-W', 'ignore', '-m', __name__, *arguments]


class _Worker:
  """The parent's handle of a worker process."""

  def __init__(self, arguments: Sequence[str]):
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    self.socket, theirs = socket.socketpair()
    with theirs:
      self.process = subprocess.Popen(
        _command(arguments),
        stdin=theirs.fileno(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, 'PYTHONPATH': path},
        start_new_session=True,  # Ctrl-C reaches only the parent
      )
    self.ready = False
    self.spent = False  # True if it ran out of memory and must be replaced
    self.task: int | None = None
    self.deadline = time.monotonic() + _START_LIMIT
    self._unread = b''

  def idle(self) -> bool:
    return self.ready and self.task is None

  def rest(self) -> None:
    self.task, self.deadline = None, float('inf')

  def send(self, task: int, line: bytes, *, time_limit: float) -> bool:
    """Sends a task; returns False if the idle worker died or was stopped."""
    try:
      self.socket.settimeout(time_limit)
      self.socket.sendall(line)
    except TimeoutError:  # the worker is stopped; `_collect` will replace it
      self.deadline = 0.0
      return False
    except OSError:
      return False
    self.task, self.deadline = task, time.monotonic() + time_limit
    return True

  def receive(self) -> tuple[list[bytes], bool]:
    """Returns the complete lines that have arrived, and False if it died."""
    self.socket.setblocking(False)
    alive = False
    try:
      while chunk := self.socket.recv(_MAX_TASK_BYTES):
        self._unread += chunk
    except BlockingIOError:
      alive = True
    except ConnectionResetError:  # the worker ended without reading a task
      pass
    *lines, self._unread = self._unread.split(b'\n')
    return lines, alive

  def kill(self) -> None:
    self.process.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):
      self.process.wait(_END_LIMIT)
    self.socket.close()


def main(name: str, time_limit: str, memory_limit: str, warm_up: str) -> None:
  """Runs a worker, which answers tasks until its input ends."""
  channel = socket.socket(fileno=os.dup(0))
  null = os.open(os.devnull, os.O_RDWR)
  os.dup2(null, 0)  # a function may read or print
  module, attribute = name.split(':')
  function = getattr(importlib.import_module(module), attribute)
  if (task := json.loads(warm_up)) is not None:
    function(task)
  if int(memory_limit):
    _limit_resources(int(memory_limit))
  channel.sendall(b'ready\n')
  for line in channel.makefile('rb'):
    # Ends a task that hangs if the parent is no longer there to kill it.
    signal.setitimer(signal.ITIMER_REAL, 2 * float(time_limit) + 1)
    result = _call(function, json.loads(line))
    signal.setitimer(signal.ITIMER_REAL, 0)
    channel.sendall(json.dumps(result).encode() + b'\n')


def _call(function: Callable[[Any], Any], task: Any) -> Result:
  try:
    return Result(function(task))
  except MemoryError:
    return Result(reason='memory')
  except Exception:
    return Result(reason='error')


def _limit_resources(memory_limit: int) -> None:
  import resource  # not available on Windows

  for kind, limit in (
    (resource.RLIMIT_AS, memory_limit),
    (resource.RLIMIT_CORE, 0),
    (resource.RLIMIT_FSIZE, 0),  # a worker writes no files
  ):
    _, hard = resource.getrlimit(kind)
    soft = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(kind, (soft, hard))


if __name__ == '__main__':
  main(*sys.argv[1:])
