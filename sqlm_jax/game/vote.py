"""Majority votes over canonical answers."""

import math
from collections.abc import Sequence

from sqlm_jax.game import types

TIES = ('nobody', 'first')
WEIGHTS = ('equal', 'likelihood')


def majority(
  answers: Sequence[types.Answer],
  *,
  weights: Sequence[float] | None = None,
  ties: str = 'nobody',
  min_agreement: float = 0.0,
) -> types.Vote:
  """Finds the answer that most of a group gave (SQLM, eq. 1).

  With `ties='nobody'` blanks do not stand for election, and a tie or a
  winner seen once rewards nobody: an arbitrary label would be noise. With
  `ties='first'` the vote is that of the paper's code: a blank is a vote for
  "none", a tie goes to what was seen first, and if "none" wins nobody is
  rewarded.

  Args:
    answers: canonical answers, None for a blank.
    weights: how much each answer's vote counts, not negative; default, all
      the same.
    ties: 'nobody' or 'first'.
    min_agreement: the least share of all weight, that of blanks included,
      that the winner needs.
  """
  size = len(answers)
  weights = [1] * size if weights is None else weights
  nobody = lambda why_not: types.Vote(None, 0, size, why_not)
  totals: dict[types.Answer, float] = {}
  for answer, weight in zip(answers, weights, strict=True):
    if ties == 'first' or answer is not None:
      totals[answer] = totals.get(answer, 0) + weight
  if not totals:
    return nobody('blank')
  winner = max(totals, key=totals.get)  # the first of equals
  if winner is None:
    return nobody('blank')
  count = sum(answer == winner for answer in answers)
  if ties == 'nobody':
    if count == 1:
      return nobody('singleton')
    if list(totals.values()).count(totals[winner]) > 1:
      return nobody('tie')
  # Divided, not multiplied: 0.56 * 25 is more than 14 in floats.
  if totals[winner] / (sum(weights) or 1) < min_agreement:
    return nobody('disagreement')
  return types.Vote(winner, count, size)


def likelihood(logprob: float, num_tokens: int) -> float:
  """A response's weight: the geometric mean of its tokens' probabilities.

  exp(log p(response) / tokens), the weighting that Wang et al. (2022,
  self-consistency, eq. 1) compare with equal votes.

  Args:
    logprob: of the response in nats.
    num_tokens: of the response; 0 weighs nothing.
  """
  return math.exp(logprob / num_tokens) if num_tokens else 0.0
