"""Rewards of solver and proposer as weighted sums of terms.

A term assigns a number to each answer to a question, or to the question itself.
The reward of a role is the sum of its terms, each times its weight.
`weights_at` computes weights that change from step to step.
"""

import operator
import random
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from sqlm_jax.game import types

SOLVER_TERMS = (
  'majority',
  'tests',
  'format',
  'agreement',
  'random',
  'true',
)
PROPOSER_TERMS = ('sqlm', 'r_zero', 'band')
# This term is added if a question is of a rare kind, see `question_kinds`.
BONUSES = ('coverage',)
# These terms are subtracted if a question repeats others, see `repetition`.
PENALTIES = ('batch_repeats', 'history_repeats')
_NO_VOTE = types.Vote(None, 0, 0)


class RewardAnswer(Protocol):
  """A function of the user that rewards an answer."""

  def __call__(
    self, question: str, response: str, answer: str | None, /
  ) -> float:
    """Returns the reward.

    Args:
      question: the question.
      response: the whole response.
      answer: the answer in it, None if it is unparsed.
    """


class RewardQuestion(Protocol):
  """A function of the user that rewards a question."""

  def __call__(self, question: str, answers: Sequence[str | None], /) -> float:
    """Returns the reward.

    Args:
      question: the question.
      answers: the answers to it, None for an unparsed one.
    """


class Functions(NamedTuple):
  """Reward functions of the user, each with its weight."""

  solver: tuple[tuple[RewardAnswer, float], ...] = ()
  proposer: tuple[tuple[RewardQuestion, float], ...] = ()

  def reward_answer(
    self, question: str, response: str, answer: types.Answer
  ) -> float:
    """Returns the weighted sum of the functions of the solver."""
    shown = _shown(answer)
    return sum(
      weight * function(question, response, shown)
      for function, weight in self.solver
    )

  def reward_question(
    self, question: str, answers: Sequence[types.Answer]
  ) -> float:
    """Returns the weighted sum of the functions of the proposer."""
    shown = list(map(_shown, answers))
    return sum(
      weight * function(question, shown) for function, weight in self.proposer
    )


NO_FUNCTIONS = Functions()


def _shown(answer: types.Answer) -> str | None:
  """Returns the text of a canonical answer, None for an unparsed answer."""
  return None if answer is None else str(answer)


def majority(
  answers: Sequence[types.Answer], vote: types.Vote
) -> tuple[float, ...]:
  """Returns 1 for the answer of the majority, otherwise 0 (SQLM, eq. 1)."""
  return tuple(
    float(vote.answer is not None and answer == vote.answer)
    for answer in answers
  )


def well_formed(answers: Sequence[types.Answer]) -> tuple[float, ...]:
  """Returns 0 for an unparsed answer, otherwise 1.

  This is the format baseline of SQLM, section 5.2.
  """
  return tuple(float(answer is not None) for answer in answers)


def agreement(
  answers: Sequence[types.Answer],
  vote: types.Vote,
  share: Callable[[types.Answer], float],
) -> tuple[float, ...]:
  """Returns each answer's share of the votes, a soft label.

  This is the reward of EMPO (Zhang et al., 2025, arXiv 2504.05812). Unparsed
  answers get 0, and so do all answers if the vote has no majority.
  """
  return tuple(
    0.0 if vote.answer is None or answer is None else share(answer)
    for answer in answers
  )


def coin_flips(
  answers: Sequence[types.Answer], generator: random.Random
) -> tuple[float, ...]:
  """Returns 0 or 1 at random, as a control that shows what the vote adds."""
  return tuple(float(generator.randrange(2)) for _ in answers)


def right(
  answers: Sequence[types.Answer],
  true: types.Answer,
  is_true: Callable[[types.Answer, types.Answer], bool] = operator.eq,
) -> tuple[float, ...]:
  """Returns 1 for the true answer, otherwise 0.

  This is a control that shows what training on labels would achieve. All
  rewards are 0 if the true answer is not known (None).
  """
  is_right = {a: true is not None and is_true(a, true) for a in set(answers)}
  return tuple(float(is_right[answer]) for answer in answers)


def solver(
  weights: Mapping[str, float],
  answers: Sequence[types.Answer],
  *,
  vote: types.Vote = _NO_VOTE,
  share: Callable[[types.Answer], float] = lambda answer: 0.0,
  passed: Sequence[float] = (),
  coin: random.Random,
  true: Callable[[], types.Answer] = lambda: None,
  is_true: Callable[[types.Answer, types.Answer], bool] = operator.eq,
) -> tuple[float, ...]:
  """Computes the reward of each answer to a question.

  Args:
    weights: weights of `SOLVER_TERMS`; terms with weight 0 are not computed.
    answers: answers to the question.
    vote: result of the vote on the answers, for 'majority' and 'agreement'.
    share: returns an answer's share of the votes, for 'agreement'.
    passed: share of the question's tests that each answer passed, for 'tests'
      (the coding reward of SQLM).
    coin: random generator, for 'random'.
    true: returns the true answer; called for 'true' only.
    is_true: `(answer, true) -> bool`, for 'true'.
  """
  terms = {
    'majority': lambda: majority(answers, vote),
    'tests': lambda: passed,
    'format': lambda: well_formed(answers),
    'agreement': lambda: agreement(answers, vote, share),
    'random': lambda: coin_flips(answers, coin),
    'true': lambda: right(answers, true(), is_true),
  }
  total = [0.0] * len(answers)
  for name, weight in weights.items():
    if weight:
      values = terms[name]()
      total = [t + weight * v for t, v in zip(total, values, strict=True)]
  return tuple(total)


def difficulty_of_vote(
  term: str, vote: types.Vote, *, band: tuple[float, float] = (0.0, 1.0)
) -> float:
  """Rewards a question for which some, but not all answers agree.

  Let count be the number of answers that equal the majority's, G the number of
  answers, including those that only vote, and p = count / G. The terms are:

    sqlm    1 if 1 < count < G, else 0: SQLM figure 1 and section 5.1 (eq. 2
            prints 0 < count, which always holds)
    r_zero  1 - 2 |p - 1/2|: R-Zero (Huang et al., 2025, arXiv 2508.05004),
            highest where half of the answers agree
    band    1 if low <= p <= high, else 0: the range in which R-Zero (0.3 to
            0.8) and SeRL (Fang et al., 2025, arXiv 2505.20347; 0.2 to 0.8)
            keep questions

  A question without a majority has count 0.

  Args:
    term: one of `PROPOSER_TERMS`.
    vote: result of the vote on the answers.
    band: low and high.
  """
  if term == 'sqlm':
    return float(1 < vote.count < vote.size)
  share = vote.count / vote.size if vote.size else 0.0
  if term == 'band' and not vote.count:
    return 0.0
  return _difficulty(term, share, band)


def difficulty_of_tests(
  term: str,
  passed: Sequence[float],
  *,
  over: str = 'group',
  band: tuple[float, float] = (0.0, 1.0),
) -> float:
  """Rewards a problem for which some, but not all tests are passed.

  Let p be the share of tests that pass. The terms are those of
  `difficulty_of_vote`, except for

    sqlm    1 if 0 < p < 1, else 0 (SQLM, eq. 4).

  The paper computes p for each answer and averages the reward over the group
  (`over='sample'`). Its code computes p over all answers (`over='group'`).

  Args:
    term: one of `PROPOSER_TERMS`.
    passed: share of the tests that each answer passed.
    over: 'group' or 'sample'.
    band: low and high.
  """
  if not passed:
    return 0.0
  if over == 'sample':
    each = [_difficulty(term, share, band) for share in passed]
    return sum(each) / len(each)
  return _difficulty(term, sum(passed) / len(passed), band)


def _difficulty(term: str, share: float, band: tuple[float, float]) -> float:
  match term:
    case 'sqlm':
      return float(0 < share < 1)
    case 'r_zero':
      return 1 - 2 * abs(share - 0.5)
    case 'band':
      return float(band[0] <= share <= band[1])
  raise ValueError(f'{term=}: expected one of {PROPOSER_TERMS}')


def weights_at(
  step: int,
  weights: Mapping[str, float],
  schedule: Sequence[tuple[str, int, float]] = (),
) -> dict[str, float]:
  """Computes the weight of every term in a step.

  A schedule can phase a term in or out.

  Args:
    step: self-play step.
    weights: weights of the terms without a schedule.
    schedule: points (term, step, weight). The weight of a term is interpolated
      linearly between its points, and is constant before the first point and
      after the last point.
  """
  curves: dict[str, list[tuple[int, float]]] = {}
  for name, at, weight in sorted(schedule):
    curves.setdefault(name, []).append((at, weight))
  return dict(weights) | {
    name: _interpolate(step, points) for name, points in curves.items()
  }


def _interpolate(step: int, points: Sequence[tuple[int, float]]) -> float:
  steps, weights = zip(*points, strict=True)
  return float(np.interp(step, steps, weights))
