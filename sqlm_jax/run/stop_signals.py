"""Handles the signals that ask a run to stop."""

import contextlib
import os
import signal
import threading
import types
from collections.abc import Callable, Generator
from typing import NamedTuple

from absl import logging
from jax.experimental import multihost_utils

from sqlm_jax.distributed import processes


class Stop(NamedTuple):
  """Functions that report whether Ctrl-C or SIGTERM has asked the run to stop.

  Attributes:
    before: Function `before(step)` that returns True if the run should stop
      before this step.
    now: Function `now()` that returns True if an evaluation should stop before
      it is complete. With several processes it always returns False, because
      all processes can agree to stop only between steps.
    request: Asks the run to stop, as a signal does.
  """

  before: Callable[[int], bool]
  now: Callable[[], bool]
  request: Callable[[], None]


@contextlib.contextmanager
def handled() -> Generator[Stop]:
  """Handles Ctrl-C and SIGTERM until the run ends.

  After the first signal, the current step is finished and saved; a second
  signal ends the process. With several processes, a signal to one of them stops
  all: jax handles SIGTERM, and finds the next step that no process has started.
  """
  several = processes.count() > 1
  event = threading.Event()

  def request() -> None:
    event.set()
    if several:
      os.kill(os.getpid(), signal.SIGTERM)

  def stop(signum: int, _: types.FrameType | None) -> None:
    signal.signal(signum, signal.default_int_handler)
    name = signal.Signals(signum).name
    logging.warning('%s: finishing this step, then saving.', name)
    request()

  stops = Stop(lambda _: event.is_set(), event.is_set, request)
  if several:
    stops = Stop(
      multihost_utils.reached_preemption_sync_point, lambda: False, request
    )
  signals = (signal.SIGINT,) if several else (signal.SIGINT, signal.SIGTERM)
  if threading.current_thread() is not threading.main_thread():
    yield stops  # only the main thread can install signal handlers
    return
  before = [signal.signal(signum, stop) for signum in signals]
  try:
    yield stops
  finally:
    for signum, handler in zip(signals, before, strict=True):
      signal.signal(signum, handler)
