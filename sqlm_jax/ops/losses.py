"""Per-token losses of the policy gradient; sums are the learner's business."""

import chex
import jax
import jax.numpy as jnp


def clipped_surrogate(
  logprobs: jax.Array,
  old_logprobs: jax.Array,
  advantages: jax.Array,
  *,
  clip: float,
) -> tuple[jax.Array, jax.Array]:
  """PPO's clipped surrogate as a loss (Schulman et al., 2017, eq. 7).

  L = -min(w A, clamp(w, 1 - clip, 1 + clip) A),  w = exp(logp - old_logp).

  Args:
    logprobs: log-probabilities under the policy that is trained, any shape.
    old_logprobs: the same tokens under the policy that sampled them.
    advantages: A, same shape or one that broadcasts to it.
    clip: how far w may move before the gradient is cut.

  Returns:
    `(loss, clipped)`: the loss a token, and whether the clamp was active.
  """
  chex.assert_equal_shape([logprobs, old_logprobs])
  ratio = jnp.exp(logprobs - old_logprobs)
  unclipped = ratio * advantages
  clamped = jnp.clip(ratio, 1 - clip, 1 + clip) * advantages
  return -jnp.minimum(unclipped, clamped), clamped < unclipped


def kl_k3(logprobs: jax.Array, reference_logprobs: jax.Array) -> jax.Array:
  """Estimates KL(policy || reference) a token (Schulman, 2020, k3).

  k3 = exp(d) - d - 1,  d = reference_logp - logp: unbiased under samples of
  the policy, and never negative.
  """
  chex.assert_equal_shape([logprobs, reference_logprobs])
  difference = reference_logprobs - logprobs
  return jnp.expm1(difference) - difference
