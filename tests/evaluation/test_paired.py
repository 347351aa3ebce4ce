"""Tests of paired tests against statsmodels, scipy and results by hand."""

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats import contingency_tables

from sqlm_jax.evaluation import paired


@pytest.mark.parametrize('seed', range(5))
def test_mcnemar_equals_statsmodels(seed):
  first_Q, second_Q = np.random.default_rng(seed).random((2, 60)) < [
    [0.5],
    [0.7],
  ]
  table = [
    [np.sum((first_Q == a) & (second_Q == b)) for b in (True, False)]
    for a in (True, False)
  ]
  expected = contingency_tables.mcnemar(table, exact=True).pvalue
  assert paired.mcnemar(first_Q, second_Q) == pytest.approx(expected)


def test_mcnemar_worked_by_hand():
  # Five questions become right, none wrong: 2 / 2^5.
  first_Q, second_Q = np.zeros(9), np.arange(9) < 5
  assert paired.mcnemar(first_Q, second_Q) == pytest.approx(2 / 32)
  assert paired.mcnemar(second_Q, second_Q) == 1


def test_a_difference_equals_a_paired_t_test():
  """The differences vary much less than the values."""
  rng = np.random.default_rng(0)
  first_Q = rng.random(400)
  second_Q = first_Q + 0.02 + 0.05 * rng.standard_normal(400)
  difference = paired.difference(first_Q, second_Q)
  test = stats.ttest_rel(second_Q, first_Q)
  low, high = test.confidence_interval(0.95)
  assert difference['value'] == pytest.approx((second_Q - first_Q).mean())
  assert difference['low'] == pytest.approx(low, abs=0.001)
  assert difference['high'] == pytest.approx(high, abs=0.001)
  assert difference['p'] < 0.002
  # Without a difference, the p-value is close to that of the t-test.
  second_Q = first_Q + 0.05 * rng.standard_normal(400)
  expected = stats.ttest_rel(second_Q, first_Q).pvalue
  # With 2,000 permutations, its standard deviation is at most 0.011.
  assert paired.difference(first_Q, second_Q)['p'] == pytest.approx(
    expected, abs=0.05
  )


def test_all_sign_flips_of_few_questions_are_tried():
  # Of the 2^3 signs of (1, 1, 0.5), two have this magnitude: 2.5 and -2.5.
  difference = paired.difference(np.zeros(3), np.array([1, 1, 0.5]))
  assert difference['p'] == pytest.approx(2 / 8)


def tango(differences: float, z: float = 1.959963984540054) -> float:
  """Computes the upper end of the score interval without any difference.

  With no discordant pair among n, the score of a difference d > 0 is
  n d / sqrt(n d (1 - d)), which is z at d = z^2 / (n + z^2) (Tango, 1998).
  """
  return z**2 / (differences + z**2)


@pytest.mark.parametrize(
  'change, low, high, p',
  [
    (0.0, -tango(4), tango(4), 1.0),
    # A fraction w of the questions may have a difference of -1 or 1 instead.
    (0.25, 0.25 - 1.25 * tango(4), 0.25 + 0.75 * tango(4), 2 / 2**4),
    (1.0, 1 - 2 * tango(4), 1.0, 2 / 2**4),
    (-1.0, -1.0, -1 + 2 * tango(4), 2 / 2**4),
  ],
)
def test_the_interval_of_a_constant_difference_has_a_width(
  change, low, high, p
):
  start = max(-change, 0.0)
  difference = paired.difference(np.full(4, start), np.full(4, start + change))
  assert difference == {
    'value': change,
    'low': pytest.approx(low),
    'high': pytest.approx(high),
    'p': p,
    'constant': True,
  }


def test_differences_that_are_equal_up_to_rounding_are_constant():
  # 0.3 - 0.2 and 0.7 - 0.6 differ in the last bit.
  difference = paired.difference(np.array([0.2, 0.6]), np.array([0.3, 0.7]))
  assert difference['constant']
  assert difference['low'] < difference['value'] < difference['high']
  assert difference['value'] == pytest.approx(0.1)
  varied = paired.difference(np.array([0.2, 0.5]), np.array([0.3, 0.7]))
  assert not varied['constant']


def test_the_interval_narrows_with_many_equal_questions():
  difference = paired.difference(np.zeros(1000), np.zeros(1000))
  assert (difference['low'], difference['high']) == pytest.approx(
    (-0.00383, 0.00383), 1e-2
  )
