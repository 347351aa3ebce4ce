"""Runs untrusted programs against unit tests.

Each program gets its own sandbox, created by bubblewrap: new namespaces, no
network, a file system that holds a Python interpreter and an empty directory,
resource limits, and a filter of system calls (`seccomp`). A sandbox starts
while earlier programs run, runs one program once for each test, and ends. The
output is compared outside; the expected output never enters a sandbox.

  with sandbox.open_sandbox(workers=2) as opened:
    results = opened.run([(source, tests), ...])  # [programs][tests]

A program runs as with `python program.py < input`: standard input is a file,
and the program ends as an interpreter does. It cannot start processes, open
sockets or pipes, see /proc, or write outside of its /tmp. See docs/sandbox.md.
"""

import collections
import concurrent.futures
import contextlib
import functools
import importlib.util
import logging
import marshal
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from sqlm_jax.game import types
from sqlm_jax.sandbox import bubblewrap, outcomes, seccomp, unit_tests
from sqlm_jax.sandbox import process as process_lib

Program = tuple[str, Sequence[types.TestCase]]

_log = logging.getLogger(__name__)
_WORKER = pathlib.Path(__file__).with_name('worker.py')
_CHILD = pathlib.Path(__file__).with_name('program.py')
# Seconds after the wall-clock limit before the worker is considered lost.
_GRACE = 10.0
_PAUSES = (0.1, 1.0, 4.0)  # seconds before a sandbox is started again
_PYC_HEAD = importlib.util.MAGIC_NUMBER + bytes(12)
_PYTHON = ['-S', '-s', '-P', '-B', '-X', 'utf8']


class Limits(NamedTuple):
  """Limits for one run of a program on one test."""

  cpu_seconds: float = 2.0  # all threads together
  wall_seconds: float = 4.0
  memory_bytes: int = 256 * 2**20  # address space, interpreter included
  processes: int = 8  # threads; new processes are always refused
  file_bytes: int = 2**20  # all files in /tmp from all runs of a program
  output_bytes: int = 2**20  # stdout and stderr together


def open_sandbox(
  backend: str = 'bubblewrap',
  *,
  workers: int = 2,
  limits: Limits | None = None,
  max_timeouts: int = 1,
) -> 'Sandbox':
  """Starts sandboxes and waits until the first one works.

  Args:
    backend: 'bubblewrap', or 'unsafe_subprocess', which limits resources but
      provides no isolation.
    workers: the number of programs that run at the same time. The same number
      of additional sandboxes is kept started in advance.
    limits: the limits for every run of every program.
    max_timeouts: after this number of timeouts of a program, its remaining
      tests are not run and count as timeouts.

  Raises:
    RuntimeError: if this machine cannot create sandboxes.
    ValueError: if an argument is out of range.
  """
  limits = limits or Limits()
  if min(limits) <= 0 or min(workers, max_timeouts) < 1:
    raise ValueError(
      f'{limits}, {workers=}, {max_timeouts=}: expected positive numbers'
    )
  if backend == 'bubblewrap':
    launch = functools.partial(_launch_bubblewrap, limits)
  elif backend == 'unsafe_subprocess':
    _log.warning('UNSAFE: Programs run as this user, without a sandbox.')
    launch = functools.partial(_launch_unsafe, limits)
  else:
    raise ValueError(
      f"{backend=}: expected 'bubblewrap' or 'unsafe_subprocess'"
    )
  return Sandbox(
    launch, workers=workers, limits=limits, max_timeouts=max_timeouts
  )


class Sandbox:
  """Runs programs until it is closed; create it with `open_sandbox`."""

  def __init__(
    self,
    launch: Callable[[], process_lib.Process],
    *,
    workers: int,
    limits: Limits,
    max_timeouts: int,
  ):
    self._launch_one, self._limits = launch, limits
    self._max_timeouts = max_timeouts
    self._lock = threading.Lock()
    self._alive: set[process_lib.Process] = set()
    self._spares: collections.deque[process_lib.Process] = collections.deque()
    self._closed = threading.Event()
    self._threads = concurrent.futures.ThreadPoolExecutor(workers, 'sandbox')
    try:
      self._threads.submit(self._add_spare).result()
      self._spares[0].wait_until_ready()
      for _ in range(workers - 1):
        self._threads.submit(self._add_spare).result()
    except BaseException:
      self.close()
      raise

  def run(self, programs: Sequence[Program]) -> list[list[types.Result]]:
    """Runs programs in parallel.

    Returns:
      Results [programs][tests], in order. Nothing that a program does raises
      an exception.

    Raises:
      RuntimeError: if the sandbox is closed, or if sandboxes no longer start.
    """
    if self._closed.is_set():
      raise RuntimeError('the sandbox is closed')
    futures = [self._threads.submit(self._run_program, *p) for p in programs]
    try:
      return [future.result() for future in futures]
    except concurrent.futures.CancelledError:
      raise RuntimeError('the sandbox was closed') from None
    finally:
      for future in futures:
        future.cancel()

  def close(self) -> None:
    """Ends all programs and returns when no process is left."""
    with self._lock:
      self._closed.set()
      alive = list(self._alive)
    self._threads.shutdown(wait=False, cancel_futures=True)
    for process in alive:
      process.hang_up()
    for process in alive:
      process.end()
    self._threads.shutdown()  # threads that use a process close it
    for process in alive:
      process.close()

  def __enter__(self) -> 'Sandbox':
    return self

  def __exit__(self, *error: object) -> None:
    self.close()

  def _add_spare(self) -> None:
    try:
      process = self._launch_one()
    except (OSError, subprocess.SubprocessError) as error:
      raise RuntimeError(
        f'cannot start a sandbox: {error}\n{process_lib.HOW_TO}'
      ) from error
    with self._lock:  # `close` must see every process
      closed = self._closed.is_set()
      if not closed:
        self._alive.add(process)
    if closed:
      process.close()
      raise RuntimeError('the sandbox was closed')
    try:
      process.begin()
    except RuntimeError:
      self._discard(process)
      raise
    self._spares.append(process)

  def _take(self) -> process_lib.Process:
    """Returns a sandbox that is ready and starts another one to replace it.

    A start can fail because the user currently has too many processes or file
    descriptors. It is retried three times, each time after a pause.
    """
    for pause in (*_PAUSES, None):
      process = None
      try:
        self._add_spare()
        process = self._spares.popleft()
        process.wait_until_ready()
        return process
      except RuntimeError:
        if process is not None:
          self._discard(process)
        if pause is None or self._closed.wait(pause):
          raise
    raise AssertionError

  def _discard(self, process: process_lib.Process) -> None:
    process.close()
    with self._lock:
      self._alive.discard(process)

  def _run_program(
    self, source: str, tests: Sequence[types.TestCase]
  ) -> list[types.Result]:
    """Runs a program in a sandbox, and again in a second if the first is lost.

    A program cannot end its sandbox, but a user or an out-of-memory kernel can.
    """
    for _ in range(2):
      process = self._take()
      try:
        return self._run_tests(process, source, tests)
      except OSError as error:
        if self._closed.is_set():
          raise RuntimeError('the sandbox was closed') from None
        words = (process.last_words() or str(error)).splitlines()[-1]
        detail = f'{outcomes.LOST}{words}'[: outcomes.MAX_DETAIL]
        lost = types.Result(unit_tests.ERROR, detail)
      finally:
        self._discard(process)
    return [lost] * len(tests)

  def _run_tests(
    self,
    process: process_lib.Process,
    source: str,
    tests: Sequence[types.TestCase],
  ) -> list[types.Result]:
    """Runs the tests in order."""
    results: list[types.Result] = []
    seconds = self._limits.wall_seconds + _GRACE
    max_bytes = 2 * self._limits.output_bytes + 2**16
    process.send(source, seconds)
    for test in tests:
      late = sum(r.status == unit_tests.TIMEOUT for r in results)
      if late >= self._max_timeouts:
        results.append(
          types.Result(unit_tests.TIMEOUT, 'not run after other timeouts')
        )
        continue
      try:
        process.send(unit_tests.as_lines(test.input), seconds)
        results.append(
          outcomes.result_of(process.receive(seconds, max_bytes), test.output)
        )
      except TimeoutError:
        missing = types.Result(unit_tests.TIMEOUT, 'no answer')
        return results + [missing] * (len(tests) - len(results))
    return results


def is_lost(result: types.Result) -> bool:
  """Returns True if the program was not run because its sandbox was lost."""
  is_error = result.status == unit_tests.ERROR
  return is_error and result.detail.startswith(outcomes.LOST)


def _worker_arguments(
  backend: str, *, streams: str, code: bytes, limits: Limits
) -> list[str]:
  return [backend, streams, code.hex(), *map(str, limits)]


def _launch_unsafe(limits: Limits) -> process_lib.Process:
  folder = tempfile.mkdtemp(prefix='unsafe_sandbox_')
  work, streams = (os.path.join(folder, name) for name in ('tmp', 'dev'))
  os.mkdir(work)
  os.mkdir(streams)
  arguments = _worker_arguments(
    'unsafe_subprocess', streams=streams, code=b'', limits=limits
  )
  return process_lib.Process(
    [sys.executable, *_PYTHON, str(_WORKER), *arguments],
    first=_compiled(_CHILD),
    cleanup=functools.partial(shutil.rmtree, folder, ignore_errors=True),
    env={'PYTHONHASHSEED': '0', 'HOME': work},
    cwd=work,
  )


def _launch_bubblewrap(limits: Limits) -> process_lib.Process:
  """Starts a sandbox without waiting for its interpreter."""
  if not shutil.which('bwrap'):
    raise RuntimeError(f'bwrap is not installed. {process_lib.HOW_TO}')
  filters = seccomp.filters()
  with contextlib.ExitStack() as stack:
    descriptors = [
      stack.enter_context(process_lib.file_with(data)).fileno()
      for data in (filters.supervisor, _PYC_HEAD + _compiled(_WORKER))
    ]
    command = bubblewrap.command(limits.file_bytes, *descriptors)
    arguments = _worker_arguments(
      'bubblewrap',
      streams=bubblewrap.STREAMS,
      code=filters.program,
      limits=limits,
    )
    worker = ['--', '/python/bin/python3', *_PYTHON, '/worker.pyc', *arguments]
    if os.geteuid() != 0:
      return process_lib.Process(
        command + worker, first=_compiled(_CHILD), pass_fds=descriptors
      )
    info, bwrap_info = socket.socketpair()
    go, bwrap_go = socket.socketpair()
    host_ends = contextlib.ExitStack()
    for end in (info, go):
      host_ends.enter_context(end)
    for end in (bwrap_info, bwrap_go):
      stack.enter_context(end)
    command += ['--info-fd', str(bwrap_info.fileno())]
    command += ['--userns-block-fd', str(bwrap_go.fileno())]
    # bwrap also gets our end of info: if this process died and closed the only
    # copy, writing to info would kill bwrap.
    ends = [end.fileno() for end in (info, bwrap_info, bwrap_go)]
    return process_lib.Process(
      command + worker,
      first=_compiled(_CHILD),
      begin=functools.partial(_map_users, info, go),
      cleanup=host_ends.close,
      pass_fds=descriptors + ends,
    )


def _map_users(info: socket.socket, go: socket.socket, seconds: float) -> None:
  """Maps the users of a sandbox and lets its bwrap continue.

  Raises:
    OSError: if bwrap does not answer within `seconds` or has ended.
    ValueError: if bwrap's answer cannot be parsed.
  """
  end = time.monotonic() + seconds
  reply = b''
  while not reply.endswith(b'}\n'):
    info.settimeout(max(end - time.monotonic(), 0.001))
    chunk = info.recv(4096)
    if not chunk:
      raise OSError('bwrap did not report the process that it started')
    reply += chunk
  bubblewrap.map_users(reply)
  go.sendall(b'1')


@functools.cache
def _compiled(path: pathlib.Path) -> bytes:
  """Compiles a script once; compiling it would add 3 ms to each start."""
  # A traceback must not mistake this file for the program's own program.py.
  name = f'sandbox_{path.name}'
  return marshal.dumps(compile(path.read_bytes(), name, 'exec'))
