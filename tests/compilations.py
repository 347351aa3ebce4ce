"""Counts and names the programs that XLA compiles."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax

_EVENT = '/jax/core/compile/backend_compile_duration'


@contextlib.contextmanager
def count() -> Iterator[list[float]]:
  """Collects the seconds of every compilation, without cached programs."""
  durations = []

  def listen(event, duration, **_):
    if event == _EVENT:
      durations.append(duration)

  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    yield durations
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)


class Program(NamedTuple):
  """A program that was compiled."""

  name: str  # of the jitted function
  shapes: str  # of its arguments
  steps: int  # number of steps done when it was compiled


@contextlib.contextmanager
def programs(steps: Callable[[], int]) -> Iterator[list[Program]]:
  """Collects every compiled program.

  Args:
    steps: returns the number of steps done so far.
  """
  compiled = []

  class Listener(logging.Handler):
    def emit(self, record):
      if str(record.msg).startswith('Compiling '):
        name, shapes, _ = record.args
        compiled.append(Program(name, str(shapes), steps()))

  listener, logger = Listener(), logging.getLogger('jax')
  logger.addHandler(listener)
  try:
    with jax.log_compiles():
      yield compiled
  finally:
    logger.removeHandler(listener)
