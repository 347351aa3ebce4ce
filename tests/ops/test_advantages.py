"""Group-relative advantages against numbers worked by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from sqlm_jax.ops import advantages

NAN = float('nan')
ROOT3 = 3**0.5


@pytest.mark.parametrize(
  'rewards, counted, normalized, centred',
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
    # The same three, and what is not counted may be anything.
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
def test_by_hand(rewards, counted, normalized, centred):
  rewards = jnp.array([rewards], jnp.float32)
  counted = jnp.array([counted], bool)
  # float32, and epsilon moves a number by 1e-6 / std.
  close = {'rtol': 5e-6, 'atol': 1e-7}
  np.testing.assert_allclose(
    advantages.group_relative(rewards, counted)[0], normalized, **close
  )
  np.testing.assert_allclose(
    advantages.group_relative(rewards, counted, normalize=False)[0],
    centred,
    **close,
  )


def test_groups_are_never_mixed():
  rewards = jnp.array([[1, 0, 0, 0], [100, 100, 104, 104], [7, 7, 7, 7]])
  counted = jnp.ones(rewards.shape, bool)
  together = advantages.group_relative(rewards, counted)
  # The second row is the half-right group, times 4 and turned round.
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
  # Centred -2, 0, 2 and std 2, as above: 2 / (2 + 2).
  got = advantages.group_relative(
    jnp.array([[1, 3, 5]]), jnp.ones((1, 3), bool), epsilon=2.0
  )
  np.testing.assert_allclose(got, [[-0.5, 0, 0.5]], rtol=1e-6)


def test_rank_and_shape_are_checked():
  with pytest.raises(AssertionError):
    advantages.group_relative(jnp.ones(3), jnp.ones(3, bool))
  with pytest.raises(AssertionError):
    advantages.group_relative(jnp.ones((1, 3)), jnp.ones((1, 2), bool))
