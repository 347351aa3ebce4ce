"""Tests of the layouts of the segments of a chain."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sqlm_jax.distributed import sharding
from sqlm_jax.models import attention, joined_segments

SHAPES = ((1, 3), (2, 4), (6, 2))


def trees():
  """One tree per segment, with the segment's rows and tokens."""
  rng = np.random.default_rng(0)
  return [
    {
      'x': jnp.array(rng.normal(size=(*shape, 5)), jnp.float32),
      'sin_cos': (jnp.array(rng.normal(size=(*shape, 2, 2)), jnp.float32),),
    }
    for shape in SHAPES
  ]


def segments(shapes):
  return [
    attention.Segment(jnp.zeros(shape, jnp.int32), jnp.ones(shape[:1]))
    for shape in shapes
  ]


def test_joined_segments_are_one_row():
  (joined,) = joined_segments.Joined(SHAPES).join(trees())
  assert joined['x'].shape == (1, 3 + 8 + 12, 5)
  np.testing.assert_array_equal(joined['x'][0, 3:7], trees()[1]['x'][0])


@pytest.mark.parametrize(
  'layout', [joined_segments.Joined(SHAPES), joined_segments.Separate()]
)
def test_split_inverts_join(layout):
  jax.tree.map(
    np.testing.assert_array_equal,
    layout.split(layout.join(trees())),
    tuple(trees()),
  )


@pytest.mark.parametrize(
  'shapes, devices, is_joined',
  [(SHAPES, 1, True), (SHAPES[:1], 1, False), (SHAPES, 2, False)],
)
def test_several_segments_are_joined_on_one_device(shapes, devices, is_joined):
  mesh = sharding.make_mesh(
    {'data': devices, 'fsdp': 1, 'tensor': 1}, jax.devices()[:devices]
  )
  layout = joined_segments.choose(segments(shapes), mesh)
  assert isinstance(layout, joined_segments.Joined) == is_joined
  assert joined_segments.choose(segments(shapes), None) == (
    joined_segments.Separate()
  )
