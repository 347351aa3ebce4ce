"""Several processes that play one run, usually one a host.

All run the same program on the same numbers, and so come to the same
decisions. Text is different: each process encodes, decodes and judges what is
its own, and they tell each other what the rest needs to know. Files that all
share are written by the first process alone.
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
# At the end a process waits so long for the others to end, too.
SHUTDOWN_SECONDS = 60
# A process that has failed waits less: the others may not know of it before it
# has ended.
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

  A thread of jax's, which Python code cannot reach, calls abort() when it
  hears that another process has gone. A handler in Python would never run:
  abort() does not return to the interpreter.
  """
  if os.name == 'nt':
    return
  libc = ctypes.CDLL(None)
  libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
  libc.signal.restype = ctypes.c_void_p
  libc.signal(signal.SIGABRT, ctypes.cast(libc._exit, ctypes.c_void_p))


@contextlib.contextmanager
def ending_all() -> Iterator[None]:
  """Ends this process at an error, so that the others end, too.

  One process alone raises what was raised. Of several processes this one
  reports the error, waits shortly for the others, which may have the same
  error, and ends with the error's exit code. Otherwise jax would wait for the
  others, which wait for this one, and abort all of them in the end.
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
  """Writes an error as Python does at the end, and returns the exit code."""
  code = 1
  if not isinstance(error, SystemExit):
    traceback.print_exception(error)
    code = 130 if isinstance(error, KeyboardInterrupt) else 1
  elif isinstance(error.code, int):
    code = error.code
  elif error.code is not None:
    sys.stderr.write(f'{error.code}\n')
  for stream in (sys.stdout, sys.stderr):
    with contextlib.suppress(OSError):
      stream.flush()
  return code


def count() -> int:
  """How many processes play."""
  return jax.process_count()


def index() -> int:
  """Which one this is, counted from 0."""
  return jax.process_index()


def is_first() -> bool:
  """Whether this process writes the files that all share."""
  return jax.process_index() == 0


def own(number: int) -> range:
  """Which of so many things in a row are this process's; the first has most."""
  start, stop = (-(-number * (index() + i) // count()) for i in (0, 1))
  return range(start, stop)


def exchange(value: Any) -> list[Any]:
  """Tells all processes a value and returns everybody's, the first's first.

  All processes have to call it. Tuples arrive as lists.

  Args:
    value: what JSON can hold.
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
  """What the first process finds or does, told to all; nobody is ahead of it.

  Args:
    make: called in the first process alone; returns what JSON can hold.

  Raises:
    RuntimeError: in the others, for what it raised there.
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
