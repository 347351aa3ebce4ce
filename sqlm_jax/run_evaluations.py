"""Evaluations during a training run, and the choice of its best checkpoint."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from sqlm_jax import display, evaluate
from sqlm_jax.distributed import processes
from sqlm_jax.models import policy as policy_lib
from sqlm_jax.run import build, evaluation_sets
from sqlm_jax.workdir import checkpoints, run_writer

# Score of an evaluation that is ignored, because its answers have collapsed.
NOT_ELIGIBLE = checkpoints.NOT_ELIGIBLE


class Choice(NamedTuple):
  """The solver's score after a step, compared with earlier steps of the run.

  Attributes:
    score: Score on the validation set; `NOT_ELIGIBLE` if the evaluation is
      ignored, None without an evaluation.
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
  step: int,
  writer: run_writer.RunWriter,
  *,
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
    writer: Writer of the run.
    stopped: Returns True if the run has been asked to stop.
    before: Called before an evaluation begins.

  Returns:
    The figures of all due evaluations as metrics, except those of an
    evaluation that was stopped.
  """
  config = parts.config
  every, ends = config.evaluation.every, (0, config.num_steps)
  due = {
    evaluation_sets.VALIDATION: step in ends
    or bool(every and step % every == 0),
    evaluation_sets.TEST: step in ends,
  }
  metrics = {}
  for purpose, is_due in due.items():
    asked = parts.sets(purpose) if is_due else None
    if asked is None:
      continue
    planned = evaluate.plan(parts, asked, step=step, workdir=writer.workdir)
    record = processes.broadcast_from_first(
      functools.partial(writer.find_evaluation, planned.files.settings)
    )
    if record is None:
      before()
      title = f'Evaluating after {step} steps ({purpose})'
      with display.progress(title, len(asked.examples)) as progress:
        record = evaluate.evaluate(
          planned, params(), progress=progress, stopped=stopped
        )
      if record is None:
        return metrics
      writer.evaluation(record)
    metrics |= run_writer.evaluation_metrics(record)
  return metrics


def choose(
  parts: build.Parts, writer: run_writer.RunWriter, step: int
) -> Choice:
  """Compares the solver after `step` steps with earlier steps of the run.

  Only evaluations on the validation set with the run's settings are compared,
  because choosing a checkpoint by its test score would bias that score. Every
  process must call this function.
  """

  def read():
    scores = validation_scores(parts, writer)
    score, start = scores.get(step), scores.get(0)
    earlier = [value for at, value in scores.items() if at < step]
    best_before = max([*earlier, NOT_ELIGIBLE])
    is_best = step > 0 and score is not None and score > best_before
    return score, None if start == NOT_ELIGIBLE else start, is_best

  return Choice(*processes.broadcast_from_first(read))


def validation_scores(
  parts: build.Parts, writer: run_writer.RunWriter
) -> dict[int, float]:
  """Returns a map from step to score of all validation evaluations."""
  asked = parts.sets(evaluation_sets.VALIDATION)
  if asked is None:
    return {}
  name, scores = score_name(parts), {}
  for record in writer.evaluations():
    if evaluate.asks_the_same(record, parts, asked) and name in record:
      collapsed = name in record.get('collapsed', {})
      scores[record['step']] = NOT_ELIGIBLE if collapsed else record[name]
  return scores


def score_name(parts: build.Parts) -> str:
  """Returns the name of the figure by which the best checkpoint is chosen."""
  c = parts.config.evaluation
  return f'mean@{c.samples}' if c.best_by == 'mean' and c.samples else 'greedy'


def find_test(
  parts: build.Parts, writer: run_writer.RunWriter, step: int
) -> dict[str, Any] | None:
  """Returns the evaluation record on the test set after `step` steps, or None.

  Records of `--mode=eval` with settings other than the run's are ignored.
  """
  asked = parts.sets(evaluation_sets.TEST)
  if asked is None:
    return None
  records = [
    record
    for record in writer.evaluations()
    if record['step'] == step and evaluate.asks_the_same(record, parts, asked)
  ]
  return records[0] if records else None
