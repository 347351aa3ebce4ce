"""Attention of many tokens by libraries' kernels, which write no scores.

They know one sequence of keys a row. So each row gets those of all segments
side by side, which multiplies what its neighbours share with it by their
number: keys are few beside the scores that need not be written.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from sqlm_jax.ops import masked

try:
  from jax.experimental.pallas.ops.tpu import splash_attention
except ImportError:  # An example of JAX's, which it may move elsewhere.
  splash_attention = None

HAS_SPLASH = splash_attention is not None
LANES = 128  # of a TPU: splash attention takes multiples of it
_BLOCK = 512  # queries, and keys, at a time

Segment = tuple[jax.Array, jax.Array, jax.Array]


def side_by_side(
  key_BKTH: jax.Array, value_BKTH: jax.Array, context: Sequence[Segment]
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """What the tokens of each row may see, those of the row itself at the end.

  Args:
    key_BKTH: their own keys.
    value_BKTH: their own values.
    context: keys and values [A, K, S, H] and lengths [A] of earlier segments;
      A divides B, and consecutive rows share one.

  Returns:
    Keys and values [B, K, S, H] with the S of all segments, and which of them
    are live [B, S].
  """
  rows, _, width, _ = key_BKTH.shape
  for_rows = lambda x: jnp.repeat(x, rows // len(x), axis=0)
  keys = [for_rows(keys) for keys, _, _ in context]
  values = [for_rows(values) for _, values, _ in context]
  live = [
    for_rows(masked.up_to(lengths, keys.shape[2]))
    for keys, _, lengths in context
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
  implementation: str = 'cudnn',
) -> jax.Array:
  """Softmax attention to what is live, on a GPU of NVIDIA; differentiable.

  Args:
    query_BTNH: queries of the last T of the S tokens.
    key_BKSH: keys.
    value_BKSH: values.
    live_BS: which may be seen at all. A token sees none behind itself.
    scale: times query . key.
    implementation: of `jax.nn.dot_product_attention`.

  Returns:
    The attention output [B, T, N, H].
  """
  width, slots = query_BTNH.shape[1], key_BKSH.shape[2]
  steps_T, steps_S = jnp.arange(width), jnp.arange(slots)
  causal_TS = steps_S[None, :] <= steps_T[:, None] + (slots - width)
  # It takes even lengths.
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
  """`by_cudnn` on a TPU, by JAX's splash attention.

  Arguments as there, and:
    name: for `jax.checkpoint`, of the output and what its gradient needs.
    interpret: without a TPU, slowly.
  """
  width, num_heads = query_BTNH.shape[1:3]
  slots = key_BKSH.shape[2]
  padded_T, padded_S = _padded(width), _padded(slots)
  add_T, add_S = padded_T - width, padded_S - slots
  # What is padding is not live, and nobody reads what padding has seen.
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
  numbers = splash_attention.SegmentIds(
    jnp.ones((len(query_BTNH), padded_T), jnp.int32),
    jnp.pad(live_BS.astype(jnp.int32), ((0, 0), (0, add_S))),
  )
  out_BNTH = jax.vmap(attend)(
    jnp.swapaxes(_lengthen(query_BTNH * scale, 1, add_T), 1, 2),
    _lengthen(key_BKSH, 2, add_S),
    _lengthen(value_BKSH, 2, add_S),
    numbers,
  )
  return jnp.swapaxes(out_BNTH[:, :, :width], 1, 2)


def is_kept(primitive) -> bool:
  """Whether it is cuDNN's attention: for a policy of `jax.checkpoint`."""
  return primitive.name == 'dot_product_attention_fwd_wrapper'


def _lengthen(x: jax.Array, axis: int, by: int) -> jax.Array:
  """With zeros behind."""
  return jnp.pad(x, [(0, by * (i == axis)) for i in range(x.ndim)])


def _padded(length: int) -> int:
  """The next one that is made of few blocks."""
  step = LANES if length <= _BLOCK else _BLOCK // 2
  return -(-length // step) * step


def _block(padded: int) -> int:
  """At a time, of so many."""
  if padded <= _BLOCK:
    return padded
  return _BLOCK if padded % _BLOCK == 0 else _BLOCK // 2
