"""Coordination of the processes of a run, usually one process per host.

All processes run the same program on the same arrays and therefore make the
same decisions. Text is distributed: each process encodes, decodes and grades
its own share, and sends the results that the other processes need. Only the
first process writes the files that all processes share.
"""

import contextlib
import ctypes
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Generator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from sqlm_jax.ops import integers

# Compilation may block heartbeats for longer than JAX's default timeout.
HEARTBEAT_SECONDS = 600
# Time that a finished process waits for the other processes to end.
SHUTDOWN_SECONDS = 60
# Time that a failed process waits for the others. It is shorter because the
# others may not detect the failure before this process has ended.
FAILED_SECONDS = 10


def start(
  address: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
) -> None:
  """Connects this process to the other processes of a run.

  Call this function before any other use of JAX. Arguments that are None are
  taken from Cloud TPU, SLURM, Open MPI or another scheduler that JAX supports.

  Args:
    address: 'host:port' of the first process.
    num_processes: number of processes of the run.
    process_id: index of this process, counted from 0.

  Raises:
    ValueError: if the arguments are None and JAX finds no scheduler.
  """
  try:
    jax.distributed.initialize(
      address,
      num_processes,
      process_id,
      heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
      shutdown_timeout_seconds=SHUTDOWN_SECONDS,
    )
  except ValueError as error:
    if address is not None:
      raise
    raise ValueError(
      f'--distributed=auto: found no scheduler that jax knows ({error}), '
      'expected --coordinator_address, --num_processes and --process_id'
    ) from None
  _exit_on_abort()


def _exit_on_abort() -> None:
  """Makes SIGABRT end the process with exit code 6, the signal's number.

  A thread of JAX calls abort() when it learns that another process has ended.
  The handler has to be a C function. A Python handler would never run, because
  abort() does not return to the interpreter.
  """
  if os.name == 'nt':
    return
  libc = ctypes.CDLL(None)
  libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
  libc.signal.restype = ctypes.c_void_p
  libc.signal(signal.SIGABRT, ctypes.cast(libc._exit, ctypes.c_void_p))


@contextlib.contextmanager
def exit_on_error() -> Generator[None]:
  """Ends this process after an error, so that the other processes end, too.

  In a run with a single process, the error is raised as usual. Otherwise this
  process reports the error, waits up to `FAILED_SECONDS` for the other
  processes, which may have the same error, and ends with the error's exit code.
  If it did not end, JAX would wait for the other processes, which wait for this
  process, until a timeout aborts all of them.
  """
  try:
    yield
  except BaseException as error:
    if not jax.distributed.is_initialized():
      raise
    code = _report(error)
    end = threading.Timer(FAILED_SECONDS, os._exit, [code])
    end.daemon = True
    end.start()
    with contextlib.suppress(Exception):
      jax.distributed.shutdown()
    os._exit(code)


def _report(error: BaseException) -> int:
  """Prints an uncaught error as Python does, and returns the exit code."""
  code = 1
  if not isinstance(error, SystemExit):
    traceback.print_exception(error)
    code = 130 if isinstance(error, KeyboardInterrupt) else 1
  elif error.code is None:
    code = 0
  elif isinstance(error.code, int):
    code = error.code
  else:
    sys.stderr.write(f'{error.code}\n')
  for stream in (sys.stdout, sys.stderr):
    with contextlib.suppress(OSError):
      stream.flush()
  return code


def count() -> int:
  """Returns the number of processes of the run."""
  return jax.process_count()


def index() -> int:
  """Returns the index of this process, counted from 0."""
  return jax.process_index()


def is_first() -> bool:
  """Returns True in the first process, which writes the shared files."""
  return jax.process_index() == 0


def local_share(number: int) -> range:
  """Returns this process's contiguous share of `number` items."""
  return range(
    integers.ceil_div(number * index(), count()),
    integers.ceil_div(number * (index() + 1), count()),
  )


def all_gather(value: Any) -> list[Any]:
  """Sends a value to all processes and returns the values of all processes.

  All processes have to call this function.

  Args:
    value: a JSON-serializable value. Tuples arrive as lists.

  Returns:
    One value per process, ordered by process index.
  """
  if count() == 1:
    return [value]
  data = np.frombuffer(json.dumps(value).encode(), np.uint8)
  sizes = multihost_utils.process_allgather(np.array(len(data)))
  # Every size is compiled separately, so round up to a power of two.
  capacity = 1 << int(max(sizes.max(), 1024) - 1).bit_length()
  padded = np.pad(data, (0, capacity - len(data)))
  gathered = multihost_utils.process_allgather(padded)
  return [
    json.loads(row[:size].tobytes())
    for row, size in zip(gathered, sizes, strict=True)
  ]


def broadcast_from_first(make: Callable[[], Any]) -> Any:
  """Calls a function in the first process and returns its result in all.

  All processes have to call this function. No process returns before the first
  process has finished `make`.

  Args:
    make: called in the first process only; returns a JSON-serializable value.

  Returns:
    The result of `make`.

  Raises:
    RuntimeError: in the other processes, if `make` raised an exception in the
      first process. The first process raises the original exception.
  """
  if count() == 1:
    return make()
  value, failure = None, None
  if is_first():
    try:
      value = make()
    except Exception as error:
      failure = error
  message = None if failure is None else str(failure)
  value, message = all_gather([value, message])[0]
  if failure is not None:
    raise failure
  if message is not None:
    raise RuntimeError(f'the first process stopped: {message}')
  return value
