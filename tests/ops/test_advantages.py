"""Advantages against numbers worked by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sqlm_jax.ops import advantages

NAN = float('nan')
INF = float('inf')
ROOT3 = 3**0.5


@pytest.mark.parametrize(
  'rewards, counted, normalized, centered',
  [
    # mean 1/2, squares 4 * 1/4 = 1, unbiased variance 1/3, std 1/sqrt 3.
    pytest.param(
      [1, 1, 0, 0],
      [1, 1, 1, 1],
      [ROOT3 / 2, ROOT3 / 2, -ROOT3 / 2, -ROOT3 / 2],
      [0.5, 0.5, -0.5, -0.5],
      id='half-right',
    ),
    # mean 1/4, squares 9/16 + 3/16 = 3/4, variance 1/4, std 1/2.
    pytest.param(
      [1, 0, 0, 0],
      [1, 1, 1, 1],
      [1.5, -0.5, -0.5, -0.5],
      [0.75, -0.25, -0.25, -0.25],
      id='one-right',
    ),
    # mean 3, squares 4 + 0 + 4 = 8, variance 8/2, std 2.
    pytest.param(
      [1, 3, 5], [1, 1, 1], [-1, 0, 1], [-2, 0, 2], id='rewards-not-0-or-1'
    ),
    # Rewards that do not count have no effect, whatever they are.
    pytest.param(
      [1, 99, 3, NAN, 5],
      [1, 0, 1, 0, 1],
      [-1, 0, 0, 0, 1],
      [-2, 0, 0, 0, 2],
      id='uncounted',
    ),
    # mean 2, squares 1 + 1, variance 2/1, std sqrt 2.
    pytest.param(
      [1, 3, 7], [1, 1, 0], [-(0.5**0.5), 0.5**0.5, 0], [-1, 1, 0], id='pair'
    ),
    pytest.param([1, 1, 1], [1, 1, 1], [0, 0, 0], [0, 0, 0], id='all-equal'),
    pytest.param([0, 0, 0], [1, 1, 1], [0, 0, 0], [0, 0, 0], id='all-wrong'),
    pytest.param([1, 0, 0], [1, 0, 0], [0, 0, 0], [0, 0, 0], id='one-counted'),
    pytest.param([1, 0, 1], [0, 0, 0], [0, 0, 0], [0, 0, 0], id='none-counted'),
    pytest.param([1], [1], [0], [0], id='group-of-one'),
  ],
)
def test_by_hand(rewards, counted, normalized, centered):
  rewards = jnp.array([rewards], jnp.float32)
  counted = jnp.array([counted], bool)
  # float32, and epsilon moves a number by 1e-6 / std.
  close = {'rtol': 5e-6, 'atol': 1e-7}
  np.testing.assert_allclose(
    advantages.group_relative(rewards, counted)[0], normalized, **close
  )
  np.testing.assert_allclose(
    advantages.group_relative(rewards, counted, normalize=False)[0],
    centered,
    **close,
  )


def test_groups_are_never_mixed():
  rewards = jnp.array([[1, 0, 0, 0], [100, 100, 104, 104], [7, 7, 7, 7]])
  counted = jnp.ones(rewards.shape, bool)
  together = advantages.group_relative(rewards, counted)
  # The second row is the half-right group, times 4 and reversed.
  np.testing.assert_allclose(
    together,
    [
      [1.5, -0.5, -0.5, -0.5],
      [-ROOT3 / 2, -ROOT3 / 2, ROOT3 / 2, ROOT3 / 2],
      [0, 0, 0, 0],
    ],
    rtol=5e-6,
  )


def test_epsilon_is_added_to_the_deviation():
  # Centered -2, 0, 2 and std 2, as above: 2 / (2 + 2).
  got = advantages.group_relative(
    jnp.array([[1, 3, 5]]), jnp.ones((1, 3), bool), epsilon=2.0
  )
  np.testing.assert_allclose(got, [[-0.5, 0, 0.5]], rtol=1e-6)


def test_rank_and_shape_are_checked():
  with pytest.raises(AssertionError):
    advantages.group_relative(jnp.ones(3), jnp.ones(3, bool))
  with pytest.raises(AssertionError):
    advantages.group_relative(jnp.ones((1, 3)), jnp.ones((1, 2), bool))


ESTIMATORS = {name: jax.jit(f) for name, f in advantages.ESTIMATORS.items()}

# Two groups: 0 and 3, mean 3/2; 1, 1 and 7, mean 3. Rewards of 9 do not count.
REWARDS = jnp.array([[0, 9, 3], [1, 1, 7]], jnp.float32)
COUNTED = jnp.array([[1, 0, 1], [1, 1, 1]], bool)


@pytest.mark.parametrize(
  'name, expected',
  [
    # Squares 9/4 + 9/4 and 4 + 4 + 16: variances 9/2 and 24/2.
    (
      'grpo',
      [
        [-1.5 / 4.5**0.5, 0, 1.5 / 4.5**0.5],
        [-2 / 12**0.5, -2 / 12**0.5, 4 / 12**0.5],
      ],
    ),
    ('dr_grpo', [[-1.5, 0, 1.5], [-2, -2, 4]]),
    # The batch: 0, 3, 1, 1, 7 with mean 12/5. Squares 5.76 + 0.36 + 1.96 +
    # 1.96 + 21.16 = 31.2, variance 31.2 / 4 = 7.8.
    (
      'lite_ppo',
      [
        [-1.5 / 7.8**0.5, 0, 1.5 / 7.8**0.5],
        [-2 / 7.8**0.5, -2 / 7.8**0.5, 4 / 7.8**0.5],
      ],
    ),
    # 0 - 3 and 3 - 0; 1 - (1 + 7) / 2 = -3, and 7 - (1 + 1) / 2.
    ('rloo', [[-3, 0, 3], [-3, -3, 6]]),
    (
      'reinforce++',
      [
        [-2.4 / 7.8**0.5, 0, 0.6 / 7.8**0.5],
        [-1.4 / 7.8**0.5, -1.4 / 7.8**0.5, 4.6 / 7.8**0.5],
      ],
    ),
    # The centered rewards have mean 0 and squares 4.5 + 24: variance 28.5 / 4.
    (
      'reinforce++_baseline',
      [
        [-1.5 / 7.125**0.5, 0, 1.5 / 7.125**0.5],
        [-2 / 7.125**0.5, -2 / 7.125**0.5, 4 / 7.125**0.5],
      ],
    ),
    ('reinforce', [[-2.4, 0, 0.6], [-1.4, -1.4, 4.6]]),
  ],
)
def test_every_estimator_by_hand(name, expected):
  got = ESTIMATORS[name](REWARDS, COUNTED)
  # float32, and epsilon moves a number by 1e-6 / std.
  np.testing.assert_allclose(got, expected, rtol=5e-6, atol=1e-6)


@pytest.mark.parametrize('name', ESTIMATORS)
@pytest.mark.parametrize(
  'rewards, counted',
  [
    pytest.param([[1, 2], [3, 4]], [[0, 0], [0, 0]], id='none-counted'),
    pytest.param([[NAN, INF], [-INF, 4]], [[0, 0], [0, 0]], id='garbage'),
    pytest.param([[5, NAN], [INF, 4]], [[1, 0], [0, 0]], id='one-counted'),
    pytest.param([[2, 2], [2, 2]], [[1, 1], [1, 1]], id='all-equal'),
    pytest.param([[2, 2], [2, NAN]], [[1, 1], [1, 0]], id='equal-and-one'),
  ],
)
def test_nothing_to_compare_is_0(name, rewards, counted):
  got = ESTIMATORS[name](jnp.array(rewards), jnp.array(counted, bool))
  np.testing.assert_array_equal(got, np.zeros((2, 2)))


@pytest.mark.parametrize('name', ESTIMATORS)
def test_what_is_not_counted_may_be_anything(name):
  expected = ESTIMATORS[name](REWARDS, COUNTED)
  for garbage in (NAN, INF, -INF, 1e30):
    rewards = jnp.where(COUNTED, REWARDS, garbage)
    np.testing.assert_array_equal(ESTIMATORS[name](rewards, COUNTED), expected)


@pytest.mark.parametrize('name', ESTIMATORS)
def test_a_group_of_one_by_the_side(name):
  rewards = jnp.concatenate([REWARDS, jnp.array([[5, NAN, NAN]])])
  counted = jnp.concatenate([COUNTED, jnp.array([[1, 0, 0]], bool)])
  got = ESTIMATORS[name](rewards, counted)
  if name.endswith('baseline') or name in ('grpo', 'dr_grpo', 'rloo'):
    np.testing.assert_array_equal(got[:2], ESTIMATORS[name](REWARDS, COUNTED))
  if name in ('reinforce', 'reinforce++'):
    # Rewards are compared with the batch, whose mean is now 17 / 6.
    assert got[2, 0] > 0
    assert not got[2, 1:].any()
  else:
    assert not got[2].any()


@pytest.mark.parametrize('name', ESTIMATORS)
def test_estimators_check_shapes(name):
  with pytest.raises(AssertionError):
    ESTIMATORS[name](jnp.ones((1, 3)), jnp.ones((1, 2), bool))


def test_leave_one_out_leaves_one_out():
  """Compares with a loop on random groups with gaps."""
  random = np.random.default_rng(0)
  rewards, counted = random.normal(size=(6, 5)), random.random((6, 5)) < 0.7
  got = advantages.leave_one_out(jnp.array(rewards), jnp.array(counted))
  for row, kept, advantage in zip(rewards, counted, got, strict=True):
    for i in range(5):
      others = np.delete(row, i)[np.delete(kept, i)]
      expected = row[i] - others.mean() if kept[i] and others.size else 0
      np.testing.assert_allclose(advantage[i], expected, rtol=1e-5, atol=1e-6)


def test_whitened_values_by_hand():
  # 1, 3, 5 of the mask: mean 3, unbiased std 2.
  got = advantages.whiten(
    jnp.array([[[1.0, NAN], [3.0, INF], [5.0, 99.0]]]),
    jnp.array([[[1, 0], [1, 0], [1, 0]]], bool),
  )
  np.testing.assert_allclose(got, [[[-1, 0], [0, 0], [1, 0]]], rtol=1e-6)


@pytest.mark.parametrize('name', ESTIMATORS)
def test_equal_rewards_are_0_whatever_they_are(name):
  """In float32, the mean of n equal numbers may differ from the number."""
  for size, reward in ((8, 0.7), (16, 1.1), (32, 1.2)):
    rewards = np.full((3, size), reward, np.float32)
    found = ESTIMATORS[name](rewards, rewards > 0)
    np.testing.assert_array_equal(found, 0)


def test_equal_values_whitened_are_0():
  values = np.full(1000, 0.7, np.float32)
  np.testing.assert_array_equal(advantages.whiten(values, values > 0), 0)


@pytest.mark.parametrize(
  'weight, expected',
  [
    (1.0, [[0.25, -0.75], [0, 2]]),
    (0.5, [[0.125, -0.75], [0, 1]]),
    (0.0, [[0, -0.75], [0, 0]]),
  ],
)
def test_a_weight_of_positive_advantages(weight, expected):
  found = advantages.weigh_positive(jnp.array([[0.25, -0.75], [0, 2]]), weight)
  assert found.tolist() == expected
