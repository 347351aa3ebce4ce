"""Masked reductions: the only place where a mask meets a sum."""

import jax
import jax.numpy as jnp


def total(x: jax.Array, mask: jax.Array) -> jax.Array:
  """Sum of `x` where `mask` holds; what is masked may be inf or nan.

  Args:
    x: values of any shape.
    mask: booleans of the same shape.

  Returns:
    A scalar, 0 if nothing is left.
  """
  return jnp.sum(jnp.where(mask, x, 0))


def sum_and_count(
  x: jax.Array, mask: jax.Array, times: jax.Array | float = 1.0
) -> tuple[jax.Array, jax.Array]:
  """The two numbers of a mean, kept apart so that they can be added up.

  Args:
    x: values of any shape.
    mask: booleans of the same shape.
    times: how often each value counts.
  """
  count = total(jnp.broadcast_to(times, x.shape), mask)
  return total(x * times, mask), count.astype(jnp.float32)


def mean(x: jax.Array, mask: jax.Array, axis: int | None = None) -> jax.Array:
  """Mean over the unmasked entries along `axis`; 0 where none is left."""
  count = jnp.sum(mask, axis=axis)
  return jnp.sum(jnp.where(mask, x, 0), axis=axis) / jnp.maximum(count, 1)


def up_to(lengths: jax.Array, width: int) -> jax.Array:
  """The mask [..., width] of the first `lengths` positions."""
  return (
    jnp.arange(width).reshape((1,) * lengths.ndim + (-1,))
    < (lengths[..., None])
  )
