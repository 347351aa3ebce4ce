"""Per-token returns and advantages for a policy with a value function."""

import chex
import jax
import jax.numpy as jnp

from sqlm_jax.ops import masked


def at_last_token(
  rewards_B: jax.Array, lengths_B: jax.Array, width: int
) -> jax.Array:
  """Assigns the reward of each response to its last token.

  Args:
    rewards_B: one reward per response.
    lengths_B: number of tokens of each response.
    width: R, the maximum number of tokens of a response.

  Returns:
    Rewards [B, R]. An empty response has no last token, so its row is 0.
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
  gae_lambda: float,
) -> tuple[jax.Array, jax.Array]:
  """Computes generalized advantage estimates, GAE (Schulman et al., 2016).

  A_t = sum_k (gamma lambda)^k d_{t+k},  d_t = r_t + gamma V_{t+1} - V_t,

  (eq. 16) with V = 0 after the last token: a truncated response is treated as
  finished. A lambda of 0 relies on the value function, 1 on the rewards. The
  targets A_t + V_t are the lambda-returns that the value function is trained
  on.

  Args:
    rewards_BR: rewards r of tokens, see `at_last_token`.
    values_BR: V before each token, under the parameters that sampled it.
    lengths_B: number of tokens of each response. The values of padding tokens
      are ignored.
    gamma: discount factor per token, usually 1 for language models.
    gae_lambda: lambda, from 0 to 1.

  Returns:
    `(advantages_BR, targets_BR)`, 0 in the padding. No gradient flows through
    them.
  """
  chex.assert_rank([rewards_BR, values_BR, lengths_B], [2, 2, 1])
  chex.assert_equal_shape([rewards_BR, values_BR])
  mask_BR = masked.up_to(lengths_B, values_BR.shape[1])
  rewards_BR = jnp.where(mask_BR, rewards_BR, 0).astype(jnp.float32)
  values_BR = jnp.where(mask_BR, values_BR, 0).astype(jnp.float32)
  next_BR = jnp.pad(values_BR[:, 1:], ((0, 0), (0, 1)))
  deltas_BR = rewards_BR + gamma * next_BR - values_BR

  def one_token(
    later_B: jax.Array, delta_B: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    advantage_B = delta_B + gamma * gae_lambda * later_B
    return advantage_B, advantage_B

  # Deltas of padding tokens are 0, so padding does not affect a response.
  _, advantages_RB = jax.lax.scan(
    one_token, jnp.zeros_like(deltas_BR[:, 0]), deltas_BR.T, reverse=True
  )
  advantages_BR = jax.lax.stop_gradient(advantages_RB.T)
  return advantages_BR, advantages_BR + jax.lax.stop_gradient(values_BR)


def explained_variance(
  values: jax.Array, targets: jax.Array, mask: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Computes the fraction of the targets' variance explained by the values.

  EV = 1 - var(R - V) / var(R) = (n var(R) - n var(R - V)) / (n var(R)).
  A value of 1 is perfect, 0 is no better than a constant, and a negative value
  is worse than a constant.

  Args:
    values: V, of any shape.
    targets: R, of the same shape.
    mask: mask of the tokens that count. Masked values may be inf or nan.

  Returns:
    The numerator and the denominator of EV, to be added over batches like the
    sum and the count of a mean. Batches are thus weighted by their variance,
    and a batch whose targets are all equal has no effect on the denominator.
  """
  chex.assert_equal_shape([values, targets, mask])

  def variation(x: jax.Array) -> jax.Array:
    centered = x - masked.mean(x, mask)
    return masked.total(jnp.square(centered), mask)

  total = variation(targets)
  return total - variation(targets - values), total
