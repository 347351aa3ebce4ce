"""Rewards of solver and proposer, from the answers of one question."""

import random
from collections.abc import Sequence

from sqlm_jax.game import types

SOLVER_REWARDS = ('majority', 'format', 'random')


def majority(
  answers: Sequence[types.Answer], vote: types.Vote
) -> tuple[float, ...]:
  """1 for the answer that the majority gave, else 0 (SQLM, eq. 1)."""
  return tuple(
    float(vote.answer is not None and answer == vote.answer)
    for answer in answers
  )


def well_formed(answers: Sequence[types.Answer]) -> tuple[float, ...]:
  """1 for any readable answer: the format baseline of SQLM section 5.2."""
  return tuple(float(answer is not None) for answer in answers)


def coin_flips(
  answers: Sequence[types.Answer], generator: random.Random
) -> tuple[float, ...]:
  """0 or 1 at random: the control that shows what the vote adds."""
  return tuple(float(generator.randrange(2)) for _ in answers)


def solver(
  kind: str,
  answers: Sequence[types.Answer],
  vote: types.Vote,
  *,
  coin: random.Random,
) -> tuple[float, ...]:
  """The reward of each answer, by one of `SOLVER_REWARDS`."""
  match kind:
    case 'majority':
      return majority(answers, vote)
    case 'format':
      return well_formed(answers)
    case 'random':
      return coin_flips(answers, coin)
  raise ValueError(f'kind={kind!r}: expected one of {SOLVER_REWARDS}')


def proposer(vote: types.Vote) -> float:
  """1 for a question neither too easy nor too hard, else 0.

  That is 1 < count < G, with the count of the majority among G answers (SQLM
  figure 1 and section 5.1; eq. 2 prints 0 < count, which always holds).
  """
  return float(1 < vote.count < vote.size)
