"""Writes the files of a training run in its workdir, step by step.

The modules of this folder describe the files:

  config.json                   `config_json`
  metrics.jsonl                 `metrics`
  alarms.jsonl                  `alarms`
  tensorboard/                  `tensorboard`
  tracking_id, wandb/           `trackers`
  eval.jsonl, evaluations/      `evaluations`
  rollouts/                     `rollouts`
  checkpoints/                  `checkpoints`

All files except the JSONL files, which are appended to, are written to a
temporary name and renamed. After a run is killed, they are complete or absent.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from sqlm_jax.workdir import (
  alarms,
  evaluations,
  metrics,
  rollouts,
  tensorboard,
  trackers,
)


class RunWriter:
  """Writes the metrics, evaluations and rollouts of a run.

  Every process writes its own rollouts; process 0 writes all other files.

  Attributes:
    workdir: Directory of the run, created if it does not exist.
  """

  def __init__(
    self,
    workdir: epath.PathLike,
    process: int = 0,
    num_processes: int = 1,
    *,
    footer: Mapping[str, str] | None = None,
    writers: Sequence[trackers.MetricsWriter] | None = None,
  ):
    """Opens the files.

    Args:
      workdir: Directory of the run.
      process: Index of this process.
      num_processes: Number of processes of the run.
      footer: Texts by name for the footers of the rollout files.
      writers: Writers of metrics in addition to metrics.jsonl, by default
        TensorBoard's. They are closed with this writer.
    """
    self.workdir = epath.Path(workdir)
    self._is_first = process == 0
    self._footer = dict(footer or {})
    self._part = rollouts.part_name(process, num_processes)
    if writers is None:
      writers = [tensorboard.Curves(self.workdir)]
    self._writers = writers
    rollouts.make_directory(self.workdir)

  def metrics(self, step: int, values: Mapping[str, float]) -> None:
    """Writes the metrics of a step.

    Args:
      step: Self-play step, counted from 0.
      values: Metrics by name; Python numbers or arrays of one element.
    """
    if not self._is_first:
      return
    numbers = {name: float(values[name]) for name in sorted(values)}
    metrics.append(self.workdir, step, numbers)
    self._add(step, numbers)

  def alarms(self, events: Sequence[Mapping[str, Any]]) -> None:
    """Writes the alarms that were raised or ended in a step.

    Args:
      events: Lines of alarms.jsonl, see `alarms`.
    """
    if self._is_first:
      alarms.append(self.workdir, events)

  def evaluation(self, result: evaluations.Result) -> None:
    """Writes the result of an evaluation.

    Args:
      result: Result of an evaluation, with the number of self-play steps that
        the model was trained for as 'step'.
    """
    evaluations.check_result(result)
    if not self._is_first:
      return
    evaluations.append_result(self.workdir, result)
    self._add(result['step'], evaluations.to_metrics(result))

  def rollouts(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes the responses of a step, and replaces an earlier file of the step.

    Args:
      step: Self-play step, counted from 0.
      rows: One row per response, see `rollouts.write`.
    """
    rollouts.write(
      self.workdir, step, rows, part=self._part, footer=self._footer
    )

  def rewind(self, step: int) -> None:
    """Removes output that was written after a checkpoint, to resume from it.

    Removes metrics, alarms and rollouts of step `step` and later, evaluations
    of models that were trained for more than `step` steps, and incomplete
    lines.

    Args:
      step: Number of steps of the checkpoint.
    """
    if not self._is_first:
      return
    metrics.rewind(self.workdir, step)
    alarms.rewind(self.workdir, step)
    evaluations.rewind(self.workdir, step)
    rollouts.rewind(self.workdir, step)
    for writer in self._writers:
      writer.rewind(step)
    for result in evaluations.read_results(self.workdir):
      if result['step'] == step:  # kept, but its points are discarded
        self._add(step, evaluations.to_metrics(result))

  def close(self) -> None:
    """Closes the writers of metrics; all other files are already complete."""
    for writer in self._writers:
      writer.close()

  def _add(self, step: int, values: Mapping[str, float]) -> None:
    for writer in self._writers:
      writer.add(step, values)
