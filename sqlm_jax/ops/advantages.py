"""Advantages: how much better a response was than its group."""

import chex
import jax
import jax.numpy as jnp

from sqlm_jax.ops import masked


def group_relative(
  rewards_QG: jax.Array,
  counted_QG: jax.Array,
  *,
  normalize: bool = True,
  epsilon: float = 1e-6,
) -> jax.Array:
  """Group-relative advantages, GRPO (Shao et al., 2024, section 4.1.2).

  A_i = (r_i - mean(r)) / (std(r) + epsilon), with the unbiased std, over the
  counted responses of a group. Groups are never mixed: a hard question's
  answers are compared with each other only.

  Args:
    rewards_QG: rewards r.
    counted_QG: which responses belong to the group.
    normalize: divide by the group's standard deviation; without, as in
      Dr. GRPO (Liu et al., 2025), groups near agreement weigh less.
    epsilon: keeps a group of equal rewards at 0.

  Returns:
    Advantages [Q, G], 0 for what is not counted and for groups of fewer than
    two counted responses.
  """
  chex.assert_rank(rewards_QG, 2)
  chex.assert_equal_shape([rewards_QG, counted_QG])
  rewards_QG = jnp.asarray(rewards_QG, jnp.float32)
  count_Q1 = jnp.sum(counted_QG, axis=1, keepdims=True)
  mean_Q1 = masked.mean(rewards_QG, counted_QG, axis=1)[:, None]
  centred_QG = jnp.where(counted_QG & (count_Q1 > 1), rewards_QG - mean_Q1, 0)
  if not normalize:
    return centred_QG
  variance_Q1 = jnp.sum(jnp.square(centred_QG), axis=1, keepdims=True)
  std_Q1 = jnp.sqrt(variance_Q1 / jnp.maximum(count_Q1 - 1, 1))
  return centred_QG / (std_Q1 + epsilon)
