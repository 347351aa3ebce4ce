"""Transfers of arrays to and from eight devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sqlm_jax.distributed import sharding, transfers


def test_put_rows():
  tree = {
    'rows': np.ones((8, 3)),
    'odd': np.ones((3, 8)),
    'scalar': np.float32(2),
  }
  mesh = sharding.make_mesh({'data': 2, 'fsdp': 2, 'tensor': 2})
  put = transfers.put_rows(tree, mesh)
  part = {k: x.addressable_shards[0].data.shape for k, x in put.items()}
  assert part == {'rows': (2, 3), 'odd': (3, 8), 'scalar': ()}


def test_put_replicated():
  mesh = sharding.make_mesh({'data': 2, 'fsdp': 2, 'tensor': 2})
  array = np.arange(6.0).reshape(2, 3)
  put = transfers.put_replicated({'x': array}, mesh)['x']
  assert len(put.addressable_shards) == 8
  for shard in put.addressable_shards:
    np.testing.assert_array_equal(shard.data, array)


def test_fetch_inverts_put_rows():
  mesh = sharding.make_mesh({'data': 2, 'fsdp': 2, 'tensor': 2})
  array = np.arange(24.0).reshape(8, 3)
  np.testing.assert_array_equal(
    transfers.fetch(transfers.put_rows(array, mesh)), array
  )


@pytest.mark.parametrize(
  'shape',
  [{'data': 1, 'fsdp': 8, 'tensor': 1}, {'data': 2, 'fsdp': 2, 'tensor': 2}],
)
@pytest.mark.parametrize(
  'path, size',
  [
    ('layers/attention/query/kernel', (3, 16, 4, 8)),
    ('layers/mlp_norm/scale', (3, 16)),
    ('embedding', (24, 16)),
  ],
)
def test_a_parameter_is_placed_piece_by_piece(shape, path, size):
  mesh = sharding.make_mesh(shape)
  array = np.random.default_rng(0).normal(size=size).astype(np.float32)

  def pieces():
    if not path.startswith('layers'):
      yield (), array
      return
    for layer in range(size[0]):
      yield (layer,), array[layer]

  placed = transfers.place_parameter(
    path, size, pieces(), dtype=jnp.dtype('bfloat16'), mesh=mesh
  )
  assert placed.sharding == sharding.parameter_sharding(path, size, mesh)
  expected = jax.device_put(array.astype(jnp.bfloat16), placed.sharding)
  np.testing.assert_array_equal(placed, expected)
  for ours, theirs in zip(
    placed.addressable_shards, expected.addressable_shards, strict=True
  ):
    assert ours.index == theirs.index
    np.testing.assert_array_equal(ours.data, theirs.data)
