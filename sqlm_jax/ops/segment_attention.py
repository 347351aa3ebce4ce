"""Attention over segments of keys and values that several rows share.

A segment has A rows of S keys. Each of its rows is shared by B / A consecutive
rows of the batch.

I here enumerates segments, and Q the queries that share a key: the query heads
of a key head, then the rows of the batch that share a row of the segment, then
their tokens.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import ad_checkpoint

from sqlm_jax.ops import soft_cap

KEPT = 'attention'  # checkpoint name of residuals that remat should save
_LOWEST = float(np.finfo(np.float32).min) / 2  # finite: -inf - -inf is nan


class MaskedKeys(NamedTuple):
  """Keys and values of a segment, with an attention mask.

  Attributes:
    keys: [A, K, S, H].
    values: [A, K, S, H].
    mask: [A, T, S]; A and T may be 1. T divides the queries of a row.
  """

  keys: jax.Array
  values: jax.Array
  mask: jax.Array


_Residuals = tuple[
  jax.Array, tuple[MaskedKeys, ...], jax.Array, jax.Array
]  # queries, segments, output and log-sum-exp


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def attend(
  scale: float,
  softcap: float,
  query_BTNH: jax.Array,
  segments: tuple[MaskedKeys, ...],
) -> jax.Array:
  """Computes softmax attention over the union of several segments.

  Attention over a union of key sets is the average of the attention outputs
  over each set, weighted by their softmax denominators. With o_i and l_i the
  output and log-sum-exp over segment i,

    o = sum_i o_i exp(l_i - l),  l = logsumexp_i l_i.

  JAX's own gradient would differentiate the softmax of every segment and their
  merge separately. This backward pass instead uses the merged log-sum-exp l, as
  that of FlashAttention does (Dao et al., 2022, appendix B.2): with
  p = exp(s - l) and d = sum_h do_h o_h, ds = p (do v^T - d) in every segment.

  Args:
    scale: multiplies query . key.
    softcap: limits scores to (-softcap, softcap); 0 disables it.
    query_BTNH: queries.
    segments: keys and values with their masks.

  Returns:
    The attention output [B, T, N, H].
  """
  return _attend_with_lse(scale, softcap, query_BTNH, segments)[0]


def _attend_with_lse(
  scale: float,
  softcap: float,
  query_BTNH: jax.Array,
  segments: tuple[MaskedKeys, ...],
) -> tuple[jax.Array, jax.Array]:
  """Returns output [B, T, N, H] and log-sum-exp [B, T, N] over all segments."""
  results = [
    attend_to_segment(
      group_queries(query_BTNH, segment.keys),
      segment,
      scale=scale,
      softcap=softcap,
    )
    for segment in segments
  ]
  return merge(results, query_BTNH)


def merge(
  results: Sequence[tuple[jax.Array, jax.Array]], query_BTNH: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Merges the results of `attend_to_segment` for several segments.

  Args:
    results: output [A, K, Q, H] and log-sum-exp [A, K, Q] of each segment.
    query_BTNH: the queries, for their shape and dtype.

  Returns:
    Output [B, T, N, H] and log-sum-exp [B, T, N] over all segments.
  """
  *shape, _ = query_BTNH.shape
  outs = [_ungroup(out, query_BTNH.shape) for out, _ in results]
  lses = [_ungroup(lse[..., None], (*shape, 1)) for _, lse in results]
  if len(outs) == 1:
    return outs[0].astype(query_BTNH.dtype), lses[0][..., 0]
  lses_IBTN1 = jnp.stack(lses)
  lse_BTN1 = jax.nn.logsumexp(lses_IBTN1, axis=0)
  weights_IBTN1 = jnp.exp(lses_IBTN1 - lse_BTN1[None])
  merged_BTNH = sum(
    out * weight for out, weight in zip(outs, weights_IBTN1, strict=True)
  )
  return merged_BTNH.astype(query_BTNH.dtype), lse_BTN1[..., 0]


def _attend_forward(
  scale: float,
  softcap: float,
  query_BTNH: jax.Array,
  segments: tuple[MaskedKeys, ...],
) -> tuple[jax.Array, _Residuals]:
  out_BTNH, lse_BTN = _attend_with_lse(scale, softcap, query_BTNH, segments)
  # The remat policy saves these.
  out_BTNH = ad_checkpoint.checkpoint_name(out_BTNH, KEPT)
  lse_BTN = ad_checkpoint.checkpoint_name(lse_BTN, KEPT)
  return out_BTNH, (query_BTNH, segments, out_BTNH, lse_BTN)


def _attend_backward(
  scale: float, softcap: float, residuals: _Residuals, d_out_BTNH: jax.Array
) -> tuple[jax.Array, tuple[MaskedKeys, ...]]:
  query_BTNH, segments, out_BTNH, lse_BTN = residuals
  dtype = query_BTNH.dtype
  delta_BTN1 = jnp.sum(
    (d_out_BTNH * out_BTNH).astype(jnp.float32), axis=-1, keepdims=True
  )
  d_query: jax.Array | float = 0.0
  d_segments = []
  for segment in segments:
    keys, values, _ = segment
    query, d_out, lse, delta = (
      group_queries(x, keys)
      for x in (query_BTNH, d_out_BTNH, lse_BTN[..., None], delta_BTN1)
    )
    scores = _scores(query, segment, scale=scale, softcap=softcap)
    probs = jnp.exp(scores - lse)
    d_probs = _einsum('akqh,aksh->akqs', d_out, values)
    d_scores = probs * (d_probs - delta)
    if softcap:
      # Masked scores are far outside the cap; there, probs are 0.
      slope = 1 - jnp.square(jnp.clip(scores / softcap, -1, 1))
      d_scores = d_scores * slope
    d_scores = (d_scores * scale).astype(dtype)
    d_query += _ungroup(
      _einsum('akqs,aksh->akqh', d_scores, keys), query_BTNH.shape
    )
    d_keys = _einsum('akqs,akqh->aksh', d_scores, query)
    d_values = _einsum('akqs,akqh->aksh', probs.astype(dtype), d_out)
    d_segments.append(
      MaskedKeys._make(
        (d_keys.astype(keys.dtype), d_values.astype(values.dtype), None)
      )
    )
  return jnp.asarray(d_query, dtype), tuple(d_segments)


attend.defvjp(_attend_forward, _attend_backward)

_einsum = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)


def attend_to_segment(
  query_AKQH: jax.Array,
  segment: MaskedKeys,
  *,
  scale: float,
  softcap: float = 0.0,
) -> tuple[jax.Array, jax.Array]:
  """Computes softmax attention over one segment, with its log-sum-exp.

  Args:
    query_AKQH: all queries that share a key, see `group_queries`.
    segment: keys and values with their mask.
    scale: multiplies query . key.
    softcap: limits scores to (-softcap, softcap); 0 disables it.

  Returns:
    Output [A, K, Q, H] and log-sum-exp [A, K, Q], both float32. If all keys of
    a query are masked, its log-sum-exp is very negative and its output finite.
  """
  values_AKSH = segment.values
  scores_AKQS = _scores(query_AKQH, segment, scale=scale, softcap=softcap)
  highest_AKQ1 = jnp.max(scores_AKQS, axis=-1, keepdims=True)
  weights_AKQS = jnp.exp(scores_AKQS - highest_AKQ1)
  total_AKQ1 = jnp.sum(weights_AKQS, axis=-1, keepdims=True)
  out_AKQH = _einsum(
    'akqs,aksh->akqh', weights_AKQS.astype(values_AKSH.dtype), values_AKSH
  )
  lse_AKQ = jnp.squeeze(highest_AKQ1 + jnp.log(total_AKQ1), axis=-1)
  return out_AKQH / total_AKQ1, lse_AKQ


def _scores(
  query_AKQH: jax.Array,
  segment: MaskedKeys,
  *,
  scale: float,
  softcap: float,
) -> jax.Array:
  """Returns the scores [A, K, Q, S], with `_LOWEST` where they are masked."""
  mask_ATS = segment.mask
  scores_AKQS = _einsum('akqh,aksh->akqs', query_AKQH * scale, segment.keys)
  scores_AKQS = soft_cap.soft_cap(scores_AKQS, softcap)
  rows, num_kv_heads, num_queries, slots = scores_AKQS.shape
  steps = mask_ATS.shape[1]
  if steps == 1:
    return jnp.where(mask_ATS[:, None], scores_AKQS, _LOWEST)
  by_step = (rows, num_kv_heads, num_queries // steps, steps, slots)
  scores = jnp.where(
    mask_ATS[:, None, None], scores_AKQS.reshape(by_step), _LOWEST
  )
  return scores.reshape(scores_AKQS.shape)


def group_queries(x_BTNH: jax.Array, keys: jax.Array) -> jax.Array:
  """Reshapes [B, T, N, H] to [A, K, Q, H], where Q shares a row and key head.

  Args:
    x_BTNH: queries, or arrays of the same layout.
    keys: keys [A, K, S, H], with or without a layer dimension.
  """
  shared, num_kv_heads = keys.shape[-4:-2]
  rows, width, num_heads, head_width = x_BTNH.shape
  x = x_BTNH.reshape(
    shared,
    (rows // shared) * width,
    num_kv_heads,
    num_heads // num_kv_heads,
    head_width,
  )
  x = jnp.transpose(x, (0, 2, 3, 1, 4))
  return x.reshape(shared, num_kv_heads, -1, head_width)


def _ungroup(x_AKQH: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Inverts `group_queries`; `shape` is that of the result [B, T, N, H]."""
  rows, width, num_heads, head_width = shape
  shared, num_kv_heads = x_AKQH.shape[:2]
  x = x_AKQH.reshape(
    shared,
    num_kv_heads,
    num_heads // num_kv_heads,
    (rows // shared) * width,
    head_width,
  )
  return jnp.transpose(x, (0, 3, 1, 2, 4)).reshape(shape)
