"""Attention to a chain of segments by cuDNN, which writes no scores.

cuDNN knows one sequence of keys a row. So each row gets those of all segments
side by side, which multiplies what its neighbours share with it by their
number: keys are few beside the scores that need not be written.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp


def attend(
  query_BTNH: jax.Array,
  pairs: Sequence[tuple[jax.Array, jax.Array]],
  masks: Sequence[jax.Array],
  *,
  scale: float,
  implementation: str = 'cudnn',
) -> jax.Array:
  """Softmax attention over the union of segments; differentiable.

  Args:
    query_BTNH: queries.
    pairs: keys and values [A, K, S, H] of each segment; A divides B, and
      consecutive rows share one.
    masks: what may be seen of each segment, [A, 1 or T, S].
    scale: times query . key.
    implementation: of `jax.nn.dot_product_attention`.

  Returns:
    The attention output [B, T, N, H].
  """
  rows, width = query_BTNH.shape[:2]

  def for_rows(x):
    return jnp.repeat(x, rows // len(x), axis=0)

  def join(which):
    parts = [for_rows(pair[which]) for pair in pairs]
    return jnp.swapaxes(jnp.concatenate(parts, axis=2), 1, 2)

  seen = [
    jnp.broadcast_to(for_rows(mask), (rows, width, mask.shape[2]))
    for mask in masks
  ]
  mask_BTS = jnp.concatenate(seen, axis=2)
  keys, values = join(0), join(1)
  # It takes even lengths.
  odd_T, odd_S = width % 2, mask_BTS.shape[2] % 2
  if odd_T or odd_S:
    query_BTNH = jnp.pad(query_BTNH, ((0, 0), (0, odd_T), (0, 0), (0, 0)))
    keys, values = (
      jnp.pad(x, ((0, 0), (0, odd_S), (0, 0), (0, 0))) for x in (keys, values)
    )
    mask_BTS = jnp.pad(mask_BTS, ((0, 0), (0, odd_T), (0, odd_S)))
  out_BTNH = jax.nn.dot_product_attention(
    query_BTNH,
    keys,
    values,
    mask=mask_BTS[:, None],
    scale=scale,
    implementation=implementation,
  )
  return out_BTNH[:, :width]


def is_kept(primitive) -> bool:
  """Whether it is the attention: for a policy of `jax.checkpoint`."""
  return primitive.name == 'dot_product_attention_fwd_wrapper'
