"""Attention of a segment of tokens over itself and over shared context.

The text that a row has seen is a chain of segments: a prefix common to all
rows, the row's prompt, the part of its response that is already written. Each
earlier segment is a `KeyValues` with as many rows as there are different
texts in it; consecutive rows of the batch share one. So a prompt with G
answers is computed and stored once, and a cache for decoding is one more
segment.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import ad_checkpoint

from sqlm_jax.models import kernels as kernels_lib
from sqlm_jax.models import layers
from sqlm_jax.ops import fused_attention, masked
from sqlm_jax.ops import packing as packing_lib

_LOWEST = float(np.finfo(np.float32).min) / 2  # finite: -inf - -inf is nan
# Of keys that are copied at once: with their values they stay in the caches of
# a processor (measured: docs/benchmarks.md, what was tried).
_NEAR_BYTES = 3 << 19


class KeyValues(NamedTuple):
  """Keys and values of one segment, right-padded.

  Inside a layer the leading L is absent.
  """

  keys: jax.Array  # [L, A, K, S, H], A divides the batch's rows
  values: jax.Array  # [L, A, K, S, H]
  lengths: jax.Array  # [A], how many of the S slots are live


class Segment(NamedTuple):
  """Tokens that are read at once: rows, right-padded, or without padding.

  With a packing tokens and hidden states are those of its parts, while lengths
  and what other segments see of it are by row.
  """

  tokens: jax.Array  # [A, S], of rows or of parts
  lengths: jax.Array  # [A], of rows
  packing: packing_lib.Packing | None = None

  @property
  def width(self) -> int:
    """Tokens that a row has room for."""
    if self.packing is None:
      return self.tokens.shape[1]
    return self.packing.places.shape[2]

  def even(self) -> 'Segment':
    """The same, if need be with a token of padding more.

    Kernels take even widths: else queries, keys and values were padded, each.
    """
    if self.width % 2 == 0:
      return self
    if self.packing is not None:
      return self._replace(packing=packing_lib.lengthen(self.packing))
    return self._replace(tokens=jnp.pad(self.tokens, ((0, 0), (0, 1))))


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


def is_kept(primitive, *args, **params) -> bool:
  """A policy of `jax.checkpoint`: the output and what its gradient needs."""
  named = jax.checkpoint_policies.save_only_these_names(kernels_lib.KEPT)
  return named(primitive, *args, **params) or fused_attention.is_kept(primitive)


def starts(lengths: tuple[jax.Array, ...]) -> list[jax.Array]:
  """Position of the first token of every row of each segment of a chain.

  Args:
    lengths: of the rows of each segment, [A]. The last segment's own lengths
      play no part.
  """
  first, *later = lengths
  found = [jnp.zeros_like(first)]
  for before, after in zip(lengths, later, strict=False):
    end_A = found[-1] + before
    found.append(jnp.repeat(end_A, after.shape[0] // end_A.shape[0]))
  return found


def attend(
  query_BTNH: jax.Array,
  key_BKTH: jax.Array,
  value_BKTH: jax.Array,
  context: tuple[KeyValues, ...] = (),
  *,
  span: Span,
  layer: int | jax.Array | None = None,
  kernels: kernels_lib.Kernels | None = None,
) -> jax.Array:
  """Causal self-attention merged with attention over earlier segments.

  Attention over a union of key sets is the average of the attentions over
  each, weighted by their softmax denominators. With o_i and l_i the output
  and log-sum-exp over segment i,

    o = sum_i o_i exp(l_i - l),  l = logsumexp_i l_i,

  which equals attention over the concatenated text, values and gradients.

  Args:
    query_BTNH: rotated queries of the segment.
    key_BKTH: rotated keys of the segment.
    value_BKTH: values of the segment.
    context: earlier segments, without the layer dimension, or with it where
      `layer` is given.
    span: scale, soft-cap and window of the layer.
    layer: which of the context's; may be traced. There is no gradient then.
    kernels: that compute it, which know no soft-cap and no window.

  Returns:
    The attention output [B, T, N, H].
  """
  rows, width = query_BTNH.shape[:2]
  if layer is not None and kernels:
    if width == 1 and kernels.decodes(rows, context):
      out_BNH = kernels.decode(
        query_BTNH[:, 0],
        key_BKTH[:, :, 0],
        value_BKTH[:, :, 0],
        context,
        layer=layer,
        scale=span.scale,
      )
      return out_BNH[:, None]
    context = tuple(
      KeyValues(x.keys[layer], x.values[layer], x.lengths) for x in context
    )
    layer = None
  if kernels and kernels.reads(width):
    return kernels.read(
      query_BTNH, key_BKTH, value_BKTH, context, scale=span.scale
    )
  masks = _masks(context, rows, width, span.window)
  pairs = [(segment.keys, segment.values) for segment in context]
  pairs.append((key_BKTH, value_BKTH))
  operands = span.scale, span.softcap, query_BTNH, tuple(pairs), tuple(masks)
  if layer is None:
    return _attend(*operands)
  return _merge(*operands, layer)[0]


def _masks(context, rows, width, window) -> list[jax.Array]:
  """What [A, 1 or (B / A) T, S] of each segment may be seen, the own last."""
  steps_T = jnp.arange(width)
  masks = []
  own = jnp.full((rows,), width)
  *firsts, first_B = starts((*(segment.lengths for segment in context), own))
  for segment, first_A in zip(context, firsts, strict=True):
    shared, _, slots, _ = segment.keys.shape[-4:]
    mask = masked.up_to(segment.lengths, slots)[:, None]
    if window is not None:
      position_AT = (first_B[:, None] + steps_T[None, :]).reshape(shared, -1)
      position_AS = first_A[:, None] + jnp.arange(slots)[None, :]
      back_ATS = position_AT[:, :, None] - position_AS[:, None, :]
      mask = mask & (back_ATS < window)
    masks.append(mask)
  back_TT = steps_T[:, None] - steps_T[None, :]
  causal_TT = back_TT >= 0
  if window is not None:
    causal_TT &= back_TT < window
  masks.append(causal_TT[None])
  return masks


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attend(scale, softcap, query_BTNH, pairs, masks):
  """Attention over segments of keys and values, each with its mask.

  JAX would differentiate every segment's softmax and their merge one after
  the other. The backward pass here goes by the merged log-sum-exp l, as that
  of FlashAttention does (Dao et al., 2022, appendix B.2): with p = exp(s - l)
  and d = sum_h do_h o_h, ds = p (do v^T - d), whatever the segment.
  """
  return _merge(scale, softcap, query_BTNH, pairs, masks)[0]


def _merge(scale, softcap, query_BTNH, pairs, masks, layer=None):
  """Output [B, T, N, H] and log-sum-exp [B, T, N] over all segments.

  Of pairs that still have all layers it reads one, a block of rows at a time.
  """
  rows, width, num_heads, _ = query_BTNH.shape
  outs, lses = [], []
  for (keys, values), mask in zip(pairs, masks, strict=True):
    read = attend_to_segment
    if keys.ndim == 5:
      read = functools.partial(_attend_by_block, layer)
    out, lse = read(
      _to_rows(query_BTNH, keys), keys, values, mask, scale, softcap
    )
    outs.append(_from_rows(out, query_BTNH.shape))
    lses.append(_from_rows(lse[..., None], (rows, width, num_heads, 1)))
  if len(outs) == 1:
    return outs[0].astype(query_BTNH.dtype), lses[0][..., 0]
  lses_IBTN1 = jnp.stack(lses)
  lse_BTN1 = jax.nn.logsumexp(lses_IBTN1, axis=0)
  weights = jnp.exp(lses_IBTN1 - lse_BTN1[None])
  merged = sum(out * weight for out, weight in zip(outs, weights, strict=True))
  return merged.astype(query_BTNH.dtype), lse_BTN1[..., 0]


def _attend_forward(scale, softcap, query_BTNH, pairs, masks):
  out_BTNH, lse_BTN = _merge(scale, softcap, query_BTNH, pairs, masks)
  # What a rematerialised block keeps.
  out_BTNH = ad_checkpoint.checkpoint_name(out_BTNH, kernels_lib.KEPT)
  lse_BTN = ad_checkpoint.checkpoint_name(lse_BTN, kernels_lib.KEPT)
  return out_BTNH, (query_BTNH, pairs, masks, out_BTNH, lse_BTN)


def _attend_backward(scale, softcap, kept, d_out_BTNH):
  query_BTNH, pairs, masks, out_BTNH, lse_BTN = kept
  dtype = query_BTNH.dtype
  delta_BTN1 = jnp.sum(
    (d_out_BTNH * out_BTNH).astype(jnp.float32), axis=-1, keepdims=True
  )
  d_query, d_pairs = 0.0, []
  for (keys, values), mask in zip(pairs, masks, strict=True):
    query, d_out, lse, delta = (
      _to_rows(x, keys)
      for x in (query_BTNH, d_out_BTNH, lse_BTN[..., None], delta_BTN1)
    )
    scores = _scores(query, keys, mask, scale, softcap)
    probs = jnp.exp(scores - lse)
    d_probs = _einsum('akqh,aksh->akqs', d_out, values)
    d_scores = probs * (d_probs - delta)
    if softcap:
      # Masked scores are far beyond the cap, where probs are 0.
      slope = 1 - jnp.square(jnp.clip(scores / softcap, -1, 1))
      d_scores = d_scores * slope
    d_scores = (d_scores * scale).astype(dtype)
    d_query += _from_rows(
      _einsum('akqs,aksh->akqh', d_scores, keys), query_BTNH.shape
    )
    d_keys = _einsum('akqs,akqh->aksh', d_scores, query)
    d_values = _einsum('akqs,akqh->aksh', probs.astype(dtype), d_out)
    d_pairs.append((d_keys.astype(keys.dtype), d_values.astype(values.dtype)))
  return d_query.astype(dtype), tuple(d_pairs), None


_attend.defvjp(_attend_forward, _attend_backward)

_einsum = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)


def attend_to_segment(
  query_AKQH: jax.Array,
  key_AKSH: jax.Array,
  value_AKSH: jax.Array,
  mask_ATS: jax.Array,
  scale: float,
  softcap: float = 0.0,
) -> tuple[jax.Array, jax.Array]:
  """Softmax attention over one segment, with its log-sum-exp.

  Args:
    query_AKQH: all queries that share a key, see `_to_rows`.
    key_AKSH: keys.
    value_AKSH: values.
    mask_ATS: what may be seen; A and T may be 1, T divides Q.
    scale: times query . key.
    softcap: keeps scores within its bounds, 0 does not.

  Returns:
    Output [A, K, Q, H] and log-sum-exp [A, K, Q], both float32. Where nothing
    may be seen the log-sum-exp is very negative and the output finite.
  """
  scores_AKQS = _scores(query_AKQH, key_AKSH, mask_ATS, scale, softcap)
  highest = jnp.max(scores_AKQS, axis=-1, keepdims=True)
  weights = jnp.exp(scores_AKQS - highest)
  total_AKQ1 = jnp.sum(weights, axis=-1, keepdims=True)
  out_AKQH = _einsum(
    'akqs,aksh->akqh', weights.astype(value_AKSH.dtype), value_AKSH
  )
  lse_AKQ = jnp.squeeze(highest + jnp.log(total_AKQ1), axis=-1)
  return out_AKQH / total_AKQ1, lse_AKQ


def _attend_by_block(
  layer, query_AKQH, key_LAKSH, value_LAKSH, mask_ATS, scale, softcap
):
  """`attend_to_segment` of a layer's keys and values, a few rows at a time.

  On a CPU XLA copies what it slices out of all layers before it multiplies it.
  The copy of few rows is still in the processor's caches then.
  """
  rows = key_LAKSH.shape[1]
  size = _near_rows(key_LAKSH)

  def read(first):
    of_rows = lambda x: jax.lax.dynamic_slice_in_dim(x, first, size)

    def of_layer(x):
      start = (layer, first, 0, 0, 0)
      return jax.lax.dynamic_slice(x, start, (1, size, *x.shape[2:]))[0]

    return attend_to_segment(
      of_rows(query_AKQH),
      of_layer(key_LAKSH),
      of_layer(value_LAKSH),
      of_rows(mask_ATS),
      scale,
      softcap,
    )

  if size == rows:
    return read(0)
  found = jax.lax.map(read, jnp.arange(0, rows, size))
  return jax.tree.map(lambda x: x.reshape(rows, *x.shape[2:]), found)


def _near_rows(key_LAKSH: jax.Array) -> int:
  """How many rows, of those that divide all, stay near a processor."""
  layers, rows = key_LAKSH.shape[:2]
  row_bytes = key_LAKSH.nbytes // (layers * rows)
  divisors = (n for n in range(rows, 1, -1) if rows % n == 0)
  return next((n for n in divisors if n * row_bytes <= _NEAR_BYTES), 1)


def _scores(query_AKQH, key_AKSH, mask_ATS, scale, softcap):
  scores_AKQS = _einsum('akqh,aksh->akqs', query_AKQH * scale, key_AKSH)
  scores_AKQS = layers.softcap(scores_AKQS, softcap)
  rows, num_kv_heads, num_queries, slots = scores_AKQS.shape
  steps = mask_ATS.shape[1]
  if steps == 1:
    return jnp.where(mask_ATS[:, None], scores_AKQS, _LOWEST)
  by_step = (rows, num_kv_heads, num_queries // steps, steps, slots)
  scores = jnp.where(
    mask_ATS[:, None, None], scores_AKQS.reshape(by_step), _LOWEST
  )
  return scores.reshape(scores_AKQS.shape)


def _to_rows(x_BTNH: jax.Array, key_AKSH: jax.Array) -> jax.Array:
  """[B, T, N, H] to [A, K, Q, H]: what shares a row and a head of keys.

  Q runs over the query heads of a key head, then over the rows of the batch
  that share the segment, then over their tokens.
  """
  shared, num_kv_heads = key_AKSH.shape[-4:-2]
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


def _from_rows(x_AKQH: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """The way back."""
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
