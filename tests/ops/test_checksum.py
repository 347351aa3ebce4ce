import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from sqlm_jax.ops import checksum

# Published values: MurmurHash3_x86_32 of an empty input is mix(seed).
MIX_1 = 0x514E28B7
MIX_ALL = 0x81F16F39  # of 0xffffffff


@pytest.mark.parametrize(
  'values, expected',
  [
    (jnp.uint32(0), 0),
    (jnp.uint32(1), MIX_1),
    (jnp.array([-1], jnp.int32), MIX_ALL),
    # The second element is mixed with its index.
    (jnp.array([[1, 0x9E3779B9 ^ 1]], jnp.uint32), 2 * MIX_1),
    (jnp.array([[1], [0x9E3779B9]], jnp.uint32), MIX_1),
    (jnp.array([1], jnp.int8), MIX_1),
    (jnp.array([True]), MIX_1),
    (jax.lax.bitcast_convert_type(jnp.uint16([1]), jnp.bfloat16), MIX_1),
    (jax.lax.bitcast_convert_type(jnp.uint32([1]), jnp.float32), MIX_1),
    (jnp.zeros((0, 4)), 0),
  ],
)
def test_by_hand(values, expected):
  assert int(checksum.checksum(values)) == expected % 2**32


def test_it_is_the_same_however_an_array_is_sharded():
  x = jax.random.normal(jax.random.key(0), (16, 3, 8), jnp.bfloat16)
  expected = checksum.checksum(x)
  mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ('x', 'y'))
  for spec in (P('x'), P('y', None, 'x'), P(('x', 'y')), P(None, None, 'y')):
    sharded = jax.device_put(x, NamedSharding(mesh, spec))
    assert checksum.checksum(sharded) == expected


def test_no_bit_can_flip():
  x = np.arange(6, dtype=np.uint32).reshape(2, 3)
  expected = checksum.checksum(x)
  for bit in range(6 * 32):
    flipped = x.copy()
    flipped.reshape(-1)[bit // 32] ^= np.uint32(1 << bit % 32)
    assert checksum.checksum(flipped) != expected


@pytest.mark.parametrize(
  'change',
  [np.negative, np.zeros_like, np.flipud, lambda x: np.roll(x, 1)],
)
def test_nor_can_all_change_alike(change):
  x = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
  assert checksum.checksum(change(x)) != checksum.checksum(x)
