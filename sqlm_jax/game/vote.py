"""Majority votes over canonical answers."""

import math
from collections.abc import Sequence

from sqlm_jax.game import types


def majority(
  answers: Sequence[types.Answer],
  *,
  weights: Sequence[float] | None = None,
  ties: str = 'none',
  min_agreement: float = 0.0,
) -> types.Vote:
  """Returns the answer that most of a group gave (SQLM, eq. 1).

  With `ties='none'`, unparsed answers cannot win, and there is no majority
  if there is a tie or if the winner occurs only once, because an arbitrary
  label would be noise. With `ties='first'`, the vote is that of the paper's
  code: an unparsed answer is a vote for None, a tie goes to the answer that
  occurs first, and there is no majority if None wins.

  Args:
    answers: canonical answers, None for an unparsed one.
    weights: nonnegative weight of each answer's vote; by default, all weights
      are equal.
    ties: 'none' or 'first'.
    min_agreement: minimum share of the total weight that the winner needs. The
      total includes unparsed answers.
  """
  size = len(answers)
  weights = [1] * size if weights is None else weights

  def no_majority(reason: str) -> types.Vote:
    return types.Vote(None, 0, size, reason)

  totals: dict[types.Answer, float] = {}
  for answer, weight in zip(answers, weights, strict=True):
    if ties == 'first' or answer is not None:
      totals[answer] = totals.get(answer, 0) + weight
  if not totals:
    return no_majority('unparsed')
  winner = max(totals, key=totals.__getitem__)  # in a tie, the first answer
  if winner is None:
    return no_majority('unparsed')
  count = sum(answer == winner for answer in answers)
  if ties == 'none':
    if count == 1:
      return no_majority('singleton')
    if list(totals.values()).count(totals[winner]) > 1:
      return no_majority('tie')
  if share(answers, winner, weights=weights) < min_agreement:
    return no_majority('disagreement')
  return types.Vote(winner, count, size)


def share(
  answers: Sequence[types.Answer],
  winner: types.Answer,
  *,
  weights: Sequence[float] | None = None,
) -> float:
  """Returns the share of the total weight of the votes for an answer."""
  weights = [1] * len(answers) if weights is None else weights
  pairs = zip(answers, weights, strict=True)
  total = sum(weight for answer, weight in pairs if answer == winner)
  # Divide instead of multiplying, because 0.56 * 25 > 14 in floating point.
  return total / (sum(weights) or 1)


def likelihood(logprob: float, num_tokens: int) -> float:
  """Computes the geometric mean of the probabilities of a response's tokens.

  The mean is exp(log p(response) / tokens). It is the vote weight that Wang et
  al. (2022, self-consistency, eq. 1) compare with equal votes.

  Args:
    logprob: log-probability of the response, in nats.
    num_tokens: number of tokens of the response.

  Returns:
    The mean, or 0 for an empty response.
  """
  return math.exp(logprob / num_tokens) if num_tokens else 0.0
