"""Attention of a segment of tokens to itself and to shared earlier segments.

The context of a row is a chain of segments: a prefix common to all rows, the
prompt of the row, and the part of its response that is already generated. Each
earlier segment is a `KeyValues` with one row per distinct text, which
consecutive rows of the batch share. The keys and values of a prompt with G
responses are thus computed and stored once. A decode cache is another segment.

`attend` is the plain algorithm. `stacked_attention` computes the same for one
token per row, from the keys and values of all layers.

I here enumerates segments, and Q the queries that share a key: the query heads
of a key head, then the rows of the batch that share a row of the segment, then
their tokens.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import ad_checkpoint

from sqlm_jax.models import kernels as kernels_lib
from sqlm_jax.models import layers
from sqlm_jax.ops import fused_attention, masked
from sqlm_jax.ops import packing as packing_lib

_LOWEST = float(np.finfo(np.float32).min) / 2  # finite: -inf - -inf is nan

Pair = tuple[jax.Array, jax.Array]  # keys and values, [A, K, S, H] each


class KeyValues(NamedTuple):
  """Keys and values of one segment, right-padded.

  Inside a layer, keys and values have no leading L.

  Attributes:
    keys: [L, A, K, S, H], where A divides the number of rows of the batch.
    values: [L, A, K, S, H].
    lengths: [A], the number of live slots of S.
  """

  keys: jax.Array
  values: jax.Array
  lengths: jax.Array


class Segment(NamedTuple):
  """Tokens that are processed at once, as right-padded rows or packed.

  If there is a packing, tokens and hidden states are packed. Lengths, keys and
  values are by row in any case.

  Attributes:
    tokens: [A, T], the tokens of rows, or of the parts of `packing`.
    lengths: [A], the number of tokens of each row.
    packing: the mapping between rows and parts, or None if tokens are in rows.
  """

  tokens: jax.Array
  lengths: jax.Array
  packing: packing_lib.Packing | None = None

  @property
  def width(self) -> int:
    """Maximum number of tokens of a row."""
    if self.packing is None:
      return self.tokens.shape[1]
    return self.packing.places.shape[2]

  def even(self) -> 'Segment':
    """Returns the segment, padded to an even width.

    Kernels require even widths. Padding the tokens avoids padding the queries,
    keys and values separately.
    """
    if self.width % 2 == 0:
      return self
    if self.packing is not None:
      return self._replace(packing=packing_lib.lengthen(self.packing))
    return self._replace(tokens=jnp.pad(self.tokens, ((0, 0), (0, 1))))


class Span(NamedTuple):
  """Scale, soft-cap and window of the attention of a layer.

  Attributes:
    scale: multiplies query . key.
    softcap: limits scores to (-softcap, softcap); 0 disables it.
    window: number of most recent tokens that a token attends to, including
      itself; None means all. May be traced, because the layers of one scan have
      different windows.
  """

  scale: float
  softcap: float = 0.0
  window: jax.Array | None = None


def is_kept(primitive: Any, *args: Any, **params: Any) -> bool:
  """A `jax.checkpoint` policy that saves attention outputs and residuals."""
  is_named = jax.checkpoint_policies.save_only_these_names(kernels_lib.KEPT)
  return is_named(primitive, *args, **params) or fused_attention.is_kept(
    primitive
  )


def starts(lengths: tuple[jax.Array, ...]) -> list[jax.Array]:
  """Returns the positions [A] of the first tokens of each segment of a chain.

  Args:
    lengths: number of tokens [A] of each row of each segment. The values for
      the last segment are not used.
  """
  first, *later = lengths
  starts_IA = [jnp.zeros_like(first)]
  for length_A, after in zip(lengths, later, strict=False):
    end_A = starts_IA[-1] + length_A
    starts_IA.append(jnp.repeat(end_A, after.shape[0] // end_A.shape[0]))
  return starts_IA


def attend(
  query_BTNH: jax.Array,
  key_BKTH: jax.Array,
  value_BKTH: jax.Array,
  context: tuple[KeyValues, ...] = (),
  *,
  span: Span,
  kernels: kernels_lib.Kernels | None = None,
) -> jax.Array:
  """Computes causal self-attention merged with attention to earlier segments.

  Attention over a union of key sets is the average of the attention outputs
  over each set, weighted by their softmax denominators. With o_i and l_i the
  output and log-sum-exp over segment i,

    o = sum_i o_i exp(l_i - l),  l = logsumexp_i l_i.

  The values and gradients equal those of attention over the concatenated
  segments.

  Args:
    query_BTNH: rotated queries of the segment.
    key_BKTH: rotated keys of the segment.
    value_BKTH: values of the segment.
    context: earlier segments. Their keys and values have no layer dimension.
    span: scale, soft-cap and window of the layer.
    kernels: kernels that compute the attention, where they support its shapes.
      They support neither soft-caps nor windows.

  Returns:
    The attention output [B, T, N, H].
  """
  rows, width = query_BTNH.shape[:2]
  if kernels and kernels.reads(width):
    return kernels.read(
      query_BTNH, key_BKTH, value_BKTH, context, scale=span.scale
    )
  pairs = [(segment.keys, segment.values) for segment in context]
  pairs.append((key_BKTH, value_BKTH))
  return _attend(
    span.scale,
    span.softcap,
    query_BTNH,
    tuple(pairs),
    make_masks(context, rows=rows, width=width, window=span.window),
  )


def make_masks(
  context: tuple[KeyValues, ...],
  *,
  rows: int,
  width: int,
  window: jax.Array | None,
) -> tuple[jax.Array, ...]:
  """Returns the mask [A, 1 or (B / A) T, S] of each segment.

  The last mask is the causal mask [1, T, T] of the current segment.

  Args:
    context: earlier segments, with or without a layer dimension.
    rows: B.
    width: T.
    window: attention window, see `Span`.
  """
  steps_T = jnp.arange(width)
  masks = []
  last_B = jnp.full((rows,), width)
  *firsts, first_B = starts((*(x.lengths for x in context), last_B))
  for segment, first_A in zip(context, firsts, strict=True):
    shared, _, slots, _ = segment.keys.shape[-4:]
    mask = masked.up_to(segment.lengths, slots)[:, None]
    if window is not None:
      position_AT = (first_B[:, None] + steps_T[None, :]).reshape(shared, -1)
      position_AS = first_A[:, None] + jnp.arange(slots)[None, :]
      distance_ATS = position_AT[:, :, None] - position_AS[:, None, :]
      mask = mask & (distance_ATS < window)
    masks.append(mask)
  distance_TT = steps_T[:, None] - steps_T[None, :]
  causal_TT = distance_TT >= 0
  if window is not None:
    causal_TT &= distance_TT < window
  masks.append(causal_TT[None])
  return tuple(masks)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attend(
  scale: float,
  softcap: float,
  query_BTNH: jax.Array,
  pairs: tuple[Pair, ...],
  masks: tuple[jax.Array, ...],
) -> jax.Array:
  """Computes attention over segments of keys and values, each with its mask.

  JAX's own gradient would differentiate the softmax of every segment and their
  merge separately. This backward pass instead uses the merged log-sum-exp l, as
  that of FlashAttention does (Dao et al., 2022, appendix B.2): with
  p = exp(s - l) and d = sum_h do_h o_h, ds = p (do v^T - d) in every segment.
  """
  return _attend_with_lse(scale, softcap, query_BTNH, pairs, masks)[0]


def _attend_with_lse(
  scale: float,
  softcap: float,
  query_BTNH: jax.Array,
  pairs: tuple[Pair, ...],
  masks: tuple[jax.Array, ...],
) -> tuple[jax.Array, jax.Array]:
  """Returns output [B, T, N, H] and log-sum-exp [B, T, N] over all segments."""
  results = [
    attend_to_segment(
      group_queries(query_BTNH, keys),
      keys,
      values,
      mask,
      scale=scale,
      softcap=softcap,
    )
    for (keys, values), mask in zip(pairs, masks, strict=True)
  ]
  return merge(results, query_BTNH)


def merge(
  results: list[tuple[jax.Array, jax.Array]], query_BTNH: jax.Array
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
  pairs: tuple[Pair, ...],
  masks: tuple[jax.Array, ...],
) -> tuple[jax.Array, tuple]:
  out_BTNH, lse_BTN = _attend_with_lse(scale, softcap, query_BTNH, pairs, masks)
  # The remat policy saves these.
  out_BTNH = ad_checkpoint.checkpoint_name(out_BTNH, kernels_lib.KEPT)
  lse_BTN = ad_checkpoint.checkpoint_name(lse_BTN, kernels_lib.KEPT)
  return out_BTNH, (query_BTNH, pairs, masks, out_BTNH, lse_BTN)


def _attend_backward(
  scale: float, softcap: float, residuals: tuple, d_out_BTNH: jax.Array
) -> tuple[jax.Array, tuple[Pair, ...], None]:
  query_BTNH, pairs, masks, out_BTNH, lse_BTN = residuals
  dtype = query_BTNH.dtype
  delta_BTN1 = jnp.sum(
    (d_out_BTNH * out_BTNH).astype(jnp.float32), axis=-1, keepdims=True
  )
  d_query, d_pairs = 0.0, []
  for (keys, values), mask in zip(pairs, masks, strict=True):
    query, d_out, lse, delta = (
      group_queries(x, keys)
      for x in (query_BTNH, d_out_BTNH, lse_BTN[..., None], delta_BTN1)
    )
    scores = _scores(query, keys, mask, scale=scale, softcap=softcap)
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
    d_pairs.append((d_keys.astype(keys.dtype), d_values.astype(values.dtype)))
  return d_query.astype(dtype), tuple(d_pairs), None


_attend.defvjp(_attend_forward, _attend_backward)

_einsum = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)


def attend_to_segment(
  query_AKQH: jax.Array,
  key_AKSH: jax.Array,
  value_AKSH: jax.Array,
  mask_ATS: jax.Array,
  *,
  scale: float,
  softcap: float = 0.0,
) -> tuple[jax.Array, jax.Array]:
  """Computes softmax attention over one segment, with its log-sum-exp.

  Args:
    query_AKQH: all queries that share a key, see `group_queries`.
    key_AKSH: keys.
    value_AKSH: values.
    mask_ATS: attention mask; A and T may be 1, and T divides Q.
    scale: multiplies query . key.
    softcap: limits scores to (-softcap, softcap); 0 disables it.

  Returns:
    Output [A, K, Q, H] and log-sum-exp [A, K, Q], both float32. If all keys of
    a query are masked, its log-sum-exp is very negative and its output finite.
  """
  scores_AKQS = _scores(
    query_AKQH, key_AKSH, mask_ATS, scale=scale, softcap=softcap
  )
  highest_AKQ1 = jnp.max(scores_AKQS, axis=-1, keepdims=True)
  weights_AKQS = jnp.exp(scores_AKQS - highest_AKQ1)
  total_AKQ1 = jnp.sum(weights_AKQS, axis=-1, keepdims=True)
  out_AKQH = _einsum(
    'akqs,aksh->akqh', weights_AKQS.astype(value_AKSH.dtype), value_AKSH
  )
  lse_AKQ = jnp.squeeze(highest_AKQ1 + jnp.log(total_AKQ1), axis=-1)
  return out_AKQH / total_AKQ1, lse_AKQ


def _scores(
  query_AKQH: jax.Array,
  key_AKSH: jax.Array,
  mask_ATS: jax.Array,
  *,
  scale: float,
  softcap: float,
) -> jax.Array:
  """Returns the scores [A, K, Q, S], with `_LOWEST` where they are masked."""
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
