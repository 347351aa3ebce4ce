"""GAE against numbers worked by hand and against its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sqlm_jax.ops import advantages, returns

NAN = float('nan')
INF = float('inf')


def estimate(rewards, values, lengths, gamma, decay):
  return jax.jit(returns.generalized_advantages)(
    jnp.array(rewards, jnp.float32),
    jnp.array(values, jnp.float32),
    jnp.array(lengths),
    gamma=gamma,
    gae_lambda=decay,
  )


def test_the_last_token_is_paid():
  got = returns.at_last_token(
    jnp.array([5.0, -1.0, 7.0, 3.0]), jnp.array([3, 1, 0, 4]), 4
  )
  np.testing.assert_array_equal(
    got, [[0, 0, 5, 0], [-1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 3]]
  )


@pytest.mark.parametrize(
  'gamma, decay, expected',
  [
    # Values 1, 2, 4, reward 8 at the end. With gamma 1 the deltas are
    # 2 - 1, 4 - 2, 8 - 4 = 1, 2, 4.
    (1.0, 0.0, [1, 2, 4]),
    (1.0, 1.0, [7, 6, 4]),  # reward less value
    (1.0, 0.5, [1 + 0.5 * 4, 2 + 0.5 * 4, 4]),
    # gamma 1/2: the deltas are 1 - 1, 2 - 2, 8 - 4; A shrinks by 1/4.
    (0.5, 0.5, [0.25, 1, 4]),
    (0.5, 1.0, [1, 2, 4]),  # 8/4 - 1, 8/2 - 2, 8 - 4
  ],
)
def test_one_response_by_hand(gamma, decay, expected):
  got, targets = estimate([[0, 0, 8, NAN]], [[1, 2, 4, INF]], [3], gamma, decay)
  np.testing.assert_array_equal(got, [[*expected, 0]])  # exact in binary
  np.testing.assert_array_equal(
    targets, [[expected[0] + 1, expected[1] + 2, expected[2] + 4, 0]]
  )


@pytest.mark.parametrize('garbage', [NAN, INF, -INF, 1e30])
def test_padding_and_neighbours_do_not_matter(garbage):
  rows = np.full((4, 5), garbage)
  rewards, values = rows.copy(), rows.copy()
  rewards[0, :3], values[0, :3] = [0, 0, 1], [0.5, 0.25, 0.5]
  rewards[2, :1], values[2, :1] = 2, 3
  rewards[3], values[3] = 1, 0
  got, targets = estimate(rewards, values, [3, 0, 1, 5], 1.0, 1.0)
  expected = [[0.5, 0.75, 0.5, 0, 0], [0] * 5, [-1, 0, 0, 0, 0]]
  np.testing.assert_array_equal(got, [*expected, [5, 4, 3, 2, 1]])
  np.testing.assert_array_equal(targets[0], [1, 1, 1, 0, 0])
  np.testing.assert_array_equal(targets[1:3], [[0] * 5, [2, 0, 0, 0, 0]])


@pytest.mark.parametrize('gamma, decay', [(1, 0.95), (0.9, 0.5), (0.99, 1)])
def test_the_sum_of_equation_16(gamma, decay):
  """Compares with a double loop in float64 over random responses."""
  random = np.random.default_rng(0)
  rewards, values = random.normal(size=(2, 8, 11))
  lengths = random.integers(0, 12, 8)
  expected = np.zeros((8, 11))
  for b, n in enumerate(lengths):
    after = np.append(values[b, 1:n], 0)
    deltas = rewards[b, :n] + gamma * after - values[b, :n]
    for t in range(n):
      powers = (gamma * decay) ** np.arange(n - t)
      expected[b, t] = np.sum(powers * deltas[t:])
  got, targets = estimate(rewards, values, lengths, gamma, decay)
  np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
  mask = np.arange(11) < lengths[:, None]
  np.testing.assert_allclose(
    targets, expected + values * mask, rtol=1e-5, atol=1e-6
  )


def test_a_reward_and_no_value_function():
  """With V = 0, the advantage of every token is the reward."""
  lengths = jnp.array([2, 4])
  rewards = returns.at_last_token(jnp.array([1.0, -3.0]), lengths, 4)
  got, _ = estimate(rewards, jnp.zeros((2, 4)), lengths, 1.0, 1.0)
  np.testing.assert_array_equal(got, [[1, 1, 0, 0], [-3, -3, -3, -3]])


def test_no_gradient_flows():
  grad = jax.grad(
    lambda v: sum(
      jnp.sum(x)
      for x in returns.generalized_advantages(
        v, v, jnp.array([2]), gamma=0.9, gae_lambda=0.9
      )
    )
  )(jnp.ones((1, 3)))
  np.testing.assert_array_equal(grad, np.zeros((1, 3)))


def test_whitened_over_tokens():
  # Advantages 1, 3 and 5 of two responses: mean 3, unbiased std 2.
  mask = jnp.array([[1, 1], [1, 0]], bool)
  got = advantages.whiten(jnp.array([[1.0, 3.0], [5.0, NAN]]), mask)
  np.testing.assert_allclose(got, [[-1, 0], [1, 0]], rtol=1e-6)


@pytest.mark.parametrize(
  'values, expected',
  [
    # Targets 1, 3, 5: mean 3, squares 4 + 0 + 4.
    ([1, 3, 5], 8),  # perfect
    ([2, 4, 6], 8),  # off by a constant
    ([7, 7, 7], 0),  # a constant
    ([1, 3, 3], 8 - 8 / 3),  # R - V = 0, 0, 2: 4/9 + 4/9 + 16/9
    ([5, 3, 1], 8 - 32),  # R - V = -4, 0, 4
  ],
)
def test_explained_variance(values, expected):
  mask = jnp.array([1, 1, 1, 0], bool)
  explained, total = returns.explained_variance(
    jnp.array([*values, NAN]), jnp.array([1.0, 3.0, 5.0, INF]), mask
  )
  assert total == 8
  assert float(explained) == pytest.approx(expected, rel=1e-6)


def test_equal_targets_have_no_variance_to_explain():
  pair = returns.explained_variance(
    jnp.array([1.0, 2.0]), jnp.ones(2), jnp.ones(2, bool)
  )
  assert pair[1] == 0


def test_shapes_are_checked():
  with pytest.raises(AssertionError):
    estimate(np.ones((2, 3)), np.ones((2, 4)), [1, 1], 1.0, 1.0)
  with pytest.raises(AssertionError):
    estimate(np.ones(3), np.ones(3), [1], 1.0, 1.0)
