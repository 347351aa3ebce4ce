"""A checksum of an array, to tell whether it came back as it was."""

import jax
import jax.numpy as jnp


@jax.jit
def checksum(x: jax.Array) -> jax.Array:
  """sum_i mix(b_i xor 0x9e3779b9 i) mod 2^32, over the bits b_i of element i.

  `mix` is the finalizer of MurmurHash3 (Appleby, 2011). Elements are counted
  row by row, and wherever they lie: integers add up to the same on every mesh.
  A change of a single element always shows, as `mix` is one to one; larger
  damage is missed once in 2^32.

  Args:
    x: any shape, of numbers of up to 32 bits.

  Returns:
    [], uint32.
  """
  if x.dtype == jnp.bool:
    x = x.astype(jnp.uint8)
  bits = jax.lax.bitcast_convert_type(x, f'uint{8 * x.dtype.itemsize}')
  index, stride = jnp.zeros(x.shape, jnp.uint32), 1
  for axis in reversed(range(x.ndim)):
    # Not by a reshape, which would gather a sharded array.
    place = jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
    index += place * jnp.uint32(stride % 2**32)
    stride *= x.shape[axis]
  mixed = _mix(bits.astype(jnp.uint32) ^ (index * jnp.uint32(0x9E3779B9)))
  return jnp.sum(mixed, dtype=jnp.uint32)


def _mix(h: jax.Array) -> jax.Array:
  h = (h ^ (h >> 16)) * jnp.uint32(0x85EBCA6B)
  h = (h ^ (h >> 13)) * jnp.uint32(0xC2B2AE35)
  return h ^ (h >> 16)
