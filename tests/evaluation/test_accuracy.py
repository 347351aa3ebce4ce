"""Figures and intervals against definitions, scipy and statsmodels."""

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
def test_pass_at_k_is_the_share_of_subsets_with_a_right_one(n):
  """The definition: of all ways to draw k of the n answers."""
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
  # Of 2048 drawn answers none is right: (2048 2047 2046) / (4096 4095 4094).
  missed = 2048 * 2047 * 2046 / (4096 * 4095 * 4094)
  found = accuracy.pass_at(right_QN, 2048)
  np.testing.assert_allclose(found, [1 - missed], rtol=1e-9)


@pytest.mark.parametrize('k', [0, 3])
def test_pass_at_needs_that_many_answers(k):
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
def test_votes(answers, right, expected, share):
  assert accuracy.majority_is_right(answers, right) == expected
  assert accuracy.agreement(answers) == pytest.approx(share)


def row(greedy, *sampled):
  """Answers as text, right is '1'."""
  answers = [greedy, *sampled]
  return {'answers': answers, 'right': [a == '1' for a in answers]}


def test_an_evaluation_worked_by_hand():
  rows = [
    row('1', '1', '2', '1', '1'),
    row('2', '2', '2', None, None),
    row('1', '2', '1', '1', '2'),
    row(None, None, None, '1', '2'),
  ]
  found = accuracy.summarize(rows, 2)
  value = {name: one['value'] for name, one in found.items()}
  assert value['greedy'] == 2 / 4
  # Right of 2: (1, 2), (0, 0), (1, 1), (0, 1).
  assert found['mean@2']['seeds'] == [2 / 8, 4 / 8]
  assert value['mean@2'] == 6 / 16
  assert found['mean@2']['std'] == pytest.approx(0.25 / math.sqrt(2))
  # 3, 0, 2 and 1 of 4 are right: 1 - C(4 - c, 2) / 6.
  assert value['pass@2'] == pytest.approx((1 + 0 + 5 / 6 + 3 / 6) / 4)
  assert value['pass@4'] == 3 / 4
  # The first of equals wins: right in 1 of 4, then in all but the second.
  assert found['maj@2']['seeds'] == [1 / 4, 3 / 4]
  assert value['unparsed'] == (0 + 2 + 0 + 3) / 20
  assert list(found) == [
    *('greedy', 'mean@2', 'pass@2', 'pass@4', 'maj@2', 'unparsed')
  ]


def test_programs_have_no_vote_and_greedy_alone_no_samples():
  rows = [row('1', '1'), row('2', '1')]
  found = accuracy.summarize(rows, 1, votes=False)
  assert list(found) == ['greedy', 'mean@1', 'unparsed']
  assert found['mean@1']['std'] is None
  found = accuracy.summarize([row('1')], 0)
  assert list(found) == ['greedy', 'unparsed']


def test_the_interval_is_that_of_a_mean():
  """For many values, the bootstrap interval is close to Student's interval."""
  values = np.random.default_rng(3).random(2000)
  found = accuracy.with_interval(values)
  expected = stats.t.interval(
    0.95, len(values) - 1, loc=values.mean(), scale=stats.sem(values)
  )
  # The ends of 2,000 resamples vary by a few hundredths of the width.
  width = expected[1] - expected[0]
  assert found['low'] == pytest.approx(expected[0], abs=0.05 * width)
  assert found['high'] == pytest.approx(expected[1], abs=0.05 * width)


def test_the_interval_holds_the_truth_19_times_in_20():
  rng = np.random.default_rng(4)
  found = [accuracy.with_interval(rng.random(200) < 0.3) for _ in range(120)]
  held = sum(one['low'] <= 0.3 <= one['high'] for one in found)
  # Binomial with 0.95, four standard deviations (of 2.4) below, one more: a
  # percentile interval of a share is a little short.
  assert 102 <= held < 120


@pytest.mark.parametrize('count, total', [(0, 7), (7, 7), (3, 7), (90, 100)])
def test_wilson(count, total):
  expected = proportion.proportion_confint(count, total, method='wilson')
  np.testing.assert_allclose(
    accuracy.wilson(count, total), np.clip(expected, 0, 1), atol=1e-12
  )
  expected = stats.binomtest(count, total).proportion_ci(method='wilson')
  np.testing.assert_allclose(
    accuracy.wilson(count, total), [expected.low, expected.high], atol=1e-12
  )


@pytest.mark.parametrize('values', [[1, 1, 1], [0, 0], [1], [0], [0.5] * 4])
def test_all_alike_is_not_certain(values):
  found = accuracy.with_interval(np.array(values))
  assert found['low'] <= found['value'] <= found['high']
  assert found['high'] - found['low'] > 0.4
  assert accuracy.wilson(0, 0) == (0, 1)


def test_pass_at_k_is_told_of_the_k_that_was_asked_for():
  found = accuracy.summarize([row('1', *'122112'), row('2', *'121212')], 3)
  assert [name for name in found if name.startswith('pass')] == [
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
  rows = [row(*one) for one in answers]
  for samples in (4, 2, 1):
    for one in accuracy.summarize(rows, samples).values():
      assert 0 <= one['low'] <= one['value'] <= one['high'] <= 1
