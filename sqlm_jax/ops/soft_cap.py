"""Soft-caps of attention scores and logits, Gemma 2 (2024), section 2."""

import jax
import jax.numpy as jnp


def soft_cap(x: jax.Array, cap: float) -> jax.Array:
  """Limits values to (-cap, cap) by cap tanh(x / cap); no limit if cap is 0."""
  return cap * jnp.tanh(x / cap) if cap else x
