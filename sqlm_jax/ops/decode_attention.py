"""Attention of one token a row to all that stands before it, as one kernel.

Decoding reads every key and value once and computes little with them. On a GPU
XLA makes two dozen kernels a layer of the products, maxima, sums and merges of
several segments. Here they are one, in Triton, by the online softmax of
FlashAttention (Dao et al., 2022, section 3.1) over the segments in turn. What
lies behind a segment's length is not read.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

try:
  from jax.experimental.pallas import triton
except ImportError:  # JAX 0.11 announces a version without it.
  triton = None

AVAILABLE = triton is not None

Segment = tuple[jax.Array, jax.Array, jax.Array]

_BLOCK = 64  # keys at a time
_LEAST = 16  # rows of the smallest product


def attend(
  query_BNH: jax.Array,
  key_BKH: jax.Array,
  value_BKH: jax.Array,
  segments: tuple[Segment, ...],
  *,
  layer: int | jax.Array,
  scale: float,
  interpret: bool = False,
) -> jax.Array:
  """Softmax attention of a token to itself and to segments before it.

  Args:
    query_BNH: queries of one token a row.
    key_BKH: its own keys.
    value_BKH: its own values.
    segments: keys and values [L, A, K, S, H] and lengths [A]; A divides B,
      and consecutive rows share one.
    layer: which of L; may be traced. A slice of them would be a copy.
    scale: times query . key.
    interpret: without a GPU, slowly.

  Returns:
    The attention output [B, N, H].
  """
  rows, num_heads, head_width = query_BNH.shape
  num_kv_heads = key_BKH.shape[1]
  queries = num_heads // num_kv_heads
  padded = max(_LEAST, pl.next_power_of_2(queries))
  query_BKQH = query_BNH.reshape(rows, num_kv_heads, queries, head_width)
  of_head = lambda b, k: (b, k, 0)
  of_queries = pl.BlockSpec(
    (None, None, padded, head_width), lambda b, k: (b, k, 0, 0)
  )
  in_specs = [
    of_queries,
    pl.BlockSpec((None, None, head_width), of_head),
    pl.BlockSpec((None, None, head_width), of_head),
  ]
  # Whole arrays: which part is read depends on what only the kernel knows.
  in_specs += (1 + 3 * len(segments)) * [pl.BlockSpec(memory_space=pl.ANY)]
  out_BKQH = pl.pallas_call(
    functools.partial(_attend, queries=queries, scale=scale),
    grid=(rows, num_kv_heads),
    in_specs=in_specs,
    out_specs=of_queries,
    out_shape=jax.ShapeDtypeStruct(query_BKQH.shape, query_BKQH.dtype),
    compiler_params=triton.CompilerParams(num_warps=4, num_stages=2),
    interpret=interpret,
    name='decode_attention',
  )(
    query_BKQH,
    key_BKH,
    value_BKH,
    jnp.full((1,), layer, jnp.int32),
    *itertools.chain(*segments),
  )
  return out_BKQH.reshape(query_BNH.shape)


def _attend(query_ref, key_ref, value_ref, layer_ref, *refs, queries, scale):
  """One row and one head of keys: `queries` of [Q, H] to all its segments."""
  *segment_refs, out_ref = refs
  real_Q1 = jnp.arange(query_ref.shape[0])[:, None] < queries
  query_QH = triton.load(query_ref, mask=real_Q1, other=0.0)
  key_H = key_ref[...].astype(jnp.float32)
  value_H = value_ref[...].astype(jnp.float32)
  # The token itself comes first, so that nobody has nothing to attend to.
  score_Q = scale * jnp.sum(query_QH.astype(jnp.float32) * key_H[None], axis=1)
  found = (
    jnp.broadcast_to(value_H[None], query_QH.shape),
    score_Q,
    jnp.ones_like(score_Q),
  )
  layer = layer_ref[0]
  for first in range(0, len(segment_refs), 3):
    keys_ref, values_ref, lengths_ref = segment_refs[first : first + 3]
    # Consecutive rows share a text.
    row = pl.program_id(0) // (pl.num_programs(0) // lengths_ref.shape[0])
    found = _add_segment(
      found,
      query_QH,
      (keys_ref, values_ref),
      (layer, row, pl.program_id(1)),
      lengths_ref[row],
      scale=scale,
    )
  out_QH, _, total_Q = found
  out_QH = (out_QH / total_Q[:, None]).astype(out_ref.dtype)
  triton.store(out_ref, out_QH, mask=real_Q1)


def _add_segment(found, query_QH, pair, text, length, *, scale):
  """Attends to a segment besides what was attended to before.

  Args:
    found: output [Q, H] before it is divided, highest score [Q], and total
      weight [Q] where a key of that score weighs 1.
    query_QH: queries.
    pair: keys and values, [L, A, K, S, H] in memory.
    text: which of L, A and K.
    length: how many of S are live.
    scale: times query . key.
  """
  keys_ref, values_ref = pair

  def add_block(i, found):
    out_QH, highest_Q, total_Q = found
    slots_S = i * _BLOCK + jnp.arange(_BLOCK)
    live_S = slots_S < length
    load = lambda ref: triton.load(
      ref.at[(*text, pl.ds(i * _BLOCK, _BLOCK))],
      mask=live_S[:, None],
      other=0.0,
    )
    scores_QS = scale * triton.dot(query_QH, load(keys_ref).T)
    scores_QS = jnp.where(live_S[None], scores_QS, -jnp.inf)
    now_highest_Q = jnp.maximum(highest_Q, jnp.max(scores_QS, axis=1))
    weights_QS = jnp.exp(scores_QS - now_highest_Q[:, None])
    shrink_Q = jnp.exp(highest_Q - now_highest_Q)
    values_SH = load(values_ref)
    added_QH = triton.dot(weights_QS.astype(values_SH.dtype), values_SH)
    return (
      out_QH * shrink_Q[:, None] + added_QH,
      now_highest_Q,
      total_Q * shrink_Q + jnp.sum(weights_QS, axis=1),
    )

  blocks = (length + _BLOCK - 1) // _BLOCK
  return jax.lax.fori_loop(0, blocks, add_block, found)
