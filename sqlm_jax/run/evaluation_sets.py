"""Labeled questions for evaluation, from a config, a dataset or a file."""

import hashlib
import json
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from absl import logging

from sqlm_jax.config import schema as config_lib
from sqlm_jax.datasets import builtin
from sqlm_jax.game import contamination, types
from sqlm_jax.pretrained import catalog
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


class FindSet(Protocol):
  """Returns the set for 'test' or 'validation', None if there is none."""

  def __call__(self, purpose: str, /) -> EvaluationSet | None: ...


def from_config(
  config: config_lib.Config, task: base.Task, purpose: str
) -> EvaluationSet | None:
  """Returns the test or validation set of a config, None if it has none.

  Raises:
    ValueError: If the task cannot grade an example, or there is no such
      dataset.
  """
  origin = getattr(config.evaluation, purpose)
  if origin:
    return from_dataset(config, task, origin, name=purpose)
  pairs = getattr(config.task, purpose)
  if not pairs:
    return None
  try:
    examples = [task.to_example(types.Example(*pair)) for pair in pairs]
  except ValueError as error:
    raise ValueError(f'task.{purpose}: {error}') from None
  return _make(purpose, f'task.{purpose}', examples)


def from_dataset(
  config: config_lib.Config, task: base.Task, origin: str, *, name: str = ''
) -> EvaluationSet:
  """Reads a dataset and inserts its questions into the question template.

  The template is `evaluation.question_template`. Examples that the task cannot
  grade are left out with a warning.

  Args:
    config: Config of the run.
    task: Task that grades the answers.
    origin: Dataset or file, see `datasets.builtin.read`.
    name: Name of the evaluation set; `origin` by default.

  Raises:
    ValueError: If there is no such dataset, or all examples are left out.
  """
  examples, errors = [], []
  directory = catalog.cache_directory() / 'datasets'
  for example in builtin.read(origin, directory):
    question = prompts.fill(
      config.evaluation.question_template, question=example.question
    )
    try:
      examples.append(task.to_example(example._replace(question=question)))
    except ValueError as error:
      errors.append(error)
  if not examples:
    raise ValueError(
      f'{origin}: none of {len(errors)} examples fits task.answer_kind='
      f'{config.task.answer_kind!r}. The first error: {errors[0]}'
    )
  if errors:
    logging.warning(
      '%s: %d of %d examples are left out. The first error: %s',
      origin,
      len(errors),
      len(errors) + len(examples),
      errors[0],
    )
  return _make(name or origin, origin, examples)


def check_disjoint(first: EvaluationSet, second: EvaluationSet) -> None:
  """Raises if the validation and test sets overlap.

  The score on questions that were used to choose a checkpoint is biased.

  Raises:
    ValueError: If a question is in both sets, possibly in a different wording
      (see `contamination.key`). The message names the first such question.
  """
  guard = contamination.make_guard(
    (e.question for e in second.examples), 'count'
  )
  shared = [e.question for e in first.examples if guard.has(e.question)]
  if shared:
    raise ValueError(
      f'{first.origin} and {second.origin}: expected no question in both, '
      f'found {len(shared)}, for example {shared[0]!r}'
    )


def _make(
  name: str, origin: str, examples: Sequence[types.Example]
) -> EvaluationSet:
  digest = hashlib.sha256(json.dumps(examples).encode()).hexdigest()
  return EvaluationSet(name, origin, tuple(examples), digest[:16])
