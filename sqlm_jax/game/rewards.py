"""Rewards of solver and proposer, from the answers of one question."""

import random
from collections.abc import Callable, Sequence

from sqlm_jax.game import types

SOLVER_REWARDS = ('majority', 'format', 'random', 'true')
PROPOSER_REWARDS = ('sqlm', 'r_zero', 'band')


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


def right(
  answers: Sequence[types.Answer], true: types.Answer
) -> tuple[float, ...]:
  """1 for the true answer: the control that shows what a label would teach.

  Where the truth is not known (None) nobody is paid.
  """
  return tuple(float(true is not None and answer == true) for answer in answers)


def solver(
  kind: str,
  answers: Sequence[types.Answer],
  vote: types.Vote,
  *,
  coin: random.Random,
  true: Callable[[], types.Answer] = lambda: None,
) -> tuple[float, ...]:
  """The reward of each answer, by one of `SOLVER_REWARDS`.

  Args:
    kind: of the reward.
    answers: to one question.
    vote: on them.
    coin: for 'random'.
    true: looks the true answer up, for 'true' and for nothing else.
  """
  match kind:
    case 'majority':
      return majority(answers, vote)
    case 'format':
      return well_formed(answers)
    case 'random':
      return coin_flips(answers, coin)
    case 'true':
      return right(answers, true())
  raise ValueError(f'kind={kind!r}: expected one of {SOLVER_REWARDS}')


def proposer(
  vote: types.Vote, kind: str = 'sqlm', *, low: float = 0.0, high: float = 1.0
) -> float:
  """Pays for a question neither too easy nor too hard.

  With the count of the majority among G answers, and p = count / G:

    sqlm    1 if 1 < count < G, else 0: SQLM figure 1 and section 5.1 (eq. 2
            prints 0 < count, which always holds)
    r_zero  1 - 2 |p - 1/2|: R-Zero (Huang et al., 2025, arXiv 2508.05004),
            highest where half of the answers agree
    band    1 if low <= p <= high, else 0: the range in which R-Zero (0.3 to
            0.8) and SeRL (Fang et al., 2025, arXiv 2505.20347; 0.2 to 0.8)
            keep questions

  A question without a majority has count 0.

  Args:
    vote: on its answers.
    kind: one of `PROPOSER_REWARDS`.
    low: of the band.
    high: of the band.
  """
  share = vote.count / vote.size if vote.size else 0.0
  match kind:
    case 'sqlm':
      return float(1 < vote.count < vote.size)
    case 'r_zero':
      return 1 - 2 * abs(share - 0.5)
    case 'band':
      return float(vote.count > 0 and low <= share <= high)
  raise ValueError(f'kind={kind!r}: expected one of {PROPOSER_REWARDS}')
