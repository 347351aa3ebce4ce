"""How often XLA compiles."""

import contextlib
from collections.abc import Iterator

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
