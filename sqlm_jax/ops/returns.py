"""Returns and advantages of tokens, for a policy that has a value function."""

import chex
import jax
import jax.numpy as jnp

from sqlm_jax.ops import masked


def at_last_token(
  rewards_B: jax.Array, lengths_B: jax.Array, width: int
) -> jax.Array:
  """A response's reward, given where it ends.

  Args:
    rewards_B: one reward a response.
    lengths_B: its tokens.
    width: R, tokens that a response may have.

  Returns:
    Rewards [B, R]; an empty response has no token to be paid at.
  """
  chex.assert_rank([rewards_B, lengths_B], 1)
  last_BR = jnp.arange(width)[None] == lengths_B[:, None] - 1
  return jnp.where(last_BR, rewards_B[:, None], 0)


def generalized_advantages(
  rewards_BR: jax.Array,
  values_BR: jax.Array,
  lengths_B: jax.Array,
  *,
  gamma: float,
  decay: float,
) -> tuple[jax.Array, jax.Array]:
  """Generalised advantage estimation, GAE (Schulman et al., 2016, eq. 16).

  A_t = sum_k (gamma decay)^k d_{t+k},  d_t = r_t + gamma V_{t+1} - V_t,

  with V = 0 behind the last token: a response that was cut off counts as
  finished. `decay` is the paper's lambda: 0 trusts the value function, 1 the
  rewards. The targets A_t + V_t are the lambda-returns that it learns from.

  Args:
    rewards_BR: rewards r of tokens, see `at_last_token`.
    values_BR: V before each token, under the parameters that sampled.
    lengths_B: tokens of each response; the padding behind may hold anything.
    gamma: discount a token, usually 1 for language models.
    decay: lambda, from 0 to 1.

  Returns:
    `(advantages_BR, targets_BR)`, 0 in the padding. No gradient flows.
  """
  chex.assert_rank([rewards_BR, values_BR, lengths_B], [2, 2, 1])
  chex.assert_equal_shape([rewards_BR, values_BR])
  mask_BR = masked.up_to(lengths_B, values_BR.shape[1])
  rewards_BR = jnp.where(mask_BR, rewards_BR, 0).astype(jnp.float32)
  values_BR = jnp.where(mask_BR, values_BR, 0).astype(jnp.float32)
  next_BR = jnp.pad(values_BR[:, 1:], ((0, 0), (0, 1)))
  deltas_BR = rewards_BR + gamma * next_BR - values_BR

  def one_token(later_B, delta_B):
    advantage_B = delta_B + gamma * decay * later_B
    return advantage_B, advantage_B

  # The padding's deltas are 0: nothing flows from there into a response.
  _, advantages_RB = jax.lax.scan(
    one_token, jnp.zeros_like(deltas_BR[:, 0]), deltas_BR.T, reverse=True
  )
  advantages_BR = jax.lax.stop_gradient(advantages_RB.T)
  return advantages_BR, advantages_BR + jax.lax.stop_gradient(values_BR)


def explained_variance(
  values: jax.Array, targets: jax.Array, mask: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """How much of the targets' variance a value function explains.

  EV = 1 - var(R - V) / var(R) = (n var(R) - n var(R - V)) / (n var(R)):
  1 is perfect, 0 no better than a constant, below 0 worse.

  Args:
    values: V, any shape.
    targets: R, the same shape.
    mask: which tokens count; the rest may be inf or nan.

  Returns:
    Numerator and denominator, as sum and count of a mean: batches weigh by
    their variance, and one whose targets are all equal says nothing.
  """
  chex.assert_equal_shape([values, targets, mask])

  def variation(x):
    centred = x - masked.mean(x, mask)
    return masked.total(jnp.square(centred), mask)

  total = variation(targets)
  return total - variation(targets - values), total
