"""Attention of one token per row, from the keys and values of all layers.

`attend` computes the same as `attention.attend` for the keys and values of one
layer. It takes the keys and values of all layers and an index, because slicing
a layer out of them for every token would copy it. A kernel (on a GPU) or a loop
over blocks of rows (on a CPU) reads them in place.

Q here enumerates the queries that share a key, as in `segment_attention`.
"""

import jax
import jax.numpy as jnp

from sqlm_jax.distributed import sharding
from sqlm_jax.models import attention
from sqlm_jax.models import kernels as kernels_lib
from sqlm_jax.ops import segment_attention

# Maximum size of a block of keys that is copied at once. The block and its
# values fit in the CPU's caches (measured in docs/dev/speed_notes.md).
_BLOCK_BYTES = 3 << 19


def is_faster(mesh: jax.sharding.Mesh | None, width: int) -> bool:
  """Returns True if layers of stacked parameters should use this module.

  Args:
    mesh: mesh that rows are split over.
    width: number of tokens per row.
  """
  return width == 1 and mesh is not None and sharding.is_one_cpu(mesh)


def attend(
  query_B1NH: jax.Array,
  key_BK1H: jax.Array,
  value_BK1H: jax.Array,
  context: tuple[attention.KeyValues, ...],
  *,
  layer: int | jax.Array,
  span: attention.Span,
  kernels: kernels_lib.Kernels | None = None,
) -> jax.Array:
  """Computes `attention.attend` for one layer; not differentiable.

  Args:
    query_B1NH: rotated queries.
    key_BK1H: rotated keys.
    value_BK1H: values.
    context: earlier segments with the keys and values of all layers.
    layer: index of the layer; may be traced.
    span: scale, soft-cap and window of the layer.
    kernels: attention kernels, if any.

  Returns:
    The attention output [B, 1, N, H].
  """
  rows, width = query_B1NH.shape[:2]
  if kernels is None:
    return _attend_by_block(
      query_B1NH, key_BK1H, value_BK1H, context, layer=layer, span=span
    )
  if width == 1 and kernels.decodes(rows, context):
    out_BNH = kernels.decode(
      query_B1NH[:, 0],
      key_BK1H[:, :, 0],
      value_BK1H[:, :, 0],
      context,
      layer=layer,
      scale=span.scale,
    )
    return out_BNH[:, None]
  context = tuple(
    attention.KeyValues(x.keys[layer], x.values[layer], x.lengths)
    for x in context
  )
  return attention.attend(
    query_B1NH, key_BK1H, value_BK1H, context, span=span, kernels=kernels
  )


def _attend_by_block(
  query_B1NH: jax.Array,
  key_BK1H: jax.Array,
  value_BK1H: jax.Array,
  context: tuple[attention.KeyValues, ...],
  *,
  layer: int | jax.Array,
  span: attention.Span,
) -> jax.Array:
  """Computes `attend` with one loop over blocks of rows per segment."""
  rows, width = query_B1NH.shape[:2]
  *masks, causal_mask = attention.make_masks(
    context, rows=rows, width=width, window=span.window
  )
  results = [
    _attend_to_segment(
      segment_attention.group_queries(query_B1NH, x.keys),
      segment_attention.MaskedKeys(x.keys, x.values, mask),
      layer=layer,
      span=span,
    )
    for x, mask in zip(context, masks, strict=True)
  ]
  results.append(
    segment_attention.attend_to_segment(
      segment_attention.group_queries(query_B1NH, key_BK1H),
      segment_attention.MaskedKeys(key_BK1H, value_BK1H, causal_mask),
      scale=span.scale,
      softcap=span.softcap,
    )
  )
  return segment_attention.merge(results, query_B1NH)[0]


def _attend_to_segment(
  query_AKQH: jax.Array,
  stacked: segment_attention.MaskedKeys,
  *,
  layer: int | jax.Array,
  span: attention.Span,
) -> tuple[jax.Array, jax.Array]:
  """Computes `segment_attention.attend_to_segment` in blocks of rows.

  On a CPU, XLA copies a slice of the stacked layers before it multiplies it.
  The copy of a small block is still in the CPU's caches at the product.

  Args:
    query_AKQH: all queries that share a key.
    stacked: keys and values [L, A, K, S, H] of all layers, and the mask.
    layer: index of the layer.
    span: scale, soft-cap and window of the layer.
  """
  rows = stacked.keys.shape[1]
  size = _rows_per_block(stacked.keys)

  def read(first: jax.Array | int) -> tuple[jax.Array, jax.Array]:
    def take(x: jax.Array) -> jax.Array:
      return jax.lax.dynamic_slice_in_dim(x, first, size)

    def take_layer(x: jax.Array) -> jax.Array:
      start = (layer, first, 0, 0, 0)
      return jax.lax.dynamic_slice(x, start, (1, size, *x.shape[2:]))[0]

    block = segment_attention.MaskedKeys(
      take_layer(stacked.keys), take_layer(stacked.values), take(stacked.mask)
    )
    return segment_attention.attend_to_segment(
      take(query_AKQH),
      block,
      scale=span.scale,
      softcap=span.softcap,
    )

  if size == rows:
    return read(0)
  blocks = jax.lax.map(read, jnp.arange(0, rows, size))
  return jax.tree.map(lambda x: x.reshape(rows, *x.shape[2:]), blocks)


def _rows_per_block(key_LAKSH: jax.Array) -> int:
  """Returns the largest divisor of the rows whose keys fit `_BLOCK_BYTES`."""
  layers, rows = key_LAKSH.shape[:2]
  row_bytes = key_LAKSH.nbytes // (layers * rows)
  divisors = (n for n in range(rows, 1, -1) if rows % n == 0)
  return next((n for n in divisors if n * row_bytes <= _BLOCK_BYTES), 1)
