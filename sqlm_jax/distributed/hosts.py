"""Several processes that play one run, usually one a host.

All processes run the same program on the same numbers, and so come to the same
decisions. Text is different: each process encodes, decodes and grades its own
share, and sends the others what they need to know. Only the first process
writes the files that all processes share.
"""

import contextlib
import ctypes
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

# A process that compiles may be silent for longer than jax waits by itself.
HEARTBEAT_SECONDS = 600
# How long a process that is done waits for the others to end.
SHUTDOWN_SECONDS = 60
# A process that has failed waits less: the others may learn of the failure only
# from its end.
FAILED_SECONDS = 10


def start(
  address: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
) -> None:
  """Joins the other processes of a run; before anything else asks jax.

  Args:
    address: 'host:port' of the first process. None, here and below: as Cloud
      TPU, SLURM, Open MPI or another scheduler that jax knows says.
    num_processes: how many there are.
    process_id: which one this is, counted from 0.

  Raises:
    ValueError: if they are not given, and no scheduler is found.
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

  A thread of jax's calls abort() when it hears that another process has ended.
  A handler in Python would never run: abort() does not return to the
  interpreter.
  """
  if os.name == 'nt':
    return
  libc = ctypes.CDLL(None)
  libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
  libc.signal.restype = ctypes.c_void_p
  libc.signal(signal.SIGABRT, ctypes.cast(libc._exit, ctypes.c_void_p))


@contextlib.contextmanager
def ending_all() -> Iterator[None]:
  """Ends this process at an error, so that the other processes end, too.

  If there are no other processes, the error is raised as usual. Otherwise this
  process reports the error, waits `FAILED_SECONDS` for the others, which may
  have the same error, and ends with the error's exit code. If it did not end,
  jax would wait for the others, which wait for this process, and would abort
  all of them at last.
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
  """Writes an uncaught error as Python does, and returns the exit code."""
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
  """Returns True in the process that writes the files that all share."""
  return jax.process_index() == 0


def own(number: int) -> range:
  """Returns this process's contiguous share of `number` items."""
  start, stop = (-(-number * (index() + i) // count()) for i in (0, 1))
  return range(start, stop)


def exchange(value: Any) -> list[Any]:
  """Sends a value to all processes and returns the values of all, by index.

  All processes have to call it. Tuples arrive as lists.

  Args:
    value: a value that JSON can hold.
  """
  if count() == 1:
    return [value]
  data = np.frombuffer(json.dumps(value).encode(), np.uint8)
  sizes = multihost_utils.process_allgather(np.array(len(data)))
  # Few sizes, few compilations.
  room = 1 << int(max(sizes.max(), 1024) - 1).bit_length()
  padded = np.pad(data, (0, room - len(data)))
  told = multihost_utils.process_allgather(padded)
  return [
    json.loads(row[:size].tobytes())
    for row, size in zip(told, sizes, strict=True)
  ]


def from_first(make: Callable[[], Any]) -> Any:
  """Calls a function in the first process and returns its result in all.

  All processes have to call it. No process returns before the first is done.

  Args:
    make: called in the first process only; returns what JSON can hold.

  Raises:
    RuntimeError: in the other processes, if `make` raised an exception in the
      first one, which raises the exception itself.
  """
  if count() == 1:
    return make()
  value, failure = None, None
  if is_first():
    try:
      value = make()
    except Exception as error:
      failure = error
  value, why = exchange([value, failure and str(failure)])[0]
  if failure is not None:
    raise failure
  if why is not None:
    raise RuntimeError(f'the first process stopped: {why}')
  return value
