"""Labeled questions for evaluation, from a config, a dataset or a file."""

import hashlib
import json
from typing import NamedTuple

from absl import logging

from sqlm_jax.config import schema as config_lib
from sqlm_jax.datasets import builtin
from sqlm_jax.game import contamination, types
from sqlm_jax.pretrained import catalog as weights_catalog
from sqlm_jax.tasks import base
from sqlm_jax.text import prompts

TEST, VALIDATION = PURPOSES = ('test', 'validation')


class EvaluationSet(NamedTuple):
  """Questions with known answers, in the form in which a run asks them.

  Attributes:
    name: 'test', 'validation' or the name of a dataset; used in metric names.
    origin: Source of the examples: a dataset, a file or a key of the config.
    examples: Questions and answers, at least one.
    fingerprint: Hash of the examples.
  """

  name: str
  origin: str
  examples: tuple[types.Example, ...]
  fingerprint: str


def of_config(
  config: config_lib.Config, task: base.Task, purpose: str
) -> EvaluationSet | None:
  """Returns the test or validation set of a config, None if it has none.

  Raises:
    ValueError: If the task cannot grade an example, or there is no such
      dataset.
  """
  origin = getattr(config.evaluation, purpose)
  if origin:
    return of_dataset(config, task, origin, name=purpose)
  pairs = getattr(config.task, purpose)
  if not pairs:
    return None
  try:
    examples = [task.to_example(types.Example(*pair)) for pair in pairs]
  except ValueError as error:
    raise ValueError(f'task.{purpose}: {error}') from None
  return _make(purpose, f'task.{purpose}', examples)


def of_dataset(
  config: config_lib.Config, task: base.Task, origin: str, *, name: str = ''
) -> EvaluationSet:
  """Reads a dataset and formats its questions.

  The format is `evaluation.question_template`.

  Examples that the task cannot grade are left out with a warning.

  Args:
    config: Config of the run.
    task: Task that grades the answers.
    origin: Dataset or file, see `datasets.catalog.read`.
    name: Name of the evaluation set; `origin` by default.

  Raises:
    ValueError: If there is no such dataset, or all examples are left out.
  """
  found, left_out = [], []
  directory = weights_catalog.cache_directory() / 'datasets'
  for example in builtin.read(origin, directory):
    question = prompts.fill(
      config.evaluation.question_template, question=example.question
    )
    try:
      found.append(task.to_example(example._replace(question=question)))
    except ValueError as error:
      left_out.append(error)
  if not found:
    raise ValueError(
      f'{origin}: none of {len(left_out)} examples fits task.answer_kind='
      f'{config.task.answer_kind!r}, the first: {left_out[0]}'
    )
  if left_out:
    logging.warning(
      '%s: %d of %d examples are left out, the first: %s',
      origin,
      len(left_out),
      len(left_out) + len(found),
      left_out[0],
    )
  return _make(name or origin, origin, found)


def check_disjoint(one: EvaluationSet, other: EvaluationSet) -> None:
  """Raises if the validation and test sets overlap.

  The score on questions that were used to choose a checkpoint is biased.

  Raises:
    ValueError: If a question is in both sets, possibly in a different wording
      (see `contamination.key`). The message names the first such question.
  """
  guard = contamination.make_guard(
    (e.question for e in other.examples), 'count'
  )
  both = [e.question for e in one.examples if guard.has(e.question)]
  if both:
    raise ValueError(
      f'{one.origin} and {other.origin}: expected no question in both, found '
      f'{len(both)}, the first: {both[0]!r}'
    )


def _make(name: str, origin: str, examples) -> EvaluationSet:
  digest = hashlib.sha256(json.dumps(examples).encode()).hexdigest()
  return EvaluationSet(name, origin, tuple(examples), digest[:16])
