"""Attention of a segment of tokens to itself and to shared earlier segments.

The context of a row is a chain of segments: a prefix common to all rows, the
prompt of the row, and the part of its response that is already generated. Each
earlier segment is a `KeyValues` with one row per distinct text, which
consecutive rows of the batch share. The keys and values of a prompt with G
responses are thus computed and stored once. A decode cache is another segment.
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
# Maximum size of a block of keys that is copied at once. The block and its
# values fit in the CPU's caches (measured in docs/dev/speed_notes.md).
_NEAR_BYTES = 3 << 19


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
    tokens: [A, S], the tokens of rows, or of the parts of `packing`.
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


def is_kept(primitive, *args, **params) -> bool:
  """A `jax.checkpoint` policy that saves attention outputs and residuals."""
  named = jax.checkpoint_policies.save_only_these_names(kernels_lib.KEPT)
  return named(primitive, *args, **params) or fused_attention.is_kept(primitive)


def starts(lengths: tuple[jax.Array, ...]) -> list[jax.Array]:
  """Returns the positions [A] of the first tokens of each segment of a chain.

  Args:
    lengths: number of tokens [A] of each row of each segment. The values for
      the last segment are not used.
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
    context: earlier segments. Their keys and values have the layer dimension
      only if `layer` is given.
    span: scale, soft-cap and window of the layer.
    layer: index of the layer in the keys and values of `context`; may be
      traced. With a layer index, the function is not differentiable.
    kernels: kernels that compute the attention, where they support its shapes.
      They support neither soft-caps nor windows.

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
  """Returns the mask [A, 1 or (B / A) T, S] of each segment.

  The last mask is the causal mask [1, T, T] of the current segment.
  """
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
  """Computes attention over segments of keys and values, each with its mask.

  JAX's own gradient would differentiate the softmax of every segment and their
  merge separately. This backward pass instead uses the merged log-sum-exp l, as
  that of FlashAttention does (Dao et al., 2022, appendix B.2): with
  p = exp(s - l) and d = sum_h do_h o_h, ds = p (do v^T - d) in every segment.
  """
  return _merge(scale, softcap, query_BTNH, pairs, masks)[0]


def _merge(scale, softcap, query_BTNH, pairs, masks, layer=None):
  """Returns output [B, T, N, H] and log-sum-exp [B, T, N] over all segments.

  If keys and values have a layer dimension, the function reads the given layer
  in blocks of rows.
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
  # The remat policy saves these.
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
      # Masked scores are far outside the cap; there, probs are 0.
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
  """Computes softmax attention over one segment, with its log-sum-exp.

  Args:
    query_AKQH: all queries that share a key, see `_to_rows`.
    key_AKSH: keys.
    value_AKSH: values.
    mask_ATS: attention mask; A and T may be 1, and T divides Q.
    scale: multiplies query . key.
    softcap: limits scores to (-softcap, softcap); 0 disables it.

  Returns:
    Output [A, K, Q, H] and log-sum-exp [A, K, Q], both float32. If all keys of
    a query are masked, its log-sum-exp is very negative and its output finite.
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
  """Computes `attend_to_segment` for one layer, in blocks of rows.

  On a CPU, XLA copies a slice of the stacked layers before it multiplies it.
  The copy of a small block is still in the CPU's caches at the product.
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
  """Returns the largest divisor of the rows whose keys fit `_NEAR_BYTES`."""
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
  """Reshapes [B, T, N, H] to [A, K, Q, H], where Q shares a row and key head.

  Q enumerates the query heads of a key head, then the rows of the batch that
  share a row of the segment, then their tokens.
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
  """Inverts `_to_rows`; `shape` is that of the result [B, T, N, H]."""
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
