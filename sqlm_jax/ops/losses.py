"""Per-token losses and the weights with which they are summed.

A training loss is sum_t weight_t loss_t. `token_weights` computes the weights,
which determine how the loss is aggregated over a batch. All other functions
compute per-token values, except that GSPO's ratio depends on a whole response.
"""

import math

import chex
import jax
import jax.numpy as jnp

from sqlm_jax.ops import masked

# Bound of log-ratios before exp(), which overflows float32 at 89. verl uses the
# same bound.
MAX_LOG_RATIO = 20.0


def clipped_surrogate(
  logprobs: jax.Array,
  old_logprobs: jax.Array,
  advantages: jax.Array,
  *,
  clip_ratio: float,
  clip_ratio_high: float | None = None,
  dual_clip: float | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Computes PPO's clipped surrogate loss (Schulman et al., 2017, eq. 7).

  L = -min(w A, clamp(w, 1 - clip_ratio, 1 + clip_ratio_high) A)
  w = exp(logp - old_logp)

  With `dual_clip`, L is at most -dual_clip A where A < 0. This bound keeps a
  token that has become far more likely since it was sampled from dominating the
  batch.

  Log-ratios above `MAX_LOG_RATIO` are clamped, and their gradient is 0. At 89,
  exp() overflows float32, and the gradient of the whole batch would be NaN.

  Args:
    logprobs: log-probabilities under the policy being trained, of any shape.
    old_logprobs: log-probabilities of the same tokens under the policy that
      sampled them.
    advantages: A, of the same shape or a shape that broadcasts to it.
    clip_ratio: distance that w may move from 1 before the gradient is clipped.
    clip_ratio_high: distance that w may move above 1; defaults to `clip_ratio`.
      DAPO's clip-higher (Yu et al., 2025, section 3.1) uses 0.28 with a
      `clip_ratio` of 0.2, so that the probability of rare tokens can grow.
    dual_clip: the constant c of dual-clip PPO (Ye et al., 2020, arXiv
      1912.09729), larger than 1 + clip_ratio_high. The
      paper and verl use 3.

  Returns:
    `(loss, clipped)`: the per-token loss, and a mask of the tokens whose
    gradient was clipped.

  Raises:
    ValueError: if `dual_clip` lies inside the clip range.
  """
  chex.assert_equal_shape([logprobs, old_logprobs])
  if clip_ratio_high is None:
    clip_ratio_high = clip_ratio
  log_ratio = logprobs - old_logprobs
  far = log_ratio > MAX_LOG_RATIO
  log_ratio = jnp.minimum(log_ratio, MAX_LOG_RATIO)
  if dual_clip is not None:
    if not dual_clip > 1 + clip_ratio_high:
      raise ValueError(
        f'{dual_clip=}: expected more than {1 + clip_ratio_high}'
      )
    # min(w, c) A equals max(w A, c A) where A < 0. Where A > 0, the clip range
    # is the tighter bound. The minimum precedes exp(), which could overflow.
    far = log_ratio > math.log(dual_clip)
    log_ratio = jnp.minimum(log_ratio, math.log(dual_clip))
  ratio = jnp.exp(log_ratio)
  unclipped = ratio * advantages
  clamped = jnp.clip(ratio, 1 - clip_ratio, 1 + clip_ratio_high) * advantages
  clipped = (clamped < unclipped) | (far & (advantages < 0))
  return -jnp.minimum(unclipped, clamped), clipped


def sequence_log_ratio(
  logprobs: jax.Array, old_logprobs: jax.Array, mask: jax.Array
) -> jax.Array:
  """Computes GSPO's sequence-level log-ratio (Zheng et al., 2025).

  log s = mean_t(logp_t - old_logp_t)                               (eq. 7)
  log s_t = sg(log s) + logp_t - sg(logp_t)                        (eq. 14)

  where sg stops the gradient. s is the geometric mean of the token ratios of a
  response, so all its tokens have the same ratio and are clipped together. The
  second equation is GSPO-token. It has the same values as the first. Its
  gradient is also the same if the tokens of a response share one advantage and
  one weight, and it remains correct if they do not.

  Use the result as `clipped_surrogate(log_s, zeros, A, clip_ratio=3e-4, ...)`.
  The clip ranges are far smaller than for per-token ratios.

  Args:
    logprobs: log-probabilities [..., R] under the policy being trained.
    old_logprobs: log-probabilities of the same tokens under the policy that
      sampled them.
    mask: mask of response tokens. Masked values may be inf or nan.

  Returns:
    log s_t of the same shape, 0 outside the mask.
  """
  chex.assert_equal_shape([logprobs, old_logprobs, mask])
  fixed = jax.lax.stop_gradient(logprobs)
  mean = masked.mean(fixed - old_logprobs, mask, axis=-1)[..., None]
  return jnp.where(mask, mean + (logprobs - fixed), 0)


def kl_k1(logprobs: jax.Array, reference_logprobs: jax.Array) -> jax.Array:
  """Estimates KL(policy || reference) per token (Schulman, 2020, k1).

  k1 = -d,  d = reference_logp - logp. The estimate is unbiased under samples
  from the policy. Use it as a penalty on the reward (RLOO, PPO), not on the
  loss: as a loss term, its gradient is 0 in expectation.
  """
  chex.assert_equal_shape([logprobs, reference_logprobs])
  return logprobs - reference_logprobs


def kl_k2(logprobs: jax.Array, reference_logprobs: jax.Array) -> jax.Array:
  """Estimates KL(policy || reference) per token (Schulman, 2020, k2).

  k2 = d^2 / 2,  d = reference_logp - logp. The estimate is biased and never
  negative. Under samples from the policy, its expected gradient is the gradient
  of KL(policy || reference).
  """
  chex.assert_equal_shape([logprobs, reference_logprobs])
  return jnp.square(reference_logprobs - logprobs) / 2


def kl_k3(logprobs: jax.Array, reference_logprobs: jax.Array) -> jax.Array:
  """Estimates KL(policy || reference) per token (Schulman, 2020, k3).

  k3 = exp(d) - d - 1,  d = reference_logp - logp. The estimate is unbiased
  under samples from the policy and never negative. GRPO uses it (Shao et al.,
  2024, eq. 4). Under samples from the policy, its expected gradient is the
  gradient of KL(reference || policy). d is clamped at `MAX_LOG_RATIO`, so that
  exp(d) cannot overflow.
  """
  chex.assert_equal_shape([logprobs, reference_logprobs])
  difference = jnp.minimum(reference_logprobs - logprobs, MAX_LOG_RATIO)
  return jnp.expm1(difference) - difference


# Estimators whose gradient is that of a KL divergence. k1 is not among them:
# its gradient is 0 in expectation.
KL_ESTIMATORS = {'k2': kl_k2, 'k3': kl_k3}


def entropy_bonus(
  entropy: jax.Array, *, entropy_coef: float | jax.Array
) -> jax.Array:
  """Computes the entropy bonus of the loss (Schulman et al., 2017, eq. 9).

  L = -entropy_coef H. The loss is minimized, so a positive coefficient
  increases H.

  Args:
    entropy: entropy H of each token's distribution in nats, of any shape. It
      has to carry a gradient.
    entropy_coef: loss per nat, typically 0.01 or less.

  Returns:
    A term to add to the per-token loss.
  """
  return -entropy_coef * entropy


def clipped_value_loss(
  values: jax.Array,
  old_values: jax.Array,
  targets: jax.Array,
  *,
  value_clip: float,
) -> tuple[jax.Array, jax.Array]:
  """Computes the value function loss, clipped as in PPO's code.

  L = max((V - R)^2, (clamp(V, V_old - c, V_old + c) - R)^2) / 2, c = value_clip

  The first term is that of Schulman et al. (2017, eq. 9). The clamp comes from
  their code (Huang et al., 2022, "The 37 implementation details of PPO", 9).

  Args:
    values: V of the value function being trained, of any shape.
    old_values: V_old of the value function that `targets` were computed with.
    targets: R, see `returns.generalized_advantages`.
    value_clip: distance that V may move from V_old before the gradient is
      clipped.

  Returns:
    `(loss, clipped)`: the per-token loss, and a mask of the tokens whose
    gradient was clipped.
  """
  chex.assert_equal_shape([values, old_values, targets])
  clamped = jnp.clip(values, old_values - value_clip, old_values + value_clip)
  loss = jnp.square(values - targets)
  clamped_loss = jnp.square(clamped - targets)
  return jnp.maximum(loss, clamped_loss) / 2, clamped_loss > loss


def token_weights(
  lengths_QG: jax.Array,
  counted_QG: jax.Array,
  *,
  aggregation: str,
  max_tokens: int | None = None,
) -> jax.Array:
  """Computes the weight of each token of a response in the sum of the loss.

  'token'     1 / sum of lengths            DAPO (section 3.3), SQLM's code
  'sequence'  1 / (responses * length)      GRPO (eq. 3)
  'constant'  1 / (responses * max_tokens)  Dr. GRPO (section 3.2)

  The sum of lengths and the number of responses cover counted responses only.
  With 'sequence', long responses weigh as much as short ones, so mistakes in
  long responses are penalized less per token. With the other two, long
  responses weigh more than short ones.

  Args:
    lengths_QG: number of tokens of each response.
    counted_QG: mask of the responses to learn from.
    aggregation: 'token', 'sequence' or 'constant'.
    max_tokens: maximum number of tokens of a response, required for 'constant'.
      A value of 1 sums over the tokens of a response, which is REINFORCE's
      loss.

  Returns:
    Weights [Q, G], 0 for responses that do not count. With 'token' and
    'sequence', the weights of all tokens add up to 1; empty responses are
    ignored.

  Raises:
    ValueError: if `aggregation` has another value, or if `max_tokens` is
      missing.
  """
  chex.assert_rank(lengths_QG, 2)
  chex.assert_equal_shape([lengths_QG, counted_QG])
  weights_QG = jnp.asarray(counted_QG, jnp.float32)
  if aggregation == 'token':
    total = masked.total(lengths_QG, counted_QG)
  elif aggregation == 'sequence':
    weights_QG = weights_QG / jnp.maximum(lengths_QG, 1)
    total = jnp.sum(counted_QG & (lengths_QG > 0))
  elif aggregation == 'constant':
    if max_tokens is None:
      raise ValueError(f'{max_tokens=}: expected a number of tokens')
    total = jnp.sum(counted_QG) * max_tokens
  else:
    raise ValueError(f'{aggregation=}: expected token, sequence or constant')
  return weights_QG / jnp.maximum(total, 1)
