"""Rewards of solver and proposer."""

import random

import hypothesis
import pytest
from hypothesis import strategies as st

from sqlm_jax.game import rewards, types, vote

UNPARSED = types.Vote(None, 0, 4, 'unparsed')


@pytest.mark.parametrize(
  'answers, result, expected',
  [
    ([5, 5, None, 1], types.Vote(5, 2, 4), (1, 1, 0, 0)),
    ([5, 5, 5, 5], types.Vote(5, 4, 4), (1, 1, 1, 1)),
    ([0, 0, None, 1], types.Vote(0, 2, 4), (1, 1, 0, 0)),
    # Unparsed answers are not rewarded if there is no majority.
    ([None, None, 1, 2], UNPARSED, (0, 0, 0, 0)),
    ([], types.Vote(None, 0, 0, 'unparsed'), ()),
  ],
)
def test_majority(answers, result, expected):
  got = rewards.majority(answers, result)
  assert got == expected
  assert all(isinstance(r, float) for r in got)


@pytest.mark.parametrize(
  'answers, expected',
  [
    ([5, None, 0, ''], (1, 0, 1, 1)),
    ([None, None], (0, 0)),
    ([], ()),
  ],
)
def test_well_formed(answers, expected):
  assert rewards.well_formed(answers) == expected


@pytest.mark.parametrize(
  'kind, counts',
  [
    # G = 4, counts 0 to 4: 1 - 2 |p - 1/2|, and 0.3 <= p <= 0.8.
    ('r_zero', [0, 0.5, 1, 0.5, 0]),
    ('band', [0, 0, 1, 1, 0]),
    ('sqlm', [0, 0, 1, 1, 0]),
  ],
)
def test_proposer_rewards_by_the_count_of_the_majority(kind, counts):
  found = [
    rewards.difficulty_of_vote(
      kind, types.Vote(5 if count else None, count, 4), band=(0.3, 0.8)
    )
    for count in range(5)
  ]
  assert found == counts


def test_a_band_from_0_rewards_only_a_majority():
  nobody = types.Vote(None, 0, 4, 'tie')
  assert rewards.difficulty_of_vote('band', nobody) == 0
  assert rewards.difficulty_of_vote('r_zero', types.Vote(None, 0, 0)) == 0


def test_an_unknown_proposer_reward_is_named():
  with pytest.raises(ValueError, match="term='best': expected one of"):
    rewards.difficulty_of_vote('best', UNPARSED)


def test_the_true_answer_is_the_control():
  answers = (5, 4, None, 5)
  assert rewards.right(answers, 5) == (1, 0, 0, 1)
  assert rewards.right(answers, None) == (0, 0, 0, 0)  # not known


def test_only_the_true_reward_looks_up_the_true_answer():
  def never():
    raise AssertionError('training must not see it')

  vote_ = types.Vote(5, 2, 3)
  for kind in ('majority', 'format', 'random'):
    pay({kind: 1.0, 'true': 0.0}, (5, 5, 1), vote_, true=never)
  found = pay({'true': 1.0}, (5, 5, 1), vote_, true=lambda: 1)
  assert found == (0, 0, 1)


@pytest.mark.parametrize('size', [2, 3, 4, 16])
def test_sqlm_rewards_a_majority_between_one_and_all(size):
  # 1 < count < size: 0 for no majority, for a singleton, and if all agree.
  expected = [0, 0, *[1] * (size - 2), 0]
  for count in range(size + 1):
    result = types.Vote(5 if count else None, count, size)
    assert rewards.difficulty_of_vote('sqlm', result) == expected[count]


@pytest.mark.parametrize(
  'answers, expected',
  [
    ([1, 1, 1, 1], 0),  # unanimous: too easy
    ([1, 1, 1, 2], 1),
    ([1, 1, 1, None], 1),
    ([1, 1, 2, None], 1),
    ([1, 1, 2, 2], 0),  # a tie
    ([1, 2, 3, 4], 0),  # too hard
    ([None, None, None, None], 0),
    ([1, 1], 0),  # no count lies between 1 and 2
  ],
)
def test_the_proposers_reward_of_a_vote(answers, expected):
  found = rewards.difficulty_of_vote('sqlm', vote.majority(answers))
  assert found == expected


def test_coin_flips_are_fair_and_repeat_by_seed():
  answers = [None] * 2000
  flips = rewards.coin_flips(answers, random.Random(3))
  assert set(flips) == {0.0, 1.0}
  # Mean 1000, standard deviation sqrt(2000 / 4) = 22.4; five of them.
  assert abs(sum(flips) - 1000) < 112
  assert rewards.coin_flips(answers, random.Random(3)) == flips
  assert rewards.coin_flips(answers, random.Random(4)) != flips


def pay(weights, answers, result, **settings):
  settings = {'coin': random.Random(1)} | settings
  return rewards.solver(weights, answers, vote=result, **settings)


@pytest.mark.parametrize(
  'weights, expected',
  [
    ({'majority': 1.0}, (1, 1, 0, 0)),
    ({'format': 1.0}, (1, 1, 1, 0)),
    ({'majority': 1.0, 'format': 0.5}, (1.5, 1.5, 0.5, 0)),
    ({'majority': 0.0}, (0, 0, 0, 0)),
    ({}, (0, 0, 0, 0)),
  ],
)
def test_the_solvers_reward_is_a_weighted_sum(weights, expected):
  coin = random.Random(0)
  untouched = coin.getstate()
  result = types.Vote(5, 2, 4)
  assert pay(weights, [5, 5, 6, None], result, coin=coin) == expected
  assert coin.getstate() == untouched


def test_random_rewards_of_the_solver():
  answers = [5] * 64
  got = pay({'random': 1.0}, answers, types.Vote(5, 64, 64))
  assert got == rewards.coin_flips(answers, random.Random(1))


def test_rewards_of_the_solver_by_tests():
  found = rewards.solver(
    {'tests': 2.0}, ['a', 'b'], passed=(0.25, 1.0), coin=random.Random(0)
  )
  assert found == (0.5, 2.0)


@pytest.mark.parametrize(
  'passed, group, sample',
  [
    ((), 0, 0),
    ((0.0, 0.0), 0, 0),
    ((1.0, 1.0), 0, 0),
    # Half of all tests pass, but each program is all right or all wrong.
    ((0.0, 1.0), 1, 0),
    ((0.5, 1.0), 1, 0.5),
    ((0.5, 0.25), 1, 1),
  ],
)
def test_the_proposers_reward_of_tests(passed, group, sample):
  for over, expected in (('group', group), ('sample', sample)):
    found = rewards.difficulty_of_tests('sqlm', passed, over=over)
    assert found == expected


def test_other_difficulties_of_tests():
  # p is 3/4 of all tests: 1 - 2 / 4. Of each program: 1, and 0.
  assert rewards.difficulty_of_tests('r_zero', (0.5, 1.0)) == 0.5
  each = rewards.difficulty_of_tests('r_zero', (0.5, 1.0), over='sample')
  assert each == 0.5
  for band, expected in (((0.7, 0.8), 1), ((0.8, 0.9), 0)):
    found = rewards.difficulty_of_tests('band', (0.5, 1.0), band=band)
    assert found == expected


@pytest.mark.parametrize(
  'step, expected', [(0, 0), (10, 0), (15, 1), (20, 2), (25, 1.5), (99, 1)]
)
def test_a_weight_is_phased_in_and_out(step, expected):
  points = (('band', 20, 2.0), ('band', 10, 0.0), ('band', 30, 1.0))
  found = rewards.weights_at(step, {'sqlm': 1.0, 'band': 7.0}, points)
  assert found == {'sqlm': 1.0, 'band': expected}


def test_weights_without_a_schedule_are_constant():
  weights = {'sqlm': 1.0, 'band': 0.0}
  assert rewards.weights_at(3, weights) == weights
  one = rewards.weights_at(3, weights, (('sqlm', 5, 0.25),))
  assert one == {'sqlm': 0.25, 'band': 0.0}


@hypothesis.given(
  st.lists(st.sampled_from([None, 1, 2]), max_size=8),
  st.sampled_from(['none', 'first']),
)
def test_the_majority_count_is_the_number_of_rewarded_answers(answers, ties):
  result = vote.majority(answers, ties=ties)
  assert sum(rewards.majority(answers, result)) == result.count
