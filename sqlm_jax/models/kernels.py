"""Selection of attention kernels for a model, and their sharding over a mesh.

XLA cannot partition a kernel over devices. Each device of a mesh therefore runs
the kernel on its own rows and heads, by means of `jax.shard_map`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, ParamSpec

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from sqlm_jax.distributed import sharding
from sqlm_jax.models import model_config
from sqlm_jax.ops import decode_attention, fused_attention, segment_attention

# Before JAX 0.11, cuDNN also computes a gradient of the mask, which is unused.
_ON_GPUS = jax.__version_info__ >= (0, 11) and decode_attention.AVAILABLE

Context = tuple[fused_attention.Segment, ...]
Arrays = ParamSpec('Arrays')  # the arguments of a kernel


class Kernels(NamedTuple):
  """Attention kernels of a platform, sharded over the devices of a mesh.

  Attributes:
    mesh: the device mesh. Rows are sharded over it, and so are heads if the
      number of key heads is divisible by the size of the `tensor` axis.
    platform: 'gpu' (NVIDIA) or 'tpu'. TPUs have no kernel for decoding.
  """

  mesh: jax.sharding.Mesh
  platform: str

  def reads(self, width: int) -> bool:
    """Returns True if a kernel computes the attention of `width` tokens."""
    return width >= (fused_attention.LANES if self.platform == 'tpu' else 2)

  def read(
    self,
    query_BTNH: jax.Array,
    key_BKTH: jax.Array,
    value_BKTH: jax.Array,
    context: Context,
    *,
    scale: float,
  ) -> jax.Array:
    """Computes causal attention of many tokens per row; differentiable.

    Args:
      query_BTNH: queries of a segment.
      key_BKTH: keys of the segment.
      value_BKTH: values of the segment.
      context: keys, values [A, K, S, H] and lengths [A] of earlier segments.
      scale: multiplies query . key.

    Returns:
      The attention output [B, T, N, H].
    """

    def attend(
      query: jax.Array, key: jax.Array, value: jax.Array, live: jax.Array
    ) -> jax.Array:
      if self.platform == 'tpu':
        return fused_attention.by_splash(
          query, key, value, live, scale=scale, name=segment_attention.KEPT
        )
      return fused_attention.by_cudnn(query, key, value, live, scale=scale)

    rows, heads = self._axes(key_BKTH)
    by_head = P(rows, heads)
    return self._on_each(
      attend,
      in_specs=(P(rows, None, heads), by_head, by_head, P(rows)),
      out_specs=P(rows, None, heads),
    )(
      query_BTNH,
      *fused_attention.side_by_side(key_BKTH, value_BKTH, context),
    )

  @property
  def can_decode(self) -> bool:
    """True if the platform has a kernel for one token per row."""
    return self.platform == 'gpu'

  def decodes(self, rows: int, context: Context) -> bool:
    """Returns True if a kernel computes the attention of one token per row.

    Each device must hold the keys and values of its own rows. The number of
    rows of the batch and of each segment must therefore be divisible by the
    number of row shards, or be 1.

    Args:
      rows: number of rows of the batch.
      context: earlier segments.
    """
    counts = {rows, *(len(lengths) for _, _, lengths in context)} - {1}
    shards = sharding.row_shards(self.mesh)
    return self.can_decode and all(n % shards == 0 for n in counts)

  def decode(
    self,
    query_BNH: jax.Array,
    key_BKH: jax.Array,
    value_BKH: jax.Array,
    context: Context,
    *,
    layer: int | jax.Array,
    scale: float,
  ) -> jax.Array:
    """Computes attention of one token per row, see `decode_attention.attend`.

    Returns:
      The attention output [B, N, H].
    """
    rows, heads = self._axes(key_BKH)
    by_head = P(rows, heads)

    def specs_of(segment: fused_attention.Segment) -> tuple[P, P, P]:
      split = sharding.cache_sharding(segment[0].shape, self.mesh).spec
      return split, split, P(split[1])

    def attend(
      query: jax.Array, key: jax.Array, value: jax.Array, context: Context
    ) -> jax.Array:
      return decode_attention.attend(
        query, key, value, context, layer=layer, scale=scale
      )

    segments = tuple(tuple(segment) for segment in context)
    return self._on_each(
      attend,
      in_specs=(by_head, by_head, by_head, tuple(map(specs_of, segments))),
      out_specs=by_head,
    )(query_BNH, key_BKH, value_BKH, segments)

  def _axes(self, key: jax.Array) -> tuple[Any, Any]:
    """Returns the mesh axes of the rows and heads of keys [B, K, ...]."""
    _, rows, heads = sharding.cache_sharding((1, *key.shape), self.mesh).spec
    return rows, heads

  def _on_each(
    self, kernel: Callable[Arrays, jax.Array], *, in_specs: Any, out_specs: P
  ) -> Callable[Arrays, jax.Array]:
    """Returns a function that runs `kernel` on the shards of each device."""
    if self.mesh.size == 1:
      return kernel
    return jax.shard_map(
      kernel,
      mesh=self.mesh,
      in_specs=in_specs,
      out_specs=out_specs,
      check_vma=False,
    )


def known(
  config: model_config.ModelConfig, dtype: jnp.dtype, platform: str
) -> bool:
  """Returns True if the kernels of a platform support the attention of a model.

  This function does not check that JAX is at least 0.11, which the GPU kernels
  require.
  """
  if jnp.dtype(dtype).itemsize != 2:
    return False
  if config.attention_softcap or any(config.windows):
    return False
  if platform == 'tpu':
    return True
  width = config.head_width
  is_power_of_two = width & (width - 1) == 0
  return 16 <= width <= 128 and is_power_of_two


def find(
  config: model_config.ModelConfig,
  dtype: jnp.dtype,
  mesh: jax.sharding.Mesh | None,
) -> Kernels | None:
  """Returns the kernels for a model on a mesh, or None if there are none."""
  if mesh is None:
    return None
  if sharding.are_tpus(mesh) and fused_attention.HAS_SPLASH:
    platform = 'tpu'
  elif sharding.are_gpus(mesh) and _ON_GPUS:
    platform = 'gpu'
  else:
    return None
  return Kernels(mesh, platform) if known(config, dtype, platform) else None
