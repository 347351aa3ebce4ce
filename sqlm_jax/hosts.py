"""Several processes that play one run, usually one a host.

All run the same program on the same numbers, and so come to the same
decisions. Text is different: each process encodes, decodes and judges what is
its own, and they tell each other what the rest needs to know. Files that all
share are written by the first process alone.
"""

import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

# A process that compiles may be silent for longer than jax waits by itself.
HEARTBEAT_SECONDS = 600
# One that has failed alone waits so long for the others to end, too.
SHUTDOWN_SECONDS = 60


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
