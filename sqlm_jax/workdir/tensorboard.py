"""Writes the metrics of a run as TensorBoard curves."""

import contextlib
import math
import time
from collections.abc import Mapping

from etils import epath
from tensorboardX import event_file_writer, summary
from tensorboardX.proto import event_pb2

from sqlm_jax.workdir import storage

# protobuf defines the classes at run time.
_Event = event_pb2.Event  # ty: ignore[missing-attribute]
_SessionLog = event_pb2.SessionLog  # ty: ignore[missing-attribute]


class Curves:
  """Writes points of curves to the directory tensorboard/ of a workdir.

  Args:
    workdir: Directory of the run.
  """

  def __init__(self, workdir: epath.Path):
    self._directory = workdir / 'tensorboard'
    self._events: event_file_writer.EventsWriter | None = None
    # Points of an earlier start are discarded from this step on.
    self._purge_step: int | None = None

  def add(self, step: int, values: Mapping[str, float]) -> None:
    """Adds a point to each curve; values that are not finite leave a gap."""
    with storage.named(self._directory):
      if self._events is None:
        self._events = self._open()
      for name, value in values.items():
        if math.isfinite(value):
          self._events.write_event(
            _Event(
              wall_time=time.time(),
              step=step,
              summary=summary.scalar(name, value),
            )
          )
      self._events.flush()

  def rewind(self, step: int) -> None:
    """Discards the points of step `step` and later."""
    self.close()
    self._purge_step = step

  def close(self) -> None:
    if self._events is not None:
      with contextlib.suppress(OSError):  # a full disk was already reported
        self._events.close()
      self._events = None

  def _open(self) -> event_file_writer.EventsWriter:
    """Opens an event file without a writer thread.

    If the thread died, for example because of a full disk, the run would stop.
    """
    self._directory.mkdir(parents=True, exist_ok=True)
    events = event_file_writer.EventsWriter(
      str(self._directory / 'events'),
      # Otherwise two starts within a second would write to the same file.
      f'.{time.time_ns()}',
    )
    if self._purge_step is not None:
      start = _SessionLog(status=_SessionLog.START)
      events.write_event(_Event(step=self._purge_step, session_log=start))
    return events
