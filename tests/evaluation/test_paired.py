"""Paired tests against statsmodels, and by hand."""

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats import contingency_tables

from sqlm_jax.evaluation import paired


@pytest.mark.parametrize('seed', range(5))
def test_mcnemar(seed):
  one_Q, other_Q = np.random.default_rng(seed).random((2, 60)) < [[0.5], [0.7]]
  table = [
    [np.sum((one_Q == a) & (other_Q == b)) for b in (True, False)]
    for a in (True, False)
  ]
  expected = contingency_tables.mcnemar(table, exact=True).pvalue
  assert paired.mcnemar(one_Q, other_Q) == pytest.approx(expected)


def test_mcnemar_by_hand():
  # Five questions gained, none lost: 2 / 2^5.
  one_Q, other_Q = np.zeros(9), np.arange(9) < 5
  assert paired.mcnemar(one_Q, other_Q) == pytest.approx(2 / 32)
  assert paired.mcnemar(other_Q, other_Q) == 1


def test_a_difference_is_that_of_pairs():
  """Unlike the values themselves, their differences hardly vary."""
  rng = np.random.default_rng(0)
  one_Q = rng.random(400)
  other_Q = one_Q + 0.02 + 0.05 * rng.standard_normal(400)
  found = paired.difference(one_Q, other_Q)
  test = stats.ttest_rel(other_Q, one_Q)
  low, high = test.confidence_interval(0.95)
  assert found['value'] == pytest.approx((other_Q - one_Q).mean())
  assert found['low'] == pytest.approx(low, abs=0.001)
  assert found['high'] == pytest.approx(high, abs=0.001)
  assert found['p'] < 0.002
  # Nothing there: the p-value is about that of the t-test.
  other_Q = one_Q + 0.05 * rng.standard_normal(400)
  expected = stats.ttest_rel(other_Q, one_Q).pvalue
  # Of 2,000 permutations: a standard deviation of 0.011 at most.
  assert paired.difference(one_Q, other_Q)['p'] == pytest.approx(
    expected, abs=0.05
  )


def test_few_questions_are_permuted_exactly():
  # Of 2^3 signs of (1, 1, 0.5) two are as far from 0: 2.5 and -2.5.
  found = paired.difference(np.zeros(3), np.array([1, 1, 0.5]))
  assert found['p'] == pytest.approx(2 / 8)


@pytest.mark.parametrize('change, p', [(0.0, 1.0), (1.0, 2 / 2**4)])
def test_all_changed_alike(change, p):
  found = paired.difference(np.zeros(4), np.full(4, change))
  assert found == {'value': change, 'low': change, 'high': change, 'p': p}
