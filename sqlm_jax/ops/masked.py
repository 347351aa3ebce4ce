"""Masked reductions, to be used instead of a bare sum or mean with a mask."""

import jax
import jax.numpy as jnp


def total(x: jax.Array, mask: jax.Array) -> jax.Array:
  """Returns the sum of `x` where `mask` is True.

  Args:
    x: values of any shape. Masked values may be inf or nan.
    mask: booleans of the same shape.

  Returns:
    A scalar, 0 if all values are masked.
  """
  return jnp.sum(jnp.where(mask, x, 0))


def sum_and_count(
  x: jax.Array, mask: jax.Array, times: jax.Array | float = 1.0
) -> tuple[jax.Array, jax.Array]:
  """Returns the sum and the count of a mean, which can be added over batches.

  Args:
    x: values of any shape.
    mask: booleans of the same shape.
    times: multiplicity of each value.

  Returns:
    The weighted sum, and the weighted count in float32, as scalars.
  """
  count = total(jnp.broadcast_to(times, x.shape), mask)
  return total(x * times, mask), count.astype(jnp.float32)


def mean(x: jax.Array, mask: jax.Array, axis: int | None = None) -> jax.Array:
  """Returns the mean of unmasked values along `axis`, 0 if all are masked."""
  count = jnp.sum(mask, axis=axis)
  return jnp.sum(jnp.where(mask, x, 0), axis=axis) / jnp.maximum(count, 1)


def up_to(lengths: jax.Array, width: int) -> jax.Array:
  """Returns the mask [..., width] of the first `lengths` positions."""
  return (
    jnp.arange(width).reshape((1,) * lengths.ndim + (-1,))
    < (lengths[..., None])
  )
