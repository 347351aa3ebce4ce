"""Attention of many tokens by library kernels, which do not store the scores.

The kernels accept a single sequence of keys per row. The keys and values of all
segments are therefore concatenated for each row, and segments that several rows
share are repeated. The repeated keys take little memory compared with the
scores that are not stored.
"""

from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp

from sqlm_jax.ops import integers, masked

try:
  from jax.experimental.pallas.ops.tpu import splash_attention
except ImportError:  # It is an example kernel, which JAX may move.
  HAS_SPLASH = False
else:
  HAS_SPLASH = True
LANES = 128  # lane width of a TPU; splash attention requires multiples of it
_BLOCK = 512  # maximum number of queries, or of keys, per block

Segment = tuple[jax.Array, jax.Array, jax.Array]


def side_by_side(
  key_BKTH: jax.Array, value_BKTH: jax.Array, context: Sequence[Segment]
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Concatenates the keys and values of all segments for each row.

  Args:
    key_BKTH: keys of the current tokens, which come last.
    value_BKTH: values of the current tokens, which come last.
    context: keys and values [A, K, S, H] and lengths [A] of earlier segments.
      A divides B, and each segment row is shared by B / A consecutive rows.

  Returns:
    Keys and values [B, K, S, H], where S is the total of all segments, and the
    mask [B, S] of live slots.
  """
  rows, _, width, _ = key_BKTH.shape

  def repeat(x: jax.Array) -> jax.Array:
    return jnp.repeat(x, rows // len(x), axis=0)

  keys = [repeat(keys) for keys, _, _ in context]
  values = [repeat(values) for _, values, _ in context]
  live = [
    repeat(masked.up_to(lengths, keys.shape[2])) for keys, _, lengths in context
  ]
  return (
    jnp.concatenate([*keys, key_BKTH], axis=2),
    jnp.concatenate([*values, value_BKTH], axis=2),
    jnp.concatenate([*live, jnp.ones((rows, width), bool)], axis=1),
  )


def by_cudnn(
  query_BTNH: jax.Array,
  key_BKSH: jax.Array,
  value_BKSH: jax.Array,
  live_BS: jax.Array,
  *,
  scale: float,
  implementation: Literal['cudnn', 'xla'] = 'cudnn',
) -> jax.Array:
  """Computes causal softmax attention on an NVIDIA GPU; differentiable.

  Args:
    query_BTNH: queries of the last T of the S tokens.
    key_BKSH: keys.
    value_BKSH: values.
    live_BS: mask of live slots; it is combined with the causal mask.
    scale: multiplies query . key.
    implementation: argument of `jax.nn.dot_product_attention`.

  Returns:
    The attention output [B, T, N, H].
  """
  width, slots = query_BTNH.shape[1], key_BKSH.shape[2]
  steps_T, steps_S = jnp.arange(width), jnp.arange(slots)
  causal_TS = steps_S[None, :] <= steps_T[:, None] + (slots - width)
  # The cuDNN kernel requires even lengths.
  add_T, add_S = width % 2, slots % 2
  mask_BTS = jnp.pad(
    causal_TS[None] & live_BS[:, None], ((0, 0), (0, add_T), (0, add_S))
  )
  out_BTNH = jax.nn.dot_product_attention(
    _lengthen(query_BTNH, 1, add_T),
    jnp.swapaxes(_lengthen(key_BKSH, 2, add_S), 1, 2),
    jnp.swapaxes(_lengthen(value_BKSH, 2, add_S), 1, 2),
    mask=mask_BTS[:, None],
    scale=scale,
    implementation=implementation,
  )
  return out_BTNH[:, :width]


def by_splash(
  query_BTNH: jax.Array,
  key_BKSH: jax.Array,
  value_BKSH: jax.Array,
  live_BS: jax.Array,
  *,
  scale: float,
  name: str | None = None,
  interpret: bool = False,
) -> jax.Array:
  """Computes causal softmax attention on a TPU with JAX's splash attention.

  Args:
    query_BTNH: queries of the last T of the S tokens.
    key_BKSH: keys.
    value_BKSH: values.
    live_BS: mask of live slots; it is combined with the causal mask.
    scale: multiplies query . key.
    name: the name under which `jax.checkpoint` policies can save the output
      and the residuals of its gradient.
    interpret: if True, run in interpret mode, which is slow and needs no TPU.

  Returns:
    The attention output [B, T, N, H].
  """
  width, num_heads = query_BTNH.shape[1:3]
  slots = key_BKSH.shape[2]
  padded_T, padded_S = _padded(width), _padded(slots)
  add_T, add_S = padded_T - width, padded_S - slots
  # Padded keys are masked, and the outputs of padded queries are dropped.
  causal = splash_attention.CausalMask(
    (padded_T, padded_S), offset=slots - width
  )
  of_T, of_S = _block(padded_T), _block(padded_S)
  attend = splash_attention.make_splash_mha(
    splash_attention.MultiHeadMask([causal] * num_heads),
    block_sizes=splash_attention.BlockSizes(
      block_q=of_T,
      block_kv=of_S,
      block_kv_compute=of_S,
      block_q_dkv=of_T,
      block_kv_dkv=of_S,
      block_kv_dkv_compute=of_S,
      use_fused_bwd_kernel=True,
    ),
    head_shards=1,
    q_seq_shards=1,
    residual_checkpoint_name=name,
    interpret=interpret,
  )
  segment_ids = splash_attention.SegmentIds(
    jnp.ones((len(query_BTNH), padded_T), jnp.int32),
    jnp.pad(live_BS.astype(jnp.int32), ((0, 0), (0, add_S))),
  )
  out_BNTH = jax.vmap(attend)(
    jnp.swapaxes(_lengthen(query_BTNH * scale, 1, add_T), 1, 2),
    _lengthen(key_BKSH, 2, add_S),
    _lengthen(value_BKSH, 2, add_S),
    segment_ids,
  )
  return jnp.swapaxes(out_BNTH[:, :, :width], 1, 2)


def is_kept(primitive: Any) -> bool:
  """Returns True for cuDNN's attention; used in a `jax.checkpoint` policy."""
  return primitive.name == 'dot_product_attention_fwd_wrapper'


def _lengthen(x: jax.Array, axis: int, by: int) -> jax.Array:
  """Appends `by` zeros along `axis`."""
  padding = [(0, 0)] * x.ndim
  padding[axis] = (0, by)
  return jnp.pad(x, padding)


def _padded(length: int) -> int:
  """Rounds a length up to one that divides into a few blocks."""
  step = LANES if length <= _BLOCK else _BLOCK // 2
  return integers.ceil_div(length, step) * step


def _block(padded: int) -> int:
  """Returns the block size for a padded length."""
  if padded <= _BLOCK:
    return padded
  return _BLOCK if padded % _BLOCK == 0 else _BLOCK // 2
