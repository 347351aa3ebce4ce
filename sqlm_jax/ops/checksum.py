"""Array checksum that detects corruption of a saved and restored array."""

import jax
import jax.numpy as jnp


@jax.jit
def checksum(x: jax.Array) -> jax.Array:
  """Computes a 32-bit checksum of an array.

  sum_i mix(b_i xor 0x9e3779b9 i) mod 2^32, where b_i are the bits of element i.

  `mix` is the finalizer of MurmurHash3 (Appleby, 2011). Index i counts elements
  in row-major order. The checksum is independent of the sharding because
  integer addition is exact in any order. A change to a single element always
  changes the checksum because `mix` is one-to-one. Larger corruption goes
  undetected with probability 2^-32.

  Args:
    x: an array of any shape whose elements have at most 32 bits.

  Returns:
    A uint32 scalar.
  """
  if x.dtype == jnp.bool:
    x = x.astype(jnp.uint8)
  bits = jax.lax.bitcast_convert_type(x, f'uint{8 * x.dtype.itemsize}')
  index, stride = jnp.zeros(x.shape, jnp.uint32), 1
  for axis in reversed(range(x.ndim)):
    # A reshape to one dimension would gather a sharded array.
    coordinate = jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
    index += coordinate * jnp.uint32(stride % 2**32)
    stride *= x.shape[axis]
  mixed = _mix(bits.astype(jnp.uint32) ^ (index * jnp.uint32(0x9E3779B9)))
  return jnp.sum(mixed, dtype=jnp.uint32)


def _mix(h: jax.Array) -> jax.Array:
  h = (h ^ (h >> 16)) * jnp.uint32(0x85EBCA6B)
  h = (h ^ (h >> 13)) * jnp.uint32(0xC2B2AE35)
  return h ^ (h >> 16)
