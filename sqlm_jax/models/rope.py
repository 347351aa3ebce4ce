"""Rotary position embedding and its extensions to longer contexts.

J here is the number of rotary pairs, H / 2.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from sqlm_jax.models import model_config


def frequencies(rope: model_config.Rope, head_width: int) -> np.ndarray:
  """Computes the rotation per token of the J rotary pairs.

  The base frequencies are f_i = theta^(-2i/H), Su et al. (2021), section 3.2.2.
  The kinds of `rope` other than 'default' change them as follows:

    linear: f_i / factor, Chen et al. (2023), position interpolation.
    llama3: pairs with fewer than `low_frequency_factor` turns in the original
      context are divided by the factor. Pairs with more than
      `high_frequency_factor` turns are unchanged. Pairs in between are
      interpolated (Llama 3.1's published code).
    yarn: as for llama3, pairs with many turns are unchanged, and pairs with few
      turns are divided by the factor. The interpolation is linear in the index
      of the pair, between the pairs with `beta_fast` and with `beta_slow`
      turns, Peng et al. (2023), section 3.2.

  Args:
    rope: kind and parameters of the embedding.
    head_width: H.

  Returns:
    Radians per token [J], float32.
  """
  half = head_width // 2
  plain = rope.theta ** (-np.arange(half) / half)
  if rope.kind == 'default':
    kept = np.ones(half)
  elif rope.kind == 'linear':
    kept = np.zeros(half)
  elif rope.kind == 'llama3':
    turns = rope.original_context * plain / (2 * math.pi)
    low, high = rope.low_frequency_factor, rope.high_frequency_factor
    kept = np.clip((turns - low) / (high - low), 0, 1)
  else:
    kept = _yarn_kept(rope, half)
  return (plain * kept + plain / rope.factor * (1 - kept)).astype(np.float32)


def _yarn_kept(rope: model_config.Rope, half: int) -> np.ndarray:
  """Returns the weight [J] of each pair's base frequency, from 1 to 0."""

  def pair_with(turns: float) -> float:
    wavelength = rope.original_context / (turns * 2 * math.pi)
    return half * math.log(wavelength) / math.log(rope.theta)

  first, last = pair_with(rope.beta_fast), pair_with(rope.beta_slow)
  if rope.truncate:
    first, last = math.floor(first), math.ceil(last)
  # The published code bounds the ramp by H - 1, not by H/2 - 1.
  first, last = max(first, 0), min(last, 2 * half - 1)
  if first == last:
    last += 0.001
  return 1 - np.clip((np.arange(half) - first) / (last - first), 0, 1)


def rotation(
  rope: model_config.Rope, positions_BT: jax.Array, head_width: int
) -> tuple[jax.Array, jax.Array]:
  """Computes sine and cosine [B, T, J] of the rotation angles, float32."""
  angles_BTJ = (
    positions_BT[..., None].astype(jnp.float32)
    * frequencies(rope, head_width)[None, None, :]
  )
  scale = rope.attention_factor
  return jnp.sin(angles_BTJ) * scale, jnp.cos(angles_BTJ) * scale


def rotate(
  x_BTNH: jax.Array, sin_BTJ: jax.Array, cos_BTJ: jax.Array
) -> jax.Array:
  """Rotates queries or keys, Su et al. (2021), eq. 34, half-split layout.

  Dimension `i` is paired with dimension `i + H/2`, as in Hugging Face
  checkpoints.

  Args:
    x_BTNH: queries or keys.
    sin_BTJ: sine of the angles [B, T, J].
    cos_BTJ: cosine of the angles [B, T, J].

  Returns:
    Rotated queries or keys, in the dtype of `x_BTNH`.
  """
  sin, cos = sin_BTJ[:, :, None], cos_BTJ[:, :, None]
  first, second = jnp.split(x_BTNH.astype(jnp.float32), 2, axis=-1)
  rotated = jnp.concatenate(
    [first * cos - second * sin, second * cos + first * sin], axis=-1
  )
  return rotated.astype(x_BTNH.dtype)
