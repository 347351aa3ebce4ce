"""Losses a token, and the weights with which they are summed.

A training loss is sum_t weight_t loss_t: `token_weights` says how a batch is
averaged, everything else here knows one token (GSPO's ratio: one response).
"""

import math

import chex
import jax
import jax.numpy as jnp

from sqlm_jax.ops import masked

# Bound of log-ratios before exp(), which overflows float32 at 89. As in verl.
MAX_LOG_RATIO = 20.0


def clipped_surrogate(
  logprobs: jax.Array,
  old_logprobs: jax.Array,
  advantages: jax.Array,
  *,
  clip: float,
  clip_high: float | None = None,
  dual_clip: float | None = None,
) -> tuple[jax.Array, jax.Array]:
  """PPO's clipped surrogate as a loss (Schulman et al., 2017, eq. 7).

  L = -min(w A, clamp(w, 1 - clip, 1 + clip_high) A),  w = exp(logp - old_logp)

  and with `dual_clip`, where A < 0, at most -dual_clip A: a token that became
  far more likely than when it was sampled must not outweigh the batch.

  Args:
    logprobs: log-probabilities under the policy that is trained, any shape.
    old_logprobs: the same tokens under the policy that sampled them.
    advantages: A, same shape or one that broadcasts to it.
    clip: how far w may move before the gradient is cut.
    clip_high: how far up, if not as far as down. DAPO's clip-higher (Yu et
      al., 2025, section 3.1) has 0.28 above 0.2, so that rare tokens can grow.
    dual_clip: the constant c of dual-clip PPO (Ye et al., 2020, arXiv
      1912.09729), larger than 1 + clip_high; 3 there and in verl.

  Log-ratios above `MAX_LOG_RATIO` are clamped, and their gradient is 0: at 89
  exp() overflows float32, and the gradient of the whole batch would be NaN.

  Returns:
    `(loss, clipped)`: the loss a token, and whether its gradient was cut.

  Raises:
    ValueError: if `dual_clip` lies inside the clip range.
  """
  chex.assert_equal_shape([logprobs, old_logprobs])
  clip_high = clip if clip_high is None else clip_high
  log_ratio = logprobs - old_logprobs
  far = log_ratio > MAX_LOG_RATIO
  log_ratio = jnp.minimum(log_ratio, MAX_LOG_RATIO)
  if dual_clip is not None:
    if not dual_clip > 1 + clip_high:
      raise ValueError(f'{dual_clip=}: expected more than {1 + clip_high}')
    # min(w, c) A is max(w A, c A) where A < 0. Where A > 0 the clamp is the
    # smaller one anyway. Before exp(), which could overflow.
    far = log_ratio > math.log(dual_clip)
    log_ratio = jnp.minimum(log_ratio, math.log(dual_clip))
  ratio = jnp.exp(log_ratio)
  unclipped = ratio * advantages
  clamped = jnp.clip(ratio, 1 - clip, 1 + clip_high) * advantages
  clipped = (clamped < unclipped) | (far & (advantages < 0))
  return -jnp.minimum(unclipped, clamped), clipped


def sequence_log_ratio(
  logprobs: jax.Array, old_logprobs: jax.Array, mask: jax.Array
) -> jax.Array:
  """GSPO's ratio of whole responses, in logarithms (Zheng et al., 2025).

  log s = mean_t(logp_t - old_logp_t)                               (eq. 7)
  log s_t = sg(log s) + logp_t - sg(logp_t)                        (eq. 14)

  where sg stops the gradient. s is the geometric mean of a response's token
  ratios: all its tokens have one ratio and are clipped together. The second
  line is GSPO-token: the same values as the first, the same gradient too if
  the tokens of a response share advantage and weight, and right if they do
  not. Use it as `clipped_surrogate(log_s, zeros, A, clip=3e-4, ...)`: the
  ranges are far smaller than those of tokens.

  Args:
    logprobs: [..., R] under the policy that is trained.
    old_logprobs: the same tokens under the policy that sampled them.
    mask: which tokens are a response's; the rest may be inf or nan.

  Returns:
    log s_t of the same shape, 0 outside the mask.
  """
  chex.assert_equal_shape([logprobs, old_logprobs, mask])
  fixed = jax.lax.stop_gradient(logprobs)
  mean = masked.mean(fixed - old_logprobs, mask, axis=-1)[..., None]
  return jnp.where(mask, mean + (logprobs - fixed), 0)


def kl_k1(logprobs: jax.Array, reference_logprobs: jax.Array) -> jax.Array:
  """Estimates KL(policy || reference) a token (Schulman, 2020, k1).

  k1 = -d,  d = reference_logp - logp: unbiased under samples of the policy.
  A penalty of the reward (RLOO, PPO), not of the loss: there its gradient is
  0 in expectation.
  """
  chex.assert_equal_shape([logprobs, reference_logprobs])
  return logprobs - reference_logprobs


def kl_k2(logprobs: jax.Array, reference_logprobs: jax.Array) -> jax.Array:
  """Estimates KL(policy || reference) a token (Schulman, 2020, k2).

  k2 = d^2 / 2,  d = reference_logp - logp: biased, never negative, and its
  gradient under samples of the policy is the KL's own.
  """
  chex.assert_equal_shape([logprobs, reference_logprobs])
  return jnp.square(reference_logprobs - logprobs) / 2


def kl_k3(logprobs: jax.Array, reference_logprobs: jax.Array) -> jax.Array:
  """Estimates KL(policy || reference) a token (Schulman, 2020, k3).

  k3 = exp(d) - d - 1,  d = reference_logp - logp: unbiased under samples of
  the policy, and never negative. GRPO's (Shao et al., 2024, eq. 4). Its
  gradient under samples of the policy is that of KL(reference || policy).
  d is clamped at `MAX_LOG_RATIO`, where exp(d) would soon overflow.
  """
  chex.assert_equal_shape([logprobs, reference_logprobs])
  difference = jnp.minimum(reference_logprobs - logprobs, MAX_LOG_RATIO)
  return jnp.expm1(difference) - difference


# Those whose gradient is a KL's, by name; k1's is 0 in expectation.
KL_ESTIMATORS = {'k2': kl_k2, 'k3': kl_k3}


def entropy_bonus(entropy: jax.Array, *, weight: float) -> jax.Array:
  """What exploration adds to the loss (Schulman et al., 2017, eq. 9).

  L = -weight H: the loss is minimised, so a positive weight raises H.

  Args:
    entropy: H of a token's distribution in nats, any shape. It has to carry a
      gradient.
    weight: nats to loss, 0.01 or less.

  Returns:
    A term to add to the loss a token.
  """
  return -weight * entropy


def clipped_value_loss(
  values: jax.Array, old_values: jax.Array, targets: jax.Array, *, clip: float
) -> tuple[jax.Array, jax.Array]:
  """The value function's loss, clipped as in PPO's code.

  L = max((V - R)^2, (clamp(V, V_old - clip, V_old + clip) - R)^2) / 2

  (Schulman et al., 2017, eq. 9 has the first term; the clamp is that of their
  code: Huang et al., 2022, "The 37 implementation details of PPO", 9.)

  Args:
    values: V of the value function that is trained, any shape.
    old_values: V_old of the one that `targets` were computed with.
    targets: R, see `returns.generalized_advantages`.
    clip: how far V may move before the gradient is cut.

  Returns:
    `(loss, clipped)`: the loss a token, and whether its gradient was cut.
  """
  chex.assert_equal_shape([values, old_values, targets])
  clamped = jnp.clip(values, old_values - clip, old_values + clip)
  loss = jnp.square(values - targets)
  clamped_loss = jnp.square(clamped - targets)
  return jnp.maximum(loss, clamped_loss) / 2, clamped_loss > loss


AVERAGES = ('token', 'sequence', 'constant')


def token_weights(
  lengths_QG: jax.Array,
  counted_QG: jax.Array,
  *,
  average: str,
  longest: int | None = None,
) -> jax.Array:
  """How much one token of a response weighs in the sum of the loss.

  'token'     1 / sum of lengths          DAPO (section 3.3), SQLM's code
  'sequence'  1 / (responses * length)    GRPO (eq. 3)
  'constant'  1 / (responses * longest)   Dr. GRPO (section 3.2)

  Over counted responses. Long ones weigh as much as short ones with
  'sequence', which makes long mistakes cheap; more with the others.

  Args:
    lengths_QG: tokens of each response.
    counted_QG: which responses are learned from.
    average: 'token', 'sequence' or 'constant'.
    longest: tokens that a response may have, for 'constant'. 1 sums over a
      response's tokens: REINFORCE's loss.

  Returns:
    Weights [Q, G], 0 for what is not counted. With 'token' and 'sequence' the
    weights of all tokens add up to 1, empty responses left out.

  Raises:
    ValueError: if `average` is none of these, or `longest` is missing.
  """
  chex.assert_rank(lengths_QG, 2)
  chex.assert_equal_shape([lengths_QG, counted_QG])
  weights_QG = jnp.asarray(counted_QG, jnp.float32)
  if average == 'token':
    total = masked.total(lengths_QG, counted_QG)
  elif average == 'sequence':
    weights_QG = weights_QG / jnp.maximum(lengths_QG, 1)
    total = jnp.sum(counted_QG & (lengths_QG > 0))
  elif average == 'constant':
    if longest is None:
      raise ValueError(f'{longest=}: expected a number of tokens')
    total = jnp.sum(counted_QG) * longest
  else:
    raise ValueError(f'{average=}: expected token, sequence or constant')
  return weights_QG / jnp.maximum(total, 1)
