"""Rotary position embedding, and how families stretch it to longer texts."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from sqlm_jax.models import config as model_config


def frequencies(rope: model_config.Rope, head_width: int) -> np.ndarray:
  """Radians a token for each of the H/2 rotary pairs, float32.

  Unstretched, f_i = theta^(-2i/H), Su et al. (2021), section 3.2.2. Then

    linear: f_i / factor, Chen et al. (2023), position interpolation.
    llama3: pairs with less than `low_frequency_factor` turns in the original
      context are divided by the factor, those with more than
      `high_frequency_factor` turns stay, and those between are a mixture
      (Llama 3.1's published code).
    yarn: the same idea with a ramp over the pairs' indices, between those
      with `beta_fast` and with `beta_slow` turns, Peng et al. (2023),
      section 3.2.
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
  """How much of each pair's frequency stays as it was, from 1 to 0."""

  def pair_with(turns):
    wavelength = rope.original_context / (turns * 2 * math.pi)
    return half * math.log(wavelength) / math.log(rope.theta)

  first, last = pair_with(rope.beta_fast), pair_with(rope.beta_slow)
  if rope.truncate:
    first, last = math.floor(first), math.ceil(last)
  # The published code bounds the ramp by H, not by H/2.
  first, last = max(first, 0), min(last, 2 * half - 1)
  last += 0.001 * (first == last)
  return 1 - np.clip((np.arange(half) - first) / (last - first), 0, 1)


def rotation(
  rope: model_config.Rope, positions_BT: jax.Array, head_width: int
) -> tuple[jax.Array, jax.Array]:
  """Sine and cosine [B, T, H/2] of every pair's angle, float32."""
  angles_BTH = (
    positions_BT[..., None].astype(jnp.float32)
    * frequencies(rope, head_width)[None, None, :]
  )
  scale = rope.attention_factor
  return jnp.sin(angles_BTH) * scale, jnp.cos(angles_BTH) * scale


def rotate(
  x_BTNH: jax.Array, sin_BTH: jax.Array, cos_BTH: jax.Array
) -> jax.Array:
  """Rotates queries or keys, Su et al. (2021), eq. 34, half-split layout.

  Dimension `i` is paired with `i + H/2`, as Hugging Face checkpoints store it.

  Args:
    x_BTNH: queries or keys.
    sin_BTH: sine of the angles, H/2 wide.
    cos_BTH: their cosine.

  Returns:
    Rotated queries or keys, in the dtype of `x_BTNH`.
  """
  sin, cos = sin_BTH[:, :, None], cos_BTH[:, :, None]
  first, second = jnp.split(x_BTNH.astype(jnp.float32), 2, axis=-1)
  rotated = jnp.concatenate(
    [first * cos - second * sin, second * cos + first * sin], axis=-1
  )
  return rotated.astype(x_BTNH.dtype)
