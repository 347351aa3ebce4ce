"""Reliability of majority votes: correctness as a function of agreement.

Training rewards agreement with the majority. Questions with known answers show
how often a majority of a given size is right.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sqlm_jax.evaluation import accuracy

_MAX_BINS = 10


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
      thresholds: The values of a bin for all votes whose agreement is at least
        a threshold, 'agreement', and the fraction of such votes, 'kept'.
      suggested_min_agreement: The lowest threshold whose 'low' is at least
        `target`, None if there is none. Only if `suggest` is set.
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

  def describe(chosen_V: np.ndarray) -> dict[str, Any]:
    return _describe(
      agreement_V[chosen_V], right_V[chosen_V], question_V[chosen_V]
    )

  bins = [describe(in_bin_V) for in_bin_V in _bins(agreement_V, samples)]
  thresholds = []
  for threshold in np.unique(agreement_V):
    kept_V = agreement_V >= threshold
    thresholds.append(
      describe(kept_V)
      | {'agreement': float(threshold), 'kept': float(kept_V.mean())}
    )
  error = sum(x['votes'] * abs(x['agreement'] - x['accuracy']) for x in bins)
  curve = {
    'samples': samples,
    'target': target,
    'bins': bins,
    'thresholds': thresholds,
    'calibration_error': error / max(len(votes), 1),
  }
  if suggest:
    curve['suggested_min_agreement'] = _suggest(thresholds, target)
  return curve


def _suggest(
  thresholds: Sequence[Mapping[str, float]], target: float
) -> float | None:
  """Returns the lowest threshold that reaches the target, or None.

  Higher thresholds may have too few votes for a narrow interval. An agreement
  of 0, which means that no answer was readable, is not a threshold.
  """
  good = (t['agreement'] for t in thresholds if t['low'] >= target)
  return next(filter(None, good), None)


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
