"""Did it improve? Two evaluations of the same questions, pair by pair.

On the same questions most answers stay what they were. Only those that change
say anything, so a paired test sees differences that two intervals hide.
"""

from typing import Any

import numpy as np
from etils import epy

from sqlm_jax.evaluation import metrics

with epy.lazy_imports():  # half a second
  from scipy import stats

_RESAMPLES = 2000
_RESAMPLED_AT_ONCE = 100


def mcnemar(one_Q: np.ndarray, other_Q: np.ndarray) -> float:
  """The p-value of McNemar's exact test (1947).

  If neither is better, a question that only one of them answers right is as
  often the one's as the other's: binomial with 1/2.

  Args:
    one_Q: which questions the one answers right.
    other_Q: the same for the other one.

  Returns:
    The two-sided p-value; 1.0 if they differ nowhere.
  """
  one_Q, other_Q = np.asarray(one_Q, bool), np.asarray(other_Q, bool)
  only_one = int(np.sum(one_Q & ~other_Q))
  only_other = int(np.sum(~one_Q & other_Q))
  if not only_one + only_other:
    return 1.0
  return float(stats.binomtest(only_one, only_one + only_other).pvalue)


def difference(one_Q: np.ndarray, other_Q: np.ndarray) -> dict[str, Any]:
  """Computes how much higher the other's mean is, with interval and p-value.

  The interval is a bootstrap over questions, pairs kept together. The p-value
  is that of a sign-flipping permutation test (Fisher, 1935): if neither is
  better, each question's difference could as well have the other sign.

  If all questions differ alike, every resample is the same, and the bootstrap
  interval would have no width. Then up to a share w of all questions, the
  upper end of Wilson's interval of 0 of Q, may have any difference from -1 to
  1 instead: from d - w (1 + d) to d + w (1 - d). For d = 0 this is the score
  interval of a paired difference of shares (Tango, 1998).

  Args:
    one_Q: a value from 0 to 1 for each question.
    other_Q: the same for the other one.

  Returns:
    'value', 'low', 'high', 'p', and 'constant', True if all questions differ
    alike.
  """
  change_Q = np.asarray(other_Q, np.float64) - np.asarray(one_Q, np.float64)
  value = float(change_Q.mean())
  # Rounded: 0.7 - 0.6 and 0.4 - 0.3 are the same difference.
  if np.ptp(change_Q.round(12)) == 0:
    return _constant_difference(value, len(change_Q))
  low, high = stats.bootstrap(
    (change_Q,),
    np.mean,
    confidence_level=metrics.CONFIDENCE,
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
  _, unseen = metrics.wilson(0, questions)
  return {
    'value': value,
    'low': value - unseen * (1 + value),
    'high': value + unseen * (1 - value),
    # Of the 2^Q flips of signs, only flipping none or all of them gives a mean
    # that is as far from 0.
    'p': 2.0 ** (1 - questions) if round(value, 12) else 1.0,
    'constant': True,
  }
