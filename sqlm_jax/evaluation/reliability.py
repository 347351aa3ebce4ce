"""Reliability of majority votes: correctness as a function of agreement.

Training rewards agreement with the majority. Questions with known answers show
how often a majority of a given size is right.
"""

import bisect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sqlm_jax.evaluation import accuracy

_MAX_BINS = 10
_MIN_VOTES = 5  # fewer votes say little about how often votes are right
_MAX_LABELS = 10**6


def measure(
  rows: Sequence[Mapping[str, Any]],
  *,
  samples: int,
  target: float,
  suggest: bool = True,
) -> dict[str, Any]:
  """Measures how often votes are right for each level of agreement.

  A vote consists of the k answers to a question from one seed. Its winner is
  the most frequent answer, as in maj@k; its agreement is the winner's fraction
  of the k answers. Votes of several seeds on one question are not independent,
  so intervals are as wide as with a single vote per question.

  Args:
    rows: Rows of an evaluation.
    samples: k, at least 2.
    target: Desired fraction of votes that are right.
    suggest: Suggests a threshold. Use False for test questions, because tuning
      a run on them would bias its test score.

  Returns:
    A dict with the following entries:
      bins: A list of bins, each with the mean 'agreement' of its votes, their
        'min_agreement', the number of 'votes', the number of 'right' votes,
        their 'accuracy' and its Wilson interval, 'low' and 'high'.
      thresholds: The result of `at_thresholds`.
      suggestion: The suggestion of `suggest_threshold`. Only if `suggest` is
        set.
      suggested_min_agreement: Its agreement, None unless it reaches the target.
        Only if `suggest` is set.
      calibration_error: The mean distance between agreement and accuracy over
        votes (ECE, Guo et al., 2017).
      target, samples: The arguments.
  """
  votes = [
    (
      accuracy.agreement(answers),
      accuracy.majority_is_right(answers, right),
      question,
    )
    for question, row in enumerate(rows)
    for answers, right in accuracy.sampled(row, samples)
  ]
  agreement_V, right_V, question_V = np.array(votes).reshape(-1, 3).T

  bins = [
    _describe(agreement_V[in_bin_V], right_V[in_bin_V], question_V[in_bin_V])
    for in_bin_V in _bins(agreement_V, samples)
  ]
  thresholds = at_thresholds(agreement_V, right_V, question_V)
  error = sum(x['votes'] * abs(x['agreement'] - x['accuracy']) for x in bins)
  curve = {
    'samples': samples,
    'target': target,
    'bins': bins,
    'thresholds': thresholds,
    'calibration_error': error / max(len(votes), 1),
  }
  if suggest:
    suggestion = suggest_threshold(thresholds, target, questions=len(rows))
    is_enough = suggestion is not None and suggestion['reaches_target']
    curve['suggestion'] = suggestion
    curve['suggested_min_agreement'] = (
      suggestion['agreement'] if is_enough else None
    )
  return curve


def at_thresholds(
  agreement_V: np.ndarray, right_V: np.ndarray, question_V: np.ndarray
) -> list[dict[str, Any]]:
  """Computes how many votes are right at or above each level of agreement.

  Args:
    agreement_V: Agreement of each vote.
    right_V: True for each vote whose winner is right.
    question_V: Index of the question of each vote.

  Returns:
    For each level of agreement, in ascending order, the values of a bin for all
    votes whose agreement is at least this level, the level, 'agreement', and
    the fraction of such votes, 'kept'.
  """
  thresholds = []
  for threshold in np.unique(agreement_V):
    kept_V = agreement_V >= threshold
    thresholds.append(
      _describe(agreement_V[kept_V], right_V[kept_V], question_V[kept_V])
      | {'agreement': float(threshold), 'kept': float(kept_V.mean())}
    )
  return thresholds


def suggest_threshold(
  thresholds: Sequence[Mapping[str, Any]], target: float, *, questions: int
) -> dict[str, Any] | None:
  """Suggests a minimum agreement.

  The suggestion is, in this order:

  1. the lowest threshold whose 'low' is at least `target`;
  2. the lowest threshold with at least 5 votes whose 'accuracy' is at least
     `target`, which more labels may confirm or refute;
  3. the threshold with at least 5 votes, if there is one, and the highest
     'low', at which fewer votes are right than desired.

  Args:
    thresholds: Thresholds from `at_thresholds`. An agreement of 0, which means
      that there is no majority, is not suggested.
    target: Desired fraction of votes that are right.
    questions: Number of labeled questions.

  Returns:
    None if no question has a majority, otherwise the values of the threshold
    and the following entries:
      reaches_target: False in the third case.
      is_certain: True if 'low' is at least `target`.
      more_labels: The number of additional labeled questions after which 'low'
        would be at least `target` if 'accuracy' and 'kept' stay as they are, 0
        if it is, None if that cannot happen.
  """
  usable = [t for t in thresholds if t['agreement'] > 0]
  if not usable:
    return None
  with_votes = [t for t in usable if t['votes'] >= _MIN_VOTES]
  certain = [t for t in usable if t['low'] >= target]
  likely = [t for t in with_votes if t['accuracy'] >= target]
  best = max(with_votes or usable, key=lambda t: t['low'])
  chosen = (certain or likely or [best])[0]
  return {
    **chosen,
    'reaches_target': bool(certain or likely),
    'is_certain': chosen['low'] >= target,
    'more_labels': more_labels(
      chosen['accuracy'], chosen['kept'], target, questions=questions
    ),
  }


def more_labels(
  share: float, kept: float, target: float, *, questions: int
) -> int | None:
  """Returns how many more labels show that a fraction is above a target.

  Args:
    share: Fraction of the kept votes that are right; it is assumed to stay.
    kept: Fraction of the questions whose vote is kept; it is assumed to stay.
    target: Value that the lower end of Wilson's interval has to reach.
    questions: Number of labeled questions so far.

  Returns:
    The number of labels, None if the fraction is not above the target.
  """
  if accuracy.wilson(share * kept * questions, kept * questions)[0] >= target:
    return 0
  if share <= target or not kept:
    return None
  index = bisect.bisect_left(
    range(1, _MAX_LABELS),
    target,
    key=lambda n: accuracy.wilson(share * n, n)[0],
  )
  votes = index + 1  # the range starts at 1
  return max(math.ceil(votes / kept) - questions, 1)


def _bins(agreement_V: np.ndarray, samples: int) -> list[np.ndarray]:
  """Returns a mask of the votes in each bin that is not empty.

  There is one bin for each agreement c / k, but at most ten of equal width
  plus one for an agreement of 0.
  """
  count = min(samples, _MAX_BINS)
  # Rounds first, because 0.7 * 10 is slightly more than 7 in floating point.
  bin_V = np.ceil(np.round(agreement_V * count, 6))
  return [bin_V == number for number in np.unique(bin_V)]


def _describe(
  agreement_V: np.ndarray, right_V: np.ndarray, question_V: np.ndarray
) -> dict[str, Any]:
  right, votes = int(right_V.sum()), len(right_V)
  questions = len(np.unique(question_V))
  low, high = accuracy.wilson(right / votes * questions, questions)
  return {
    'agreement': float(agreement_V.mean()),
    'min_agreement': float(agreement_V.min()),
    'votes': votes,
    'right': right,
    'accuracy': right / votes,
    'low': low,
    'high': high,
  }
