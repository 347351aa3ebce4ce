"""Attention of a segment of tokens to itself and to shared earlier segments.

The context of a row is a chain of segments: a prefix common to all rows, the
prompt of the row, and the part of its response that is already generated. Each
earlier segment is a `KeyValues` with one row per distinct text, which
consecutive rows of the batch share. The keys and values of a prompt with G
responses are thus computed and stored once. A decode cache is another segment.

`attend` is the plain algorithm, with the mathematics of
`ops.segment_attention`. `stacked_attention` computes the same for one token per
row, from the keys and values of all layers.

I here enumerates the segments of a chain.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sqlm_jax.models import kernels as kernels_lib
from sqlm_jax.ops import fused_attention, masked, segment_attention
from sqlm_jax.ops import packing as packing_lib

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
  name = segment_attention.KEPT
  is_named = jax.checkpoint_policies.save_only_these_names(name)
  if is_named(primitive, *args, **params):
    return True
  return fused_attention.is_kept(primitive)


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
  *masks, causal_mask = make_masks(
    context, rows=rows, width=width, window=span.window
  )
  segments = [
    segment_attention.MaskedKeys(x.keys, x.values, mask)
    for x, mask in zip(context, masks, strict=True)
  ]
  segments.append(
    segment_attention.MaskedKeys(key_BKTH, value_BKTH, causal_mask)
  )
  return segment_attention.attend(
    span.scale, span.softcap, query_BTNH, tuple(segments)
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
