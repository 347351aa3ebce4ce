"""Products of rounded operands against NumPy's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sqlm_jax.ops import products

BF16 = jnp.dtype('bfloat16')


def numbers(*shape):
  return np.random.default_rng(len(shape) + sum(shape)).normal(size=shape)


def rounded(x):
  """Rounds to bfloat16, and returns float64."""
  return np.asarray(jnp.asarray(x, BF16), np.float64)


@pytest.mark.parametrize('rows', [1, 2, 7])
@pytest.mark.parametrize('axis', [0, 1])
def test_only_the_operands_are_rounded(rows, axis):
  x_MK, y_KN = numbers(rows, 64), numbers(64, 48)
  y = jnp.float32(y_KN.T if axis else y_KN)
  found = products.multiply(jnp.float32(x_MK), y, BF16, axis)
  assert found.dtype == jnp.float32
  expected = rounded(x_MK) @ rounded(y_KN)
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
  # Rounding has an effect.
  assert np.abs(expected - x_MK @ y_KN).max() > 1e-3


@pytest.mark.parametrize('stored', ['float32', 'bfloat16'])
@pytest.mark.parametrize('axis', [0, 1])
def test_gradients(axis, stored):
  """For a cotangent d, dx = d y^T and dy = x^T d, with rounded operands."""
  x_MK, y_KN, d_MN = numbers(6, 64), numbers(64, 48), numbers(6, 48)
  y_KN = rounded(y_KN)  # so that both dtypes store the same numbers
  y = jnp.asarray(y_KN.T if axis else y_KN, stored)
  found, pull = jax.vjp(
    lambda x, y: products.multiply(x, y, BF16, axis), jnp.float32(x_MK), y
  )
  d_x, d_y = pull(jnp.float32(d_MN).astype(found.dtype))
  assert (d_x.dtype, d_y.dtype) == (jnp.float32, jnp.dtype(stored))
  expected = rounded(d_MN) @ y_KN.T
  np.testing.assert_allclose(d_x, expected, rtol=1e-5, atol=1e-5)
  expected = rounded(x_MK).T @ rounded(d_MN)
  np.testing.assert_allclose(
    np.asarray(d_y, np.float64),
    expected.T if axis else expected,
    rtol=1e-5 if stored == 'float32' else 1e-2,
    atol=1e-5,
  )


def test_bits_are_the_numbers():
  x = jnp.asarray([[0.0, -1.5, jnp.inf], [3e-39, 257.0, jnp.nan]])
  bits = products.to_bits(x)
  assert bits.dtype == jnp.uint16
  np.testing.assert_array_equal(
    np.asarray(products.from_bits(bits), np.float32),
    np.asarray(x.astype(BF16), np.float32),
  )
  assert products.from_bits(x) is x
