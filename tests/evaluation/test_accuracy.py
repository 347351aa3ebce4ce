"""Tests of figures and intervals against definitions, scipy and statsmodels."""

import itertools
import math

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats import proportion

from sqlm_jax.evaluation import accuracy


@pytest.mark.parametrize('n', [1, 2, 5, 8])
def test_pass_at_k_is_the_fraction_of_subsets_with_a_right_answer(n):
  """By definition, over all subsets of k of the n answers."""
  right_QN = np.array([[i < c for i in range(n)] for c in range(n + 1)])
  for k in range(1, n + 1):
    expected = [
      np.mean([any(subset) for subset in itertools.combinations(row, k)])
      for row in right_QN
    ]
    np.testing.assert_allclose(accuracy.pass_at(right_QN, k), expected)


def test_pass_at_k_of_many_answers_is_finite():
  right_QN = np.zeros((1, 4096), bool)
  right_QN[0, :3] = True
  # Probability that none of 2048 answers is right.
  missed = 2048 * 2047 * 2046 / (4096 * 4095 * 4094)
  passed = accuracy.pass_at(right_QN, 2048)
  np.testing.assert_allclose(passed, [1 - missed], rtol=1e-9)


@pytest.mark.parametrize('k', [0, 3])
def test_pass_at_k_needs_k_answers(k):
  with pytest.raises(ValueError, match=f'k={k}: expected 1 to 2'):
    accuracy.pass_at(np.ones((1, 2), bool), k)


@pytest.mark.parametrize(
  'answers, right, expected, share',
  [
    (['5', '5', '6', None], [True, True, False, False], True, 0.5),
    (['5', '6', '6', '5'], [False, True, True, False], False, 0.5),  # a tie
    (['6', '5', '6', '5'], [True, False, True, False], True, 0.5),
    ([None, None, None, '7'], [False, False, False, True], True, 0.25),
    ([None, None], [False, False], False, 0.0),
    (['1', '2', '3'], [True, False, False], True, 1 / 3),  # the first one
    (['1'], [True], True, 1.0),
  ],
)
def test_a_vote_is_right_if_the_most_frequent_answer_is(
  answers, right, expected, share
):
  assert accuracy.majority_is_right(answers, right) == expected
  assert accuracy.agreement(answers) == pytest.approx(share)


def row(greedy, *sampled):
  """Returns a row of an evaluation; the true answer is '1'."""
  answers = [greedy, *sampled]
  return {'answers': answers, 'right': [a == '1' for a in answers]}


def test_an_evaluation_worked_by_hand():
  rows = [
    row('1', '1', '2', '1', '1'),
    row('2', '2', '2', None, None),
    row('1', '2', '1', '1', '2'),
    row(None, None, None, '1', '2'),
  ]
  figures = accuracy.summarize(rows, 2)
  value = {name: figure['value'] for name, figure in figures.items()}
  assert value['greedy'] == 2 / 4
  # Right answers of 2, by question and seed: (1, 2), (0, 0), (1, 1), (0, 1).
  assert figures['mean@2']['seeds'] == [2 / 8, 4 / 8]
  assert value['mean@2'] == 6 / 16
  assert figures['mean@2']['std'] == pytest.approx(0.25 / math.sqrt(2))
  # Of 4 answers, 3, 0, 2 and 1 are right: 1 - C(4 - c, 2) / 6.
  assert value['pass@2'] == pytest.approx((1 + 0 + 5 / 6 + 3 / 6) / 4)
  assert value['pass@4'] == 3 / 4
  # In a tie the first answer wins: right for 1 question, then for 3.
  assert figures['maj@2']['seeds'] == [1 / 4, 3 / 4]
  assert value['unparsed'] == (0 + 2 + 0 + 3) / 20
  assert list(figures) == [
    *('greedy', 'mean@2', 'pass@2', 'pass@4', 'maj@2', 'unparsed')
  ]


def test_figures_without_votes_and_without_samples():
  rows = [row('1', '1'), row('2', '1')]
  figures = accuracy.summarize(rows, 1, votes=False)
  assert list(figures) == ['greedy', 'mean@1', 'unparsed']
  assert figures['mean@1']['std'] is None
  figures = accuracy.summarize([row('1')], 0)
  assert list(figures) == ['greedy', 'unparsed']


def test_the_interval_of_many_values_equals_that_of_a_mean():
  """The bootstrap interval is then close to Student's interval."""
  values = np.random.default_rng(3).random(2000)
  interval = accuracy.with_interval(values)
  expected = stats.t.interval(
    0.95, len(values) - 1, loc=values.mean(), scale=stats.sem(values)
  )
  # The ends of 2,000 resamples vary by a few hundredths of the width.
  width = expected[1] - expected[0]
  assert interval['low'] == pytest.approx(expected[0], abs=0.05 * width)
  assert interval['high'] == pytest.approx(expected[1], abs=0.05 * width)


def test_95_percent_of_the_intervals_contain_the_true_value():
  rng = np.random.default_rng(4)
  intervals = [
    accuracy.with_interval(rng.random(200) < 0.3) for _ in range(120)
  ]
  held = sum(x['low'] <= 0.3 <= x['high'] for x in intervals)
  # The count is binomial with probability 0.95 and a standard deviation of 2.4.
  # The lower limit is five standard deviations below the mean, because a
  # percentile interval of a fraction is slightly too short.
  assert 102 <= held < 120


@pytest.mark.parametrize('count, total', [(0, 7), (7, 7), (3, 7), (90, 100)])
def test_wilson_interval(count, total):
  expected = proportion.proportion_confint(count, total, method='wilson')
  np.testing.assert_allclose(
    accuracy.wilson(count, total), np.clip(expected, 0, 1), atol=1e-12
  )
  expected = stats.binomtest(count, total).proportion_ci(method='wilson')
  np.testing.assert_allclose(
    accuracy.wilson(count, total), [expected.low, expected.high], atol=1e-12
  )


@pytest.mark.parametrize('values', [[1, 1, 1], [0, 0], [1], [0], [0.5] * 4])
def test_the_interval_of_equal_values_has_a_width(values):
  interval = accuracy.with_interval(np.array(values))
  assert interval['low'] <= interval['value'] <= interval['high']
  assert interval['high'] - interval['low'] > 0.4
  assert accuracy.wilson(0, 0) == (0, 1)


def test_pass_at_k_is_computed_for_powers_of_two_and_the_samples():
  figures = accuracy.summarize([row('1', *'122112'), row('2', *'121212')], 3)
  assert [name for name in figures if name.startswith('pass')] == [
    *('pass@2', 'pass@3', 'pass@4', 'pass@6')
  ]


@hypothesis.given(
  st.lists(
    st.lists(st.sampled_from(['1', '2', None]), min_size=5, max_size=5),
    min_size=1,
    max_size=6,
  )
)
@hypothesis.settings(max_examples=30)
def test_any_answers_have_figures(answers):
  rows = [row(*group) for group in answers]
  for samples in (4, 2, 1):
    for x in accuracy.summarize(rows, samples).values():
      assert 0 <= x['low'] <= x['value'] <= x['high'] <= 1
