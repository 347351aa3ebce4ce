"""Sampling of one token per row from logits.

C here is the number of blocks of the vocabulary, and W the number of tokens in
a block.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

_BLOCK = 128  # tokens per block in `inverse_transform`


class Draw(NamedTuple):
  """One sampled token per row, with its log-probability in two distributions.

  Attributes:
    tokens: [B], the sampled tokens.
    logprobs: [B], log-probabilities under the policy: temperature 1, no top-p.
    sampling_logprobs: [B], log-probabilities under the distribution that the
      tokens were sampled from.
  """

  tokens: jax.Array
  logprobs: jax.Array
  sampling_logprobs: jax.Array


def draw(
  uniforms_B: jax.Array,
  logits_BV: jax.Array,
  *,
  temperature_B: jax.Array | None = None,
  top_p_B: jax.Array | None = None,
) -> Draw:
  """Samples from softmax(logits / temperature), restricted to the nucleus.

  Args:
    uniforms_B: uniform numbers in [0, 1), the only source of randomness.
    logits_BV: logits of any precision; probabilities are computed in float32.
    temperature_B: temperature of each row; 0 takes the most likely token. If
      `temperature_B` and `top_p_B` are both None, tokens are sampled from
      softmax(logits) without run-time checks of the settings.
    top_p_B: probability mass of the nucleus (Holtzman et al., 2020) of each
      row; 1 keeps all tokens.
  """
  chex.assert_rank(logits_BV, 2)
  if temperature_B is None or top_p_B is None:
    tokens_B, logz_B = inverse_transform(uniforms_B, logits_BV)
    logprobs_B = _pick(logits_BV, tokens_B) - logz_B
    return Draw(tokens_B.astype(jnp.int32), logprobs_B, logprobs_B)
  chex.assert_equal_shape([uniforms_B, temperature_B, top_p_B])
  greedy_B = temperature_B == 0
  coldness_B = 1 / jnp.where(greedy_B, 1.0, temperature_B)
  # Uncommon settings are computed only if some row needs them. Each branch
  # returns one number per row, so that no array of the logits' size is written
  # (except for padding).
  lowest_B = jax.lax.cond(
    jnp.any(top_p_B < 1),
    lambda: _lowest_of_nucleus(
      _exact(logits_BV) * coldness_B[:, None], top_p_B
    ),
    lambda: jnp.full_like(top_p_B, -jnp.inf),
  )
  drawn_B, logz_B = inverse_transform(
    uniforms_B, logits_BV, scale_B=coldness_B, lowest_B=lowest_B
  )
  tokens_B = jax.lax.cond(
    jnp.any(greedy_B),
    lambda: jnp.where(greedy_B, jnp.argmax(logits_BV, axis=-1), drawn_B),
    lambda: drawn_B,
  )
  # At temperature 1 and top-p 1, the policy's distribution is the sampled one.
  plain_B = (temperature_B == 1) & (top_p_B >= 1)
  policy_logz_B = jax.lax.cond(
    jnp.all(plain_B),
    lambda: logz_B,
    lambda: jnp.where(
      plain_B, logz_B, jax.nn.logsumexp(_exact(logits_BV), axis=-1)
    ),
  )
  picked_B = _pick(logits_BV, tokens_B)
  return Draw(
    tokens_B.astype(jnp.int32),
    picked_B - policy_logz_B,
    jnp.where(greedy_B, 0.0, picked_B * coldness_B - logz_B),
  )


def _exact(logits: jax.Array) -> jax.Array:
  return logits.astype(jnp.float32)


def _pick(logits_BV: jax.Array, tokens_B: jax.Array) -> jax.Array:
  picked_B1 = jnp.take_along_axis(logits_BV, tokens_B[:, None], axis=-1)
  return _exact(picked_B1[:, 0])


def _lowest_of_nucleus(logits_BV: jax.Array, top_p_B: jax.Array) -> jax.Array:
  kept_BV = nucleus(logits_BV, top_p_B)
  return jnp.min(jnp.where(kept_BV, logits_BV, jnp.inf), axis=-1)


def inverse_transform(
  uniforms_B: jax.Array,
  logits_BV: jax.Array,
  *,
  scale_B: jax.Array | None = None,
  lowest_B: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Samples tokens by inverse transform sampling.

  The sampled token is the one whose interval of the cumulative distribution
  contains the uniform number. One uniform number per row costs less than one
  Gumbel variate per vocabulary entry. The function first samples a block of the
  vocabulary and then a token of the block, so that no cumulative sum is longer
  than V / 128 and no array of weights is stored.

  Args:
    uniforms_B: uniform numbers in [0, 1).
    logits_BV: logits; -inf has probability 0 and is never sampled.
    scale_B: positive factor of the logits; defaults to 1.
    lowest_B: scaled logits below this bound have probability 0; defaults to no
      bound.

  Returns:
    Tokens [B], and logsumexp [B] of the scaled logits that remain.
  """

  def scale(x: jax.Array) -> jax.Array:
    """Multiplies logits by the scale of their row."""
    if scale_B is None:
      return _exact(x)
    return _exact(x) * jnp.expand_dims(scale_B, range(1, x.ndim))

  peak_B = scale(jnp.max(logits_BV, axis=-1))

  def weigh(logits: jax.Array) -> jax.Array:
    """Returns unnormalized probabilities, 1 for the most likely token."""

    def per_row(x_B: jax.Array) -> jax.Array:
      return jnp.expand_dims(x_B, range(1, logits.ndim))

    scaled = scale(logits)
    weights = jnp.exp(scaled - per_row(peak_B))
    if lowest_B is None:
      return weights
    return jnp.where(scaled >= per_row(lowest_B), weights, 0)

  padding = -logits_BV.shape[1] % _BLOCK
  logits_BCW = jnp.pad(
    logits_BV, ((0, 0), (0, padding)), constant_values=-jnp.inf
  ).reshape(logits_BV.shape[0], -1, _BLOCK)
  sums_BC = jnp.sum(weigh(logits_BCW), axis=-1)
  # A cumulative sum may round up at a block of probability 0. Such blocks must
  # not be sampled, so the sum rises only where a block has positive weight.
  ends_BC = jnp.where(sums_BC > 0, jnp.cumsum(sums_BC, axis=-1), 0)
  ends_BC = jax.lax.cummax(ends_BC, axis=1)
  total_B = ends_BC[:, -1]
  target_B = uniforms_B * total_B
  block_B = jnp.argmax(ends_BC > target_B[:, None], axis=-1)
  before_BC = jnp.pad(ends_BC, ((0, 0), (1, 0)))[:, :-1]
  rest_B = target_B - jnp.take_along_axis(before_BC, block_B[:, None], 1)[:, 0]
  inner_BW = weigh(
    jnp.take_along_axis(logits_BCW, block_B[:, None, None], 1)[:, 0]
  )
  inside_BW = jnp.cumsum(inner_BW, axis=-1) > rest_B[:, None]
  inside_BW &= inner_BW > 0
  # Rounding may leave no token in the block; then take its most likely token.
  token_B = jnp.where(
    jnp.any(inside_BW, axis=-1),
    jnp.argmax(inside_BW, axis=-1),
    jnp.argmax(inner_BW, axis=-1),
  )
  return block_B * _BLOCK + token_B, peak_B + jnp.log(total_B)


def nucleus(logits_BV: jax.Array, top_p_B: jax.Array) -> jax.Array:
  """Returns a mask of the smallest set of tokens with `top_p` of the mass.

  The set consists of the most likely tokens, with a total probability of at
  least `top_p`. The function finds the highest probability threshold that keeps
  this mass. It bisects over the bit patterns of non-negative floats, which have
  the same order as their values. This takes 31 sums over the vocabulary instead
  of a sort. All ties at the threshold are kept.

  Args:
    logits_BV: logits.
    top_p_B: probability mass of the nucleus of each row.

  Returns:
    A mask [B, V] with at least one token per row.
  """
  probs_BV = jax.nn.softmax(logits_BV, axis=-1)

  def mass(bits_B: jax.Array) -> jax.Array:
    threshold_B = jax.lax.bitcast_convert_type(bits_B, jnp.float32)
    kept_BV = probs_BV >= threshold_B[:, None]
    return jnp.sum(jnp.where(kept_BV, probs_BV, 0), axis=-1)

  def halve(
    _: jax.Array, bounds: tuple[jax.Array, jax.Array]
  ) -> tuple[jax.Array, jax.Array]:
    low_B, high_B = bounds  # mass(low) >= top_p > mass(high)
    middle_B = low_B + (high_B - low_B) // 2
    enough_B = mass(middle_B) >= top_p_B
    return (
      jnp.where(enough_B, middle_B, low_B),
      jnp.where(enough_B, high_B, middle_B),
    )

  peak_B = jnp.max(probs_BV, axis=-1)
  low_B = jnp.zeros(probs_BV.shape[:1], jnp.int32)
  # One step above the largest probability, where no token is kept.
  high_B = jax.lax.bitcast_convert_type(peak_B, jnp.int32) + 1
  low_B, _ = jax.lax.fori_loop(0, 31, halve, (low_B, high_B))
  threshold_B = jax.lax.bitcast_convert_type(low_B, jnp.float32)
  # Keep the most likely token even if top_p is 0.
  return probs_BV >= jnp.minimum(threshold_B, peak_B)[:, None]
