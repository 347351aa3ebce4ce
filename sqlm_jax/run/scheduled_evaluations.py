"""Evaluations during a training run, and the choice of its best checkpoint."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from etils import epath

from sqlm_jax import display
from sqlm_jax.distributed import processes
from sqlm_jax.models import policy as policy_lib
from sqlm_jax.run import (
  alarm_rules,
  build,
  evaluation_sets,
  evaluator,
  probe,
)
from sqlm_jax.workdir import (
  alarms,
  checkpoints,
  evaluations,
  metrics,
  run_writer,
)

# Score of an evaluation that is ignored, because its answers have collapsed or
# an alarm is raised whose action is `not_best`.
NOT_ELIGIBLE = checkpoints.NOT_ELIGIBLE


class Choice(NamedTuple):
  """The solver's score after a step, compared with earlier steps of the run.

  Attributes:
    score: Score on the validation set, or of the probe; `NOT_ELIGIBLE` if it is
      ignored, None without one.
    start: Score before the first step; None if there is no evaluation or if it
      is ignored.
    is_best: True if `score` is higher than the score of every earlier step,
      including the score before the first step.
  """

  score: float | None
  start: float | None
  is_best: bool


def evaluate_due(
  parts: build.Parts,
  params: Callable[[], policy_lib.Params],
  *,
  step: int,
  ended_early: bool,
  writer: run_writer.RunWriter,
  stopped: Callable[[], bool],
  before: Callable[[], None],
) -> dict[str, float]:
  """Runs the evaluations that are due after `step` steps.

  Both sets are evaluated before and after training, and the validation set
  also every `evaluation.every` steps. A completed evaluation is not repeated.
  If the run is stopped, the remaining questions are left to a later start.

  Args:
    parts: Parts of the run.
    params: Returns the parameters of the solver.
    step: Number of self-play steps that the parameters have been trained for.
    ended_early: True if an alarm has ended the run.
    writer: Writer of the run.
    stopped: Returns True if the run has been asked to stop.
    before: Called before an evaluation begins.

  Returns:
    The figures of all due evaluations as metrics, except those of an
    evaluation that was stopped.
  """
  figures: dict[str, float] = {}
  for purpose in (evaluation_sets.VALIDATION, evaluation_sets.TEST):
    evaluation_set = None
    if ended_early or _is_due(parts, purpose, step):
      evaluation_set = parts.sets(purpose)
    if evaluation_set is None:
      continue
    planned = evaluator.plan(
      parts, evaluation_set, step=step, workdir=writer.workdir
    )
    result = processes.broadcast_from_first(
      functools.partial(
        evaluations.find_result, writer.workdir, planned.files.settings
      )
    )
    if result is None:
      before()
      title = f'Evaluating after {step} steps ({purpose})'
      with display.progress(title, len(evaluation_set.examples)) as progress:
        result = evaluator.evaluate(
          planned, params(), progress=progress, stopped=stopped
        )
      if result is None:
        return figures
      writer.evaluation(result)
    figures |= evaluations.to_metrics(result)
  return figures


def _is_due(parts: build.Parts, purpose: str, step: int) -> bool:
  config = parts.config
  if step in (0, config.num_steps):
    return True
  every = config.evaluation.every
  is_validation = purpose == evaluation_sets.VALIDATION
  return is_validation and every > 0 and step % every == 0


def choose(parts: build.Parts, workdir: epath.PathLike, step: int) -> Choice:
  """Compares the solver after `step` steps with earlier steps of the run.

  Only evaluations on the validation set with the run's settings are compared,
  because choosing a checkpoint by its test score would bias that score. With
  `evaluation.best_by='probe'`, only measurements of the probe are compared.
  Every process must call this function.
  """

  def read() -> tuple[float | None, float | None, bool]:
    by_probe = parts.config.evaluation.best_by == 'probe'
    find_scores = _probe_scores if by_probe else validation_scores
    scores = find_scores(parts, workdir)
    score, start = scores.get(step), scores.get(0)
    earlier = [value for at, value in scores.items() if at < step]
    best_before = max([*earlier, NOT_ELIGIBLE])
    is_best = step > 0 and score is not None and score > best_before
    return score, None if start == NOT_ELIGIBLE else start, is_best

  return Choice(*processes.broadcast_from_first(read))


def validation_scores(
  parts: build.Parts, workdir: epath.PathLike
) -> dict[int, float]:
  """Returns a map from step to score of all validation evaluations."""
  evaluation_set = parts.sets(evaluation_sets.VALIDATION)
  if evaluation_set is None:
    return {}
  name, scores = score_name(parts), {}
  raised, not_best = alarms.read(workdir), _not_best(parts)
  for result in evaluations.read_results(workdir):
    if name in result and evaluator.has_settings(result, parts, evaluation_set):
      collapsed = name in result.get('collapsed', {}) or alarms.is_raised(
        raised, result['step'], not_best
      )
      scores[result['step']] = NOT_ELIGIBLE if collapsed else result[name]
  return scores


def _probe_scores(
  parts: build.Parts, workdir: epath.PathLike
) -> dict[int, float]:
  """Returns a map from step to score of all measurements of the probe.

  There is no score of the initial model, because the probe's questions are
  those of the first steps. After a rollback, the model is not the one that the
  probe has looked at.
  """
  scores = {}
  raised, not_best = alarms.read(workdir), _not_best(parts)
  rolled_back = {
    event['step']
    for event in raised
    if event['action'] == 'roll_back' and event['event'] == 'raised'
  }
  for row in metrics.read(epath.Path(workdir)):
    score = row.get(probe.INFORMATION)
    if score is None or row['step'] in rolled_back:
      continue
    step = row['step'] + 1  # the probe runs after the step
    is_eligible = not alarms.is_raised(raised, step, not_best)
    scores[step] = score if is_eligible else NOT_ELIGIBLE
  return scores


def _not_best(parts: build.Parts) -> set[str]:
  """Returns the names of the alarms during which no checkpoint is the best."""
  rules = alarm_rules.make_rules(parts.config.alarms)
  return {rule.name for rule in rules if rule.action == 'not_best'}


def score_name(parts: build.Parts) -> str:
  """Returns the name of the figure by which the best checkpoint is chosen."""
  c = parts.config.evaluation
  return f'mean@{c.samples}' if c.best_by == 'mean' and c.samples else 'greedy'


def find_test(
  parts: build.Parts, workdir: epath.PathLike, step: int
) -> dict[str, Any] | None:
  """Returns the result on the test set after `step` steps, or None.

  Results of `--mode=eval` with settings other than the run's are ignored.
  """
  evaluation_set = parts.sets(evaluation_sets.TEST)
  if evaluation_set is None:
    return None
  for result in evaluations.read_results(workdir):
    if result['step'] == step and evaluator.has_settings(
      result, parts, evaluation_set
    ):
      return result
  return None
