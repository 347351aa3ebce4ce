"""Rewards of solver and proposer."""

import random

import hypothesis
import pytest
from hypothesis import strategies as st

from sqlm_jax.game import rewards, types, vote

BLANK = types.Vote(None, 0, 4, 'blank')


@pytest.mark.parametrize(
  'answers, result, expected',
  [
    ([5, 5, None, 1], types.Vote(5, 2, 4), (1, 1, 0, 0)),
    ([5, 5, 5, 5], types.Vote(5, 4, 4), (1, 1, 1, 1)),
    ([0, 0, None, 1], types.Vote(0, 2, 4), (1, 1, 0, 0)),
    # A blank is not rewarded for agreeing with a vote without a winner.
    ([None, None, 1, 2], BLANK, (0, 0, 0, 0)),
    ([], types.Vote(None, 0, 0, 'blank'), ()),
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
    rewards.proposer(
      types.Vote(5 if count else None, count, 4), kind, low=0.3, high=0.8
    )
    for count in range(5)
  ]
  assert found == counts


def test_a_band_from_0_pays_for_a_majority_only():
  nobody = types.Vote(None, 0, 4, 'tie')
  assert rewards.proposer(nobody, 'band', low=0.0, high=1.0) == 0
  assert rewards.proposer(types.Vote(None, 0, 0), 'r_zero') == 0


def test_an_unknown_proposer_reward_is_named():
  with pytest.raises(ValueError, match="'best': expected one of"):
    rewards.proposer(BLANK, 'best')


def test_the_true_answer_is_the_control():
  answers = (5, 4, None, 5)
  assert rewards.right(answers, 5) == (1, 0, 0, 1)
  assert rewards.right(answers, None) == (0, 0, 0, 0)  # not known


def test_the_truth_is_looked_up_by_its_reward_alone():
  def never():
    raise AssertionError('training must not see it')

  vote_ = types.Vote(5, 2, 3)
  for kind in ('majority', 'format', 'random'):
    rewards.solver(kind, (5, 5, 1), vote_, coin=random.Random(0), true=never)
  found = rewards.solver(
    'true', (5, 5, 1), vote_, coin=random.Random(0), true=lambda: 1
  )
  assert found == (0, 0, 1)


@pytest.mark.parametrize('size', [2, 3, 4, 16])
def test_proposer_is_paid_between_one_and_all(size):
  # 1 < count < size: 0 for nobody and a singleton, 0 if all agree.
  expected = [0, 0, *[1] * (size - 2), 0]
  for count in range(size + 1):
    result = types.Vote(5 if count else None, count, size)
    assert rewards.proposer(result) == expected[count]


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
    ([1, 1], 0),  # two answers leave nothing between one and all
  ],
)
def test_proposer_of_our_vote(answers, expected):
  assert rewards.proposer(vote.majority(answers)) == expected


def test_coin_flips_are_fair_and_repeat_by_seed():
  answers = [None] * 2000
  flips = rewards.coin_flips(answers, random.Random(3))
  assert set(flips) == {0.0, 1.0}
  # Mean 1000, standard deviation sqrt(2000 / 4) = 22.4; five of them.
  assert abs(sum(flips) - 1000) < 112
  assert rewards.coin_flips(answers, random.Random(3)) == flips
  assert rewards.coin_flips(answers, random.Random(4)) != flips


@pytest.mark.parametrize(
  'kind, expected', [('majority', (1, 1, 0, 0)), ('format', (1, 1, 1, 0))]
)
def test_solver_by_kind(kind, expected):
  answers = [5, 5, 6, None]
  coin = random.Random(0)
  untouched = coin.getstate()
  result = types.Vote(5, 2, 4)
  assert rewards.solver(kind, answers, result, coin=coin) == expected
  assert coin.getstate() == untouched


def test_solver_at_random():
  answers = [5] * 64
  result = types.Vote(5, 64, 64)
  got = rewards.solver('random', answers, result, coin=random.Random(1))
  assert got == rewards.coin_flips(answers, random.Random(1))


def test_solver_of_unknown_kind():
  with pytest.raises(ValueError, match="kind='oracle': expected one of"):
    rewards.solver('oracle', [1], BLANK, coin=random.Random(0))


@hypothesis.given(
  st.lists(st.sampled_from([None, 1, 2]), max_size=8),
  st.sampled_from(vote.TIES),
)
def test_the_rewarded_are_as_many_as_the_count(answers, ties):
  result = vote.majority(answers, ties=ties)
  assert sum(rewards.majority(answers, result)) == result.count
