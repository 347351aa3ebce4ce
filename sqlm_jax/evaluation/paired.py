"""Paired tests of two evaluations of the same questions.

Most answers to the same questions do not change. Only the changes are evidence
of a difference, so a paired test can detect differences even if the two
confidence intervals overlap.
"""

from typing import Any

import numpy as np
from etils import epy

from sqlm_jax.evaluation import accuracy

with epy.lazy_imports():  # takes half a second
  from scipy import stats

_RESAMPLES = 2000
_RESAMPLED_AT_ONCE = 100


def mcnemar(first_Q: np.ndarray, second_Q: np.ndarray) -> float:
  """Computes the p-value of McNemar's exact test (1947).

  Under the null hypothesis, a question that only one of the models answers
  correctly is equally likely to be answered by either: the count is binomial
  with probability 1/2.

  Args:
    first_Q: True for questions that the first model answers correctly.
    second_Q: True for questions that the second model answers correctly.

  Returns:
    The two-sided p-value; 1.0 if there is no difference.
  """
  first_Q, second_Q = np.asarray(first_Q, bool), np.asarray(second_Q, bool)
  only_first = int(np.sum(first_Q & ~second_Q))
  only_second = int(np.sum(~first_Q & second_Q))
  if not only_first + only_second:
    return 1.0
  return float(stats.binomtest(only_first, only_first + only_second).pvalue)


def difference(first_Q: np.ndarray, second_Q: np.ndarray) -> dict[str, Any]:
  """Computes the mean of second - first, with its interval and p-value.

  The interval is a bootstrap over questions, which resamples pairs. The p-value
  is from a sign-flip permutation test (Fisher, 1935): under the null
  hypothesis, both signs of a question's difference are equally likely.

  If all questions have the same difference d, every resample is the same, and
  the bootstrap interval would have zero width. In this case, let w be the upper
  end of Wilson's interval for 0 of Q. The interval assumes that up to a
  fraction w of all questions may have any difference from -1 to 1 instead, so
  it is from d - w (1 + d) to d + w (1 - d). For d = 0 this is the score
  interval of a paired difference of proportions (Tango, 1998).

  Args:
    first_Q: First model's value from 0 to 1 for each question.
    second_Q: Second model's value from 0 to 1 for each question.

  Returns:
    A dict with 'value', 'low', 'high', 'p', and 'constant', which is True if
    all questions have the same difference.
  """
  change_Q = np.asarray(second_Q, np.float64) - np.asarray(first_Q, np.float64)
  value = float(change_Q.mean())
  # Rounds, so that 0.7 - 0.6 and 0.4 - 0.3 are the same difference.
  if np.ptp(change_Q.round(12)) == 0:
    return _constant_difference(value, len(change_Q))
  low, high = stats.bootstrap(
    (change_Q,),
    np.mean,
    confidence_level=accuracy.CONFIDENCE,
    n_resamples=_RESAMPLES,
    batch=_RESAMPLED_AT_ONCE,
    method='percentile',
    rng=np.random.default_rng(0),
  ).confidence_interval
  test = stats.permutation_test(
    (change_Q,),
    lambda change_Q, axis: change_Q.mean(axis=axis),
    permutation_type='samples',
    vectorized=True,
    n_resamples=_RESAMPLES,
    batch=_RESAMPLED_AT_ONCE,
    rng=np.random.default_rng(0),
  )
  return {
    'value': value,
    'low': float(low),
    'high': float(high),
    'p': float(test.pvalue),
    'constant': False,
  }


def _constant_difference(value: float, questions: int) -> dict[str, Any]:
  _, unseen = accuracy.wilson(0, questions)
  return {
    'value': value,
    'low': value - unseen * (1 + value),
    'high': value + unseen * (1 - value),
    # Of the 2^Q sign flips, only flipping none or all of them gives a mean of
    # the same magnitude.
    'p': 2.0 ** (1 - questions) if round(value, 12) else 1.0,
    'constant': True,
  }
