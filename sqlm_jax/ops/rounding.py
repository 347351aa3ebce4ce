"""Rounding to bfloat16 so that small updates are neither lost nor enlarged.

bfloat16 keeps 8 bits of precision: a weight of 0.1 can move only in steps of
0.0005, and an update of 1e-6 is far below that. Rounded to nearest, a weight
that starts on a bfloat16 number does not move at all, and one that starts
halfway between two numbers moves by a whole step in the direction of the
update. With stochastic rounding, both weights move by the update on average.
"""

import jax
import jax.numpy as jnp


def round_at_random(key: jax.Array, x: jax.Array) -> jax.Array:
  """Rounds float32 to one of the two nearest bfloat16 numbers.

  The result equals x on average (stochastic rounding). bfloat16 is the upper
  half of float32, so uniform noise that is added to the lower half carries
  into the upper half with the right probability.

  Args:
    key: a PRNG key.
    x: a float32 array.

  Returns:
    A bfloat16 array of the same shape.
  """
  bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
  noise = jax.random.bits(key, x.shape, jnp.uint16).astype(jnp.uint32)
  rounded = (bits + noise) & jnp.uint32(0xFFFF0000)
  return jax.lax.bitcast_convert_type(rounded, jnp.float32).astype(jnp.bfloat16)


def center(x: jax.Array) -> jax.Array:
  """Moves float32 numbers onto the nearest bfloat16 numbers.

  Args:
    x: a float32 array.

  Returns:
    A float32 array. An element that is later updated and rounded to bfloat16
    changes only after it has moved by half the distance between two bfloat16
    numbers.
  """
  # XLA would remove a cast to bfloat16 and back.
  return jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)


def spread(key: jax.Array, x: jax.Array) -> jax.Array:
  """Replaces float32 numbers by random ones that round to the same bfloat16.

  The result is uniform among all float32 numbers that round to the bfloat16
  number nearest to x. Rounding the result to bfloat16 gives the same number
  as rounding x. If a small update is added before rounding, the rounded number
  moves by the update on average, whatever the value of x.

  Args:
    key: a PRNG key.
    x: a float32 array.

  Returns:
    A float32 array. Zeros stay zeros, because bfloat16 numbers are dense near
    zero.
  """
  bits = jax.lax.bitcast_convert_type(center(x), jnp.uint32)
  noise = jax.random.bits(key, x.shape, jnp.uint16).astype(jnp.uint32)
  # 0 would be halfway to the neighbor below, which a tie rounds to if it is
  # even.
  noise = jnp.maximum(noise, 1)
  spread_bits = bits + noise - jnp.uint32(0x8000)
  is_zero = (bits << 1) == 0
  return jax.lax.bitcast_convert_type(
    jnp.where(is_zero, bits, spread_bits), jnp.float32
  )
