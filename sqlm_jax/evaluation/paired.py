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
  """How much higher the other's mean is, with an interval and a p-value.

  The interval is a bootstrap over questions, pairs kept together. The p-value
  is that of a sign-flipping permutation test (Fisher, 1935): if neither is
  better, each question's difference could as well have the other sign.

  Args:
    one_Q: a value for each question.
    other_Q: the same for the other one.
  """
  change_Q = np.asarray(other_Q, np.float64) - np.asarray(one_Q, np.float64)
  value = float(change_Q.mean())
  if np.ptp(change_Q) == 0:
    same = not change_Q.any()
    # All changed alike: half of the signs' 2^n flips are as far from 0 as
    # the two extremes, no others.
    p = 1.0 if same else 2.0 ** (1 - len(change_Q))
    return {'value': value, 'low': value, 'high': value, 'p': p}
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
  }
