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


def tango(differences: float, z: float = 1.959963984540054) -> float:
  """The score interval's upper end where no question differs (Tango, 1998).

  With no discordant pair among n, the score of a difference d > 0 is
  n d / sqrt(n d (1 - d)), which is z at d = z^2 / (n + z^2).
  """
  return z**2 / (differences + z**2)


@pytest.mark.parametrize(
  'change, low, high, p',
  [
    (0.0, -tango(4), tango(4), 1.0),
    # From 0.25: up to a share w of -1 or of 1 instead.
    (0.25, 0.25 - 1.25 * tango(4), 0.25 + 0.75 * tango(4), 2 / 2**4),
    (1.0, 1 - 2 * tango(4), 1.0, 2 / 2**4),
    (-1.0, -1.0, -1 + 2 * tango(4), 2 / 2**4),
  ],
)
def test_an_interval_has_a_width_if_all_changed_alike(change, low, high, p):
  start = max(-change, 0.0)
  found = paired.difference(np.full(4, start), np.full(4, start + change))
  assert found == {
    'value': change,
    'low': pytest.approx(low),
    'high': pytest.approx(high),
    'p': p,
    'constant': True,
  }


def test_equal_differences_are_constant_whatever_their_rounding():
  # 0.3 - 0.2 and 0.7 - 0.6 differ in the last bit.
  found = paired.difference(np.array([0.2, 0.6]), np.array([0.3, 0.7]))
  assert found['constant']
  assert found['low'] < found['value'] < found['high']
  assert found['value'] == pytest.approx(0.1)
  other = paired.difference(np.array([0.2, 0.5]), np.array([0.3, 0.7]))
  assert not other['constant']


def test_many_equal_questions_leave_little_doubt():
  found = paired.difference(np.zeros(1000), np.zeros(1000))
  assert (found['low'], found['high']) == pytest.approx(
    (-0.00383, 0.00383), 1e-2
  )
