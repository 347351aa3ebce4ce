"""Drawing one token a row from logits."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

_BLOCK = 128  # width of the inner step of the two-step inverse transform


class Draw(NamedTuple):
  """One token a row, with its log-probability in two distributions."""

  tokens: jax.Array  # [B]
  logprobs: jax.Array  # [B] under the policy: temperature 1, nothing cut
  sampling_logprobs: jax.Array  # [B] under what was drawn from


def draw(
  uniforms_B: jax.Array,
  logits_BV: jax.Array,
  *,
  temperature_B: jax.Array | None = None,
  top_p_B: jax.Array | None = None,
) -> Draw:
  """Draws from softmax(logits / temperature), cut to the nucleus.

  Args:
    uniforms_B: uniform numbers in [0, 1), the only randomness.
    logits_BV: of any precision; weighed in float32.
    temperature_B: 0 takes the most likely token. Without it, nor `top_p_B`, the
      draws are from softmax(logits), and nothing is asked at run time.
    top_p_B: mass of the nucleus (Holtzman et al., 2020); 1 keeps everything.
  """
  chex.assert_rank(logits_BV, 2)
  if temperature_B is None:
    tokens_B, logz_B = inverse_transform(uniforms_B, logits_BV)
    logprobs_B = _pick(logits_BV, tokens_B) - logz_B
    return Draw(tokens_B.astype(jnp.int32), logprobs_B, logprobs_B)
  chex.assert_equal_shape([uniforms_B, temperature_B, top_p_B])
  greedy_B = temperature_B == 0
  coldness_B = 1 / jnp.where(greedy_B, 1.0, temperature_B)
  # What few settings need is done where a row has them. Each is a number a row:
  # logits are read, and nothing of their size is written (but for padding).
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
  # Under the policy: the same where nothing is scaled and nothing cut.
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
  """The token whose slice of the cumulative distribution holds the uniform.

  One uniform a row costs less than a Gumbel variate a vocabulary entry. In
  two steps, first a block of the vocabulary and then a token in it, so that
  no cumulative sum is longer than V / 128, and no array of weights is kept.

  Args:
    uniforms_B: in [0, 1).
    logits_BV: -inf has no probability and is never drawn.
    scale_B: times the logits, positive; default, 1.
    lowest_B: scaled logits below it have no probability; default, none.

  Returns:
    Tokens [B], and logsumexp [B] of the scaled logits that are left.
  """

  def scale(x):
    """Times what its row is scaled by."""
    if scale_B is None:
      return _exact(x)
    return _exact(x) * jnp.expand_dims(scale_B, range(1, x.ndim))

  peak_B = scale(jnp.max(logits_BV, axis=-1))

  def weigh(logits_B_W):
    """Their weights, 1 that of the likeliest token."""
    a_row = lambda x_B: jnp.expand_dims(x_B, range(1, logits_B_W.ndim))
    scaled_B_W = scale(logits_B_W)
    weights_B_W = jnp.exp(scaled_B_W - a_row(peak_B))
    if lowest_B is None:
      return weights_B_W
    return jnp.where(scaled_B_W >= a_row(lowest_B), weights_B_W, 0)

  padding = -logits_BV.shape[1] % _BLOCK
  logits_BCW = jnp.pad(
    logits_BV, ((0, 0), (0, padding)), constant_values=-jnp.inf
  ).reshape(logits_BV.shape[0], -1, _BLOCK)
  sums_BC = jnp.sum(weigh(logits_BCW), axis=-1)
  # A sum of prefixes may round up where nothing is added: only where something
  # is does it rise here.
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
  # The block's own sum may round below its share: then its likeliest token.
  token_B = jnp.where(
    jnp.any(inside_BW, axis=-1),
    jnp.argmax(inside_BW, axis=-1),
    jnp.argmax(inner_BW, axis=-1),
  )
  return block_B * _BLOCK + token_B, peak_B + jnp.log(total_B)


def nucleus(logits_BV: jax.Array, top_p_B: jax.Array) -> jax.Array:
  """The smallest set of likeliest tokens with at least `top_p` of the mass.

  Finds the largest threshold whose tokens hold the mass by bisection over the
  bit patterns of non-negative floats, which are ordered as their values are:
  31 sums over the vocabulary instead of a sort. Ties at the threshold are
  all kept.

  Returns:
    A mask [B, V], never empty.
  """
  probs_BV = jax.nn.softmax(logits_BV, axis=-1)

  def mass(bits_B):
    threshold_B = jax.lax.bitcast_convert_type(bits_B, jnp.float32)
    kept_BV = probs_BV >= threshold_B[:, None]
    return jnp.sum(jnp.where(kept_BV, probs_BV, 0), axis=-1)

  def halve(_, bounds):
    low_B, high_B = bounds  # mass(low) >= top_p > mass(high)
    middle_B = low_B + (high_B - low_B) // 2
    enough_B = mass(middle_B) >= top_p_B
    return (
      jnp.where(enough_B, middle_B, low_B),
      jnp.where(enough_B, high_B, middle_B),
    )

  peak_B = jnp.max(probs_BV, axis=-1)
  low_B = jnp.zeros(probs_BV.shape[:1], jnp.int32)
  # One step above the largest probability: nothing is kept there.
  high_B = jax.lax.bitcast_convert_type(peak_B, jnp.int32) + 1
  low_B, _ = jax.lax.fori_loop(0, 31, halve, (low_B, high_B))
  threshold_B = jax.lax.bitcast_convert_type(low_B, jnp.float32)
  # The likeliest token stays even where top_p is 0.
  return probs_BV >= jnp.minimum(threshold_B, peak_B)[:, None]
