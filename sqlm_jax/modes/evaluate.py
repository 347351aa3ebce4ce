"""Evaluates a checkpoint on an evaluation set."""

import contextlib
from typing import Any, NamedTuple

from etils import epath

from sqlm_jax import display
from sqlm_jax.distributed import processes
from sqlm_jax.run import build, evaluation_sets, evaluator, saved_models
from sqlm_jax.workdir import evaluations, run_writer


class Evaluated(NamedTuple):
  """The result of an evaluation, and the rows and settings it is based on."""

  result: dict[str, Any]
  rows: list[dict[str, Any]]
  settings: dict[str, Any]


def find_set(parts: build.Parts, dataset: str) -> evaluation_sets.EvaluationSet:
  """Returns the evaluation set that `dataset` names.

  Args:
    parts: Parts of the run.
    dataset: 'test' or 'validation' for a set of the config, otherwise a
      dataset or a file.

  Raises:
    ValueError: If there is no such evaluation set.
  """
  build.check(parts)
  if dataset not in evaluation_sets.PURPOSES:
    return evaluation_sets.from_dataset(parts.config, parts.task, dataset)
  evaluation_set = parts.sets(dataset)
  if evaluation_set is None:
    raise ValueError(
      f"evaluation.{dataset}='': expected questions; set this key or "
      f'task.{dataset}, or use --dataset'
    )
  return evaluation_set


def evaluate(
  parts: build.Parts,
  model: saved_models.SavedModel,
  evaluation_set: evaluation_sets.EvaluationSet,
  *,
  workdir: epath.PathLike | None,
) -> Evaluated:
  """Evaluates a checkpoint with a progress bar, and stores the result.

  Answers of an earlier evaluation with the same settings are read from the
  workdir and not computed again.

  Args:
    parts: Parts of the run.
    model: The checkpoint, or the model before training.
    evaluation_set: Questions to answer.
    workdir: Directory of the run, None to store nothing.
  """
  build.check(parts)
  planned = evaluator.plan(
    parts, evaluation_set, step=model.step, workdir=workdir
  )
  if planned.is_answered:
    result = evaluator.evaluate(planned, None)
  else:
    params = model.load('solver')
    title = f'Evaluating on {evaluation_set.name}'
    with display.progress(title, len(evaluation_set.examples)) as progress:
      result = evaluator.evaluate(planned, params, progress=progress)
  assert result is not None  # nothing stops this evaluation
  if workdir and processes.is_first():
    with contextlib.closing(run_writer.RunWriter(workdir)) as writer:
      # An earlier evaluation may have been killed before it wrote its result.
      if evaluations.find_result(workdir, planned.files.settings) is None:
        writer.evaluation(result)
  return Evaluated(result, planned.files.rows, dict(planned.files.settings))
