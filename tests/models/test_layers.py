"""Rotary embedding and norm against what defines them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sqlm_jax.models import layers

THETA = 10_000.0
rotary = jax.jit(layers.rotary)


def vectors(seed, width=8):
  return jax.random.normal(jax.random.key(seed), (2, 3, 4, width))


def test_rotary_by_hand():
  # Width 4 and theta 100: frequencies 1 and 1/10, pairs (0, 2) and (1, 3).
  x = jnp.array([1.0, 1.0, 0.0, 2.0]).reshape(1, 1, 1, 4)
  got = rotary(x, jnp.array([[3]]), 100.0).ravel()
  c, s = np.cos(0.3), np.sin(0.3)
  expected = [np.cos(3), c - 2 * s, np.sin(3), 2 * c + s]
  np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_position_0_is_not_rotated():
  x = vectors(0)
  np.testing.assert_array_equal(rotary(x, jnp.zeros((2, 3), int), THETA), x)


def test_rotary_keeps_the_norm():
  x = vectors(0)
  turned = rotary(x, jnp.array([[0, 1, 2], [7, 500, 2000]]), THETA)
  np.testing.assert_allclose(
    jnp.linalg.norm(turned, axis=-1), jnp.linalg.norm(x, axis=-1), rtol=1e-5
  )
  assert not np.allclose(turned[1], x[1], atol=0.1)


@pytest.mark.parametrize('shift', [1, 13, 1000])
def test_scores_depend_on_the_distance_only(shift):
  query, key = vectors(1), vectors(2)
  here, there = jnp.array([[5, 1, 9], [0, 3, 3]]), jnp.array([[2, 1, 0]] * 2)

  def scores(by):
    one, other = rotary(query, here + by, THETA), rotary(key, there + by, THETA)
    return jnp.sum(one * other, axis=-1)

  # An angle of 1000 is rounded at 3e-5 in float32.
  np.testing.assert_allclose(scores(shift), scores(0), atol=1e-3)
  moved = rotary(query, here + shift, THETA) * rotary(key, there, THETA)
  assert not np.allclose(jnp.sum(moved, axis=-1), scores(0), atol=0.05)


def test_rotary_keeps_the_dtype():
  x = vectors(0).astype(jnp.bfloat16)
  assert rotary(x, jnp.ones((2, 3), int), THETA).dtype == jnp.bfloat16


def test_norm_by_hand():
  # Mean square (9 + 16) / 2 = 12.5.
  x = jnp.array([[[3.0, 4.0]], [[0.0, 0.0]]])
  norm = layers.RMSNorm(0.0, jnp.float32)
  scale = {'params': {'scale': jnp.array([1.0, 2.0])}}
  root = 12.5**0.5
  np.testing.assert_allclose(
    norm.apply(scale, x[:1]), [[[3 / root, 8 / root]]], rtol=1e-6
  )
  # Epsilon keeps nothing from becoming nan: 0 / sqrt(0 + 1e-5).
  small = layers.RMSNorm(1e-5, jnp.float32).apply(scale, x)
  np.testing.assert_array_equal(small[1], [[0.0, 0.0]])
