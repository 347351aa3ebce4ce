"""Attention of one token per row to all earlier tokens, as one kernel.

Decoding reads every key and value once and computes little with them. On a GPU,
XLA compiles the products, maxima, sums and merges over several segments to two
dozen kernels per layer. This module computes them in a single Triton kernel,
which applies the online softmax of FlashAttention (Dao et al., 2022, section
3.1) to one segment after the other. Cache slots past a segment's length are not
read.

Q here enumerates the query heads of a key head.
"""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

try:
  from jax.experimental.pallas import triton
except ImportError:  # JAX 0.11 announces its removal.
  AVAILABLE = False
else:
  AVAILABLE = True

Segment = tuple[jax.Array, jax.Array, jax.Array]
# Unnormalized output [Q, H], highest score [Q] and total weight [Q].
_State = tuple[jax.Array, jax.Array, jax.Array]

_BLOCK = 64  # number of keys per block
_MIN_ROWS = 16  # minimum number of rows of a matrix product


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
  """Computes softmax attention of a token to itself and to earlier segments.

  Args:
    query_BNH: queries, one token per row.
    key_BKH: keys of the same tokens.
    value_BKH: values of the same tokens.
    segments: keys and values [L, A, K, S, H] and lengths [A] of each segment.
      A divides B, and each segment row is shared by B / A consecutive rows.
    layer: index into L; may be traced. The kernel takes an index because
      slicing a layer out of the arrays would copy it.
    scale: multiplies query . key.
    interpret: if True, run in interpret mode, which is slow and needs no GPU.

  Returns:
    The attention output [B, N, H].
  """
  rows, num_heads, head_width = query_BNH.shape
  num_kv_heads = key_BKH.shape[1]
  queries = num_heads // num_kv_heads
  padded = max(_MIN_ROWS, pl.next_power_of_2(queries))
  query_BKQH = query_BNH.reshape(rows, num_kv_heads, queries, head_width)
  of_head = pl.BlockSpec((None, None, head_width), lambda b, k: (b, k, 0))
  of_queries = pl.BlockSpec(
    (None, None, padded, head_width), lambda b, k: (b, k, 0, 0)
  )
  in_specs = [of_queries, of_head, of_head]
  # Pass whole arrays: the blocks to read depend on values inside the kernel.
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


def _attend(
  query_ref: Any,
  key_ref: Any,
  value_ref: Any,
  layer_ref: Any,
  *refs: Any,
  queries: int,
  scale: float,
) -> None:
  """Attends for one row and one key head; the first `queries` of Q are real."""
  *segment_refs, out_ref = refs
  real_Q1 = jnp.arange(query_ref.shape[0])[:, None] < queries
  query_QH = triton.load(query_ref, mask=real_Q1, other=0.0)
  key_H = key_ref[...].astype(jnp.float32)
  value_H = value_ref[...].astype(jnp.float32)
  # Starting with the token itself ensures a nonempty set of keys.
  score_Q = scale * jnp.sum(query_QH.astype(jnp.float32) * key_H[None], axis=1)
  state = (
    jnp.broadcast_to(value_H[None], query_QH.shape),
    score_Q,
    jnp.ones_like(score_Q),
  )
  layer = layer_ref[0]
  for first in range(0, len(segment_refs), 3):
    keys_ref, values_ref, lengths_ref = segment_refs[first : first + 3]
    # Consecutive rows share a segment row.
    row = pl.program_id(0) // (pl.num_programs(0) // lengths_ref.shape[0])
    state = _add_segment(
      state,
      query_QH,
      (keys_ref, values_ref),
      (layer, row, pl.program_id(1)),
      lengths_ref[row],
      scale=scale,
    )
  out_QH, _, total_Q = state
  out_QH = (out_QH / total_Q[:, None]).astype(out_ref.dtype)
  triton.store(out_ref, out_QH, mask=real_Q1)


def _add_segment(
  state: _State,
  query_QH: jax.Array,
  pair: tuple[Any, Any],
  text: tuple[Any, Any, Any],
  length: jax.Array,
  *,
  scale: float,
) -> _State:
  """Adds one segment to the running state of the online softmax.

  Args:
    state: running state: the unnormalized output [Q, H], the highest score [Q],
      and the total weight [Q], relative to a weight of 1 for that score.
    query_QH: queries.
    pair: references to keys and values [L, A, K, S, H] in memory.
    text: indices into L, A and K.
    length: number of live slots of S.
    scale: multiplies query . key.

  Returns:
    The updated running state.
  """
  keys_ref, values_ref = pair

  def add_block(i: jax.Array, state: _State) -> _State:
    out_QH, highest_Q, total_Q = state
    slots_S = i * _BLOCK + jnp.arange(_BLOCK)
    live_S = slots_S < length

    def load(ref: Any) -> jax.Array:
      return triton.load(
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
  return jax.lax.fori_loop(0, blocks, add_block, state)
