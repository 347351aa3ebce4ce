"""Rounding to bfloat16, against shares counted over many elements."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sqlm_jax.ops import rounding

NUMBER = 1_000_000
# 0.04 lies between two bfloat16 numbers, 1 + 2**-8 half-way between two, and
# the neighbors of a power of two are not at the same distance.
STARTS = [0.04, -0.04, 0.125, 1.0, -1.0, 1 + 2**-8, 1 + 3 * 2**-8, 171.3]


def in_bfloat16(x):
  return np.asarray(x.astype(jnp.bfloat16).astype(jnp.float32), np.float64)


@pytest.mark.parametrize('start', STARTS)
def test_spread_numbers_round_to_the_same_number(start):
  x = jnp.full((NUMBER,), start, jnp.float32)
  spread = rounding.spread(jax.random.key(0), x)
  np.testing.assert_array_equal(in_bfloat16(spread), in_bfloat16(x))
  assert len(np.unique(spread)) > 50_000  # of 65 535 that round to it


@pytest.mark.parametrize('start', STARTS)
@pytest.mark.parametrize('share', [0.02, -0.02, 0.3, -0.3])
def test_spread_numbers_follow_an_update_on_average(start, share):
  x = jnp.full((NUMBER,), start, jnp.float32)
  spread = rounding.spread(jax.random.key(0), x)
  # A share of the distance to the next bfloat16 number toward zero.
  exponent = np.floor(np.log2(abs(in_bfloat16(x)[0])))
  if in_bfloat16(x)[0] in (0.125, 1.0, -1.0):
    exponent -= 1
  update = share * 2.0 ** (exponent - 7)
  moved = in_bfloat16(spread + update) - in_bfloat16(x)
  # Five standard deviations of a share of 0.02 among a million, 0.0007.
  assert moved.mean() / update == pytest.approx(1, abs=0.04)


def test_zeros_stay_zeros():
  x = jnp.array([0.0, -0.0])
  spread = rounding.spread(jax.random.key(0), x)
  np.testing.assert_array_equal(spread, x)
  np.testing.assert_array_equal(np.signbit(spread), [False, True])


def test_large_and_tiny_numbers_stay_finite():
  x = jnp.array([3e38, -3e38, 1e-37, -1e-37])
  spread = np.asarray(rounding.spread(jax.random.key(0), x))
  np.testing.assert_allclose(spread, x, rtol=2**-7)


def test_centered_numbers_are_bfloat16_numbers():
  x = jnp.linspace(-3, 3, 1001)
  np.testing.assert_array_equal(jax.jit(rounding.center)(x), in_bfloat16(x))


def test_random_rounding_is_right_on_average():
  x = jnp.full((20_000,), 1 + 2**-10)  # an eighth of the way to the next
  rounded = rounding.round_at_random(jax.random.key(0), x)
  assert rounded.dtype == jnp.bfloat16
  values, counts = np.unique(rounded.astype(np.float32), return_counts=True)
  np.testing.assert_array_equal(values, [1, 1 + 2**-7])
  # Five standard deviations of a share of 1 in 8 among 20 000.
  assert counts[1] / len(x) == pytest.approx(1 / 8, abs=0.012)
  exact = jnp.array([0.0, -1.5, 2.0**-100, -0.0])
  again = rounding.round_at_random(jax.random.key(1), exact)
  np.testing.assert_array_equal(again.astype(jnp.float32), exact)
