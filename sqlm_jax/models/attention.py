"""Attention of a segment of tokens over itself and over shared context.

The text that a row has seen is a chain of segments: a prefix common to all
rows, the row's prompt, the part of its response that is already written. Each
earlier segment is a `KeyValues` with as many rows as there are different
texts in it; consecutive rows of the batch share one. So a prompt with G
answers is computed and stored once, and a cache for decoding is one more
segment.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from sqlm_jax.models import layers
from sqlm_jax.ops import masked


class KeyValues(NamedTuple):
  """Keys and values of one segment, right-padded.

  Inside a layer the leading L is absent.
  """

  keys: jax.Array  # [L, A, S, K, H], A divides the batch's rows
  values: jax.Array  # [L, A, S, K, H]
  lengths: jax.Array  # [A], how many of the S slots are live


class Span(NamedTuple):
  """What of the text before it a layer attends to, and how.

  Attributes:
    scale: times query . key.
    softcap: keeps scores within its bounds, 0 does not.
    window: tokens back that are seen, the token itself included; None sees
      all. May be traced: layers of one scan differ in it.
  """

  scale: float
  softcap: float = 0.0
  window: jax.Array | None = None


def starts(context: tuple[KeyValues, ...], rows: int) -> list[jax.Array]:
  """Position of the first token of each segment and of what follows them.

  Returns:
    For each segment [A] of its rows, and last [B] for a segment of `rows`.
  """
  found = [jnp.zeros((context[0].lengths.shape[0] if context else rows,), int)]
  for i, segment in enumerate(context):
    after = context[i + 1].lengths.shape[0] if i + 1 < len(context) else rows
    end_A = found[-1] + segment.lengths
    found.append(jnp.repeat(end_A, after // end_A.shape[0]))
  return found


def attend(
  query_BTNH: jax.Array,
  key_BTKH: jax.Array,
  value_BTKH: jax.Array,
  context: tuple[KeyValues, ...] = (),
  *,
  span: Span,
) -> jax.Array:
  """Causal self-attention merged with attention over earlier segments.

  Attention over a union of key sets is the average of the attentions over
  each, weighted by their softmax denominators. With o_i and l_i the output
  and log-sum-exp over segment i,

    o = sum_i o_i exp(l_i - l),  l = logsumexp_i l_i,

  which equals attention over the concatenated text, values and gradients.

  Args:
    query_BTNH: rotated queries of the segment.
    key_BTKH: rotated keys of the segment.
    value_BTKH: values of the segment.
    context: earlier segments, without the layer dimension.
    span: scale, soft-cap and window of the layer.

  Returns:
    The attention output [B, T, N, H].
  """
  rows, width = query_BTNH.shape[:2]
  steps_T = jnp.arange(width)
  back_TT = steps_T[:, None] - steps_T[None, :]
  causal_TT = back_TT >= 0
  if span.window is not None:
    causal_TT &= back_TT < span.window
  parts = [
    attend_to_segment(query_BTNH, key_BTKH, value_BTKH, causal_TT[None], span)
  ]
  *firsts, first_B = starts(context, rows)
  for segment, first_A in zip(context, firsts, strict=True):
    # Rows that share a context become more queries of one row.
    shared, slots = segment.keys.shape[:2]
    query = query_BTNH.reshape(shared, -1, *query_BTNH.shape[2:])
    mask = masked.up_to(segment.lengths, slots)[:, None]
    if span.window is not None:
      position_AT = (first_B[:, None] + steps_T[None, :]).reshape(shared, -1)
      position_AS = first_A[:, None] + jnp.arange(slots)[None, :]
      back_ATS = position_AT[:, :, None] - position_AS[:, None, :]
      mask = mask & (back_ATS < span.window)
    out, lse = attend_to_segment(
      query, segment.keys, segment.values, mask, span
    )
    parts.append(
      (out.reshape(query_BTNH.shape), lse.reshape(query_BTNH.shape[:3]))
    )
  if len(parts) == 1:
    return parts[0][0].astype(query_BTNH.dtype)
  weights_IBTN = jax.nn.softmax(jnp.stack([lse for _, lse in parts]), axis=0)
  merged = sum(
    out * weight[..., None]
    for (out, _), weight in zip(parts, weights_IBTN, strict=True)
  )
  return merged.astype(query_BTNH.dtype)


def attend_to_segment(
  query_ATNH: jax.Array,
  key_ASKH: jax.Array,
  value_ASKH: jax.Array,
  mask_ATS: jax.Array,
  span: Span,
) -> tuple[jax.Array, jax.Array]:
  """Softmax attention over one segment, with its log-sum-exp.

  `jax.nn.dot_product_attention` returns the log-sum-exp too, but stops its
  gradient (jax 0.10), and a merge without that gradient is wrong.

  Args:
    query_ATNH: queries; N is a multiple of K, heads of a group side by side.
    key_ASKH: keys.
    value_ASKH: values.
    mask_ATS: what may be seen; A and T may be 1.
    span: for its scale and soft-cap.

  Returns:
    Output [A, T, N, H] and log-sum-exp [A, T, N], both float32. Where nothing
    may be seen the log-sum-exp is very negative and the output finite.
  """
  rows, width, num_heads, head_width = query_ATNH.shape
  num_kv_heads = key_ASKH.shape[2]
  # K is a batch dimension of the products, J the query heads that share it.
  query_ATKJH = query_ATNH.reshape(
    rows, width, num_kv_heads, num_heads // num_kv_heads, head_width
  )
  scores_AKJTS = jnp.einsum(
    'atkjh,askh->akjts',
    query_ATKJH * span.scale,
    key_ASKH,
    preferred_element_type=jnp.float32,
  )
  scores_AKJTS = layers.softcap(scores_AKJTS, span.softcap)
  lowest = jnp.finfo(jnp.float32).min / 2  # finite: -inf - -inf is nan
  scores_AKJTS = jnp.where(mask_ATS[:, None, None], scores_AKJTS, lowest)
  lse_AKJT = jax.nn.logsumexp(scores_AKJTS, axis=-1)
  probs_AKJTS = jnp.exp(scores_AKJTS - lse_AKJT[..., None])
  out_ATKJH = jnp.einsum(
    'akjts,askh->atkjh',
    probs_AKJTS.astype(value_ASKH.dtype),
    value_ASKH,
    preferred_element_type=jnp.float32,
  )
  return (
    out_ATKJH.reshape(query_ATNH.shape),
    jnp.moveaxis(lse_AKJT, 3, 1).reshape(rows, width, num_heads),
  )
