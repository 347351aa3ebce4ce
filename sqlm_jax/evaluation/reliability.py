"""How far can a vote be trusted? Agreement held against correctness.

Training pays for agreeing with the majority; on questions whose answers are
known it shows how often a majority of a given size is right.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sqlm_jax.evaluation import metrics

_MOST_BINS = 10


def measure(
  rows: Sequence[Mapping[str, Any]],
  *,
  samples: int,
  target: float,
  suggest: bool = True,
) -> dict[str, Any]:
  """Measures how often votes of each agreement are right.

  A vote is k answers to a question from one seed. Its winner is the most
  frequent answer, as in maj@k; its agreement is the winner's share of the k.
  Votes of several seeds on one question are not independent: intervals are as
  wide as if each question had been voted on once.

  Args:
    rows: of an evaluation.
    samples: k, at least 2.
    target: how often votes should be right.
    suggest: suggests a threshold; False for test questions, since a run that
      is tuned on them cannot be measured by them.

  Returns:
    'bins', a list of agreement (mean of the bin, and the 'least' in it), votes,
    right, accuracy and its Wilson interval 'low' and 'high'. 'thresholds', the
    same for all votes of at least an agreement, with the share of votes that
    this keeps. If `suggest`, 'suggested_min_agreement', the lowest threshold
    whose low end is at least `target`, None if there is none.
    'calibration_error', the mean distance of agreement and accuracy over votes
    (ECE, Guo et al., 2017). 'target' and 'samples' as they were given.
  """
  votes = [
    (
      metrics.agreement(answers),
      metrics.majority_is_right(answers, right),
      question,
    )
    for question, row in enumerate(rows)
    for answers, right in metrics.sampled(row, samples)
  ]
  agreement_V, right_V, question_V = np.array(votes).reshape(-1, 3).T
  describe = lambda chosen_V: _describe(
    agreement_V[chosen_V], right_V[chosen_V], question_V[chosen_V]
  )
  bins = [describe(in_bin_V) for in_bin_V in _bins(agreement_V, samples)]
  thresholds = []
  for least in np.unique(agreement_V):
    kept_V = agreement_V >= least
    threshold = describe(kept_V)
    threshold |= {'agreement': float(least), 'kept': float(kept_V.mean())}
    thresholds.append(threshold)
  error = sum(
    one['votes'] * abs(one['agreement'] - one['accuracy']) for one in bins
  )
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
  """The lowest threshold that is good enough.

  Higher ones may have too few votes to tell. Agreement of 0, nothing that
  could be read, is no threshold.
  """
  good = (t['agreement'] for t in thresholds if t['low'] >= target)
  return next(filter(None, good), None)


def _bins(agreement_V: np.ndarray, samples: int) -> list[np.ndarray]:
  """Masks, a bin for each share c / k, or ten of them; none is empty."""
  count = min(samples, _MOST_BINS)
  # Rounded first: 0.7 * 10 is a little more than 7 in floats.
  bin_V = np.ceil(np.round(agreement_V * count, 6))
  return [bin_V == number for number in np.unique(bin_V)]


def _describe(
  agreement_V: np.ndarray, right_V: np.ndarray, question_V: np.ndarray
) -> dict[str, Any]:
  right, votes = int(right_V.sum()), len(right_V)
  questions = len(np.unique(question_V))
  low, high = metrics.wilson(right / votes * questions, questions)
  return {
    'agreement': float(agreement_V.mean()),
    'least': float(agreement_V.min()),
    'votes': votes,
    'right': right,
    'accuracy': right / votes,
    'low': low,
    'high': high,
  }
