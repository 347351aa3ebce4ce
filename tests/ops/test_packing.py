"""Rows to parts and back, by hand and against NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sqlm_jax.ops import packing

# Two parts of two rows of three: a tail, a hole, nothing at all.
LIVE = np.array(
  [[[True, True, False], [True, False, True]], [[False] * 3, [True] * 3]]
)
PACKING = packing.Packing(
  np.array([[0, 1, 3, 5, 6], [3, 4, 5, 6, 6]], np.int32),
  np.array([[[0, 1, 5], [2, 5, 3]], [[5, 5, 5], [0, 1, 2]]], np.int32),
)


def test_by_hand():
  rows = np.arange(1, 13).reshape(4, 3)
  packed = packing.pack(rows, PACKING)
  assert packed.tolist() == [[1, 2, 4, 6, 0], [10, 11, 12, 0, 0]]
  assert packing.unpack(packed, PACKING).tolist() == [
    [1, 2, 0],
    [4, 0, 6],
    [0, 0, 0],
    [10, 11, 12],
  ]


@pytest.mark.parametrize('shape', [(), (2,), (2, 3)])
def test_there_and_back(shape):
  x = np.random.default_rng(0).normal(size=(4, 3, *shape)).astype(np.float32)
  packed = packing.pack(x, PACKING)
  assert packed.shape == (2, 5, *shape)
  live = LIVE.reshape(4, 3, *[1] * len(shape))
  found = packing.unpack(packed, PACKING)
  np.testing.assert_array_equal(found, np.where(live, x, 0))
  np.testing.assert_array_equal(packing.pack(found, PACKING), packed)


def test_longer_rows():
  packed = packing.pack(np.arange(1, 13).reshape(4, 3), PACKING)
  longer = packing.lengthen(PACKING)
  found = packing.unpack(packed, longer)
  assert found[:, :3].tolist() == packing.unpack(packed, PACKING).tolist()
  assert not found[:, 3].any()
  assert packing.pack(found, longer).tolist() == packed.tolist()


def plain(x, index):
  """Gathers with plain JAX, whose gradient is automatic."""
  parts = len(index)
  x = x.reshape(parts, -1, *x.shape[2:])
  index = index.reshape(parts, -1)
  there = index < x.shape[1]
  found = jnp.stack([x[a, np.where(there[a], index[a], 0)] for a in range(2)])
  return jnp.where(there.reshape(*there.shape, 1), found, 0)


@pytest.mark.parametrize('move, index', [('pack', 0), ('unpack', 1)])
def test_gradients_are_those_of_reading(move, index):
  rng = np.random.default_rng(1)
  x = rng.normal(size=(4, 3, 2) if move == 'pack' else (2, 5, 2))
  x = x.astype(np.float32)
  factors = rng.normal(size=PACKING[index].size * 2).astype(np.float32)
  ours = functools.partial(getattr(packing, move), packing=PACKING)
  theirs = functools.partial(plain, index=PACKING[index])

  def total(f):
    return lambda x: jnp.sum(jnp.sin(f(x).reshape(-1)) * factors)

  expected = jax.value_and_grad(total(theirs))(x)
  found = jax.jit(jax.value_and_grad(total(ours)))(x)
  np.testing.assert_allclose(found[0], expected[0], rtol=1e-6)
  np.testing.assert_allclose(found[1], expected[1], rtol=1e-6)


def test_nothing_is_added_up():
  """A scatter would cost far more than the gather."""
  grad = jax.grad(lambda x: packing.pack(x, PACKING).sum())
  text = str(jax.make_jaxpr(grad)(np.ones((4, 3, 2), np.float32)))
  assert 'scatter' not in text
  assert text.count(' gather[') == 2
