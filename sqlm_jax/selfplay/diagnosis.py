"""Adds topics, correctness and advantages to a step, for logging only."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from sqlm_jax.game import types
from sqlm_jax.selfplay import step_types
from sqlm_jax.tasks import base


class Check(Protocol):
  """Compares answers to a question with its true answer."""

  def __call__(
    self, question: str, answers: Sequence[types.Answer]
  ) -> list[bool | None]:
    """Returns True for each right answer, None if it is not known."""


def checker(task: base.Task | None) -> Check:
  """Returns the checker of a task, which training never uses.

  Args:
    task: the task; None if no true answer is known.
  """

  def check(
    question: str, answers: Sequence[types.Answer]
  ) -> list[bool | None]:
    if not answers or task is None or task.run_tests is not None:
      return [None] * len(answers)
    true = task.true_answer(question)
    if true is None:
      return [None] * len(answers)
    is_right = {a: task.is_true(a, true) for a in set(answers) - {None}}
    return [is_right.get(answer, False) for answer in answers]

  return check


def topics_of(
  game_round: step_types.Round, topics: Sequence[str]
) -> list[str | None]:
  """Returns the topic of each question of a round.

  A question that was not proposed in the round has no topic.

  Args:
    game_round: the round.
    topics: topic of each group of proposals; () if they are not known.
  """
  proposed: list[str | None] = []
  if game_round.proposals is not None:
    group_size = game_round.proposals.rollout.lengths.shape[1]
    proposed = [topic for topic in topics for _ in range(group_size)]
  rest = len(game_round.questions) - len(proposed)
  return proposed + [None] * rest


def solver_advantages(outcome: step_types.Outcome) -> Mapping[int, np.ndarray]:
  """Returns the advantages of the answers to each question trained on.

  The keys index the readable questions of all rounds.
  """
  rows = outcome.advantages.get('solver', ())
  return dict(zip(sorted(outcome.trained_on), rows, strict=False))
