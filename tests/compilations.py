"""Counts and names the programs that XLA compiles."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax

_EVENT = '/jax/core/compile/backend_compile_duration'


@contextlib.contextmanager
def count() -> Iterator[list[float]]:
  """Collects the seconds of every compilation, cached ones left out."""
  found = []

  def listen(event, duration, **_):
    if event == _EVENT:
      found.append(duration)

  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    yield found
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)


class Program(NamedTuple):
  """A compiled program: `jit(name)`, its argument shapes, and its steps."""

  name: str
  shapes: str
  steps: int


@contextlib.contextmanager
def programs(steps: Callable[[], int]) -> Iterator[list[Program]]:
  """Collects every program, with `steps()` as it was at that moment."""
  found = []

  class Listener(logging.Handler):
    def emit(self, record):
      if str(record.msg).startswith('Compiling '):
        name, shapes, _ = record.args
        found.append(Program(name, str(shapes), steps()))

  listener, logger = Listener(), logging.getLogger('jax')
  logger.addHandler(listener)
  try:
    with jax.log_compiles():
      yield found
  finally:
    logger.removeHandler(listener)
