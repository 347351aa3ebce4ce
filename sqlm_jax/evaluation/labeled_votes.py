"""Figures of votes on labeled questions, as training would count the votes.

Training rewards agreement with the vote. These figures tell whether the vote is
better than always giving the most common label, which needs no question, and
than the greedy answer, which needs no vote.
"""

import collections
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from sqlm_jax.evaluation import accuracy, paired, reliability


class LabeledVote(NamedTuple):
  """The vote on a labeled question.

  Attributes:
    label: The true answer.
    agreement: Share of the votes that the winner got, 0 without a majority.
      No minimum agreement is required.
    vote_is_right: True if the winner is the true answer.
    greedy_is_right: True if the greedy answer is the true answer.
    share_right: Fraction of the sampled answers that are the true answer.
  """

  label: str
  agreement: float
  vote_is_right: bool
  greedy_is_right: bool
  share_right: float


def summarize(
  votes: Sequence[LabeledVote], *, target: float, min_agreement: float
) -> dict[str, Any]:
  """Computes the figures of votes on labeled questions.

  Args:
    votes: The votes on at least one question.
    target: Desired fraction of votes that are right.
    min_agreement: `vote.min_agreement` of the config.

  Returns:
    A dict with the following entries:
      questions: The number of labeled questions.
      greedy, sampled: The accuracy of greedy and of sampled answers.
      constant: The most common 'label' and its 'share' of the questions.
      agreement: The mean share of the votes that a winner got, None if no
        question has a majority.
      thresholds: The result of `reliability.at_thresholds`.
      all: The votes without a minimum agreement: the values of a threshold, and
        the paired differences 'vs_constant' and 'vs_greedy' on the questions
        whose vote counts. None if no vote counts.
      configured: The same with the minimum agreement of the config.
      suggestion: The same at the suggested threshold, together with the entries
        of `reliability.suggest_threshold`; None if no question has a majority.
      target: The argument.
  """
  agreement_Q = np.array([vote.agreement for vote in votes])
  right_Q = np.array([vote.vote_is_right for vote in votes])
  greedy_Q = np.array([vote.greedy_is_right for vote in votes])
  labels = [' '.join(vote.label.split()).casefold() for vote in votes]
  ((label, count),) = collections.Counter(labels).most_common(1)
  shown = ' '.join(votes[labels.index(label)].label.split())
  constant_Q = np.array([other == label for other in labels])

  def describe(min_agreement: float) -> dict[str, Any] | None:
    kept_Q = (agreement_Q > 0) & (agreement_Q >= min_agreement)
    if not kept_Q.any():
      return None
    right, total = int(right_Q[kept_Q].sum()), int(kept_Q.sum())
    low, high = accuracy.wilson(right, total)
    return {
      'agreement': float(min_agreement),
      'votes': total,
      'right': right,
      'accuracy': right / total,
      'low': low,
      'high': high,
      'kept': total / len(votes),
      'vs_constant': _compare(constant_Q[kept_Q], right_Q[kept_Q]),
      'vs_greedy': _compare(greedy_Q[kept_Q], right_Q[kept_Q]),
    }

  won_V = agreement_Q[agreement_Q > 0]
  thresholds = reliability.at_thresholds(
    agreement_Q, right_Q, np.arange(len(votes))
  )
  suggestion = reliability.suggest_threshold(
    thresholds, target, questions=len(votes)
  )
  if suggestion is not None:
    suggestion |= describe(suggestion['agreement']) or {}
  return {
    'questions': len(votes),
    'greedy': float(greedy_Q.mean()),
    'sampled': float(np.mean([vote.share_right for vote in votes])),
    'constant': {'label': shown, 'share': count / len(votes)},
    'agreement': float(won_V.mean()) if won_V.size else None,
    'thresholds': thresholds,
    'all': describe(0.0),
    'configured': describe(min_agreement),
    'suggestion': suggestion,
    'target': target,
  }


def _compare(other_Q: np.ndarray, vote_Q: np.ndarray) -> dict[str, float]:
  """Returns the paired difference vote - other, with McNemar's p-value."""
  difference = paired.difference(other_Q, vote_Q)
  return {
    'other': float(other_Q.mean()),
    'value': difference['value'],
    'low': difference['low'],
    'high': difference['high'],
    'p': paired.mcnemar(other_Q, vote_Q),
  }


def is_better(difference: Mapping[str, float]) -> bool:
  """Returns True if a paired difference is significantly above 0."""
  return difference['value'] > 0 and difference['p'] < 0.05
