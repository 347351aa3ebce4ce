"""Attention by kernels: for which models, and where they run.

A compiler that splits programs over devices does not look into a kernel. So
each device of a mesh runs its own, on its rows and its heads.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from sqlm_jax.distributed import sharding
from sqlm_jax.models import config as model_config
from sqlm_jax.ops import decode_attention, fused_attention

KEPT = 'attention'  # the name of what a rematerialised block should keep

# Before 0.11, cuDNN is made to compute a gradient of the mask, for nobody.
_ON_GPUS = jax.__version_info__ >= (0, 11) and decode_attention.AVAILABLE

Context = tuple[fused_attention.Segment, ...]


class Kernels(NamedTuple):
  """Those of a platform, on the devices of a mesh.

  Attributes:
    mesh: rows are split over it, and heads where it divides those of keys.
    platform: 'gpu', of NVIDIA, or 'tpu'. TPUs have one for reading alone.
  """

  mesh: jax.sharding.Mesh
  platform: str

  def reads(self, width: int) -> bool:
    """Whether so many tokens a row are read by a kernel."""
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
    """Causal attention [B, T, N, H] of many tokens; differentiable.

    Args:
      query_BTNH: queries of a segment.
      key_BKTH: its keys.
      value_BKTH: its values.
      context: keys, values [A, K, S, H] and lengths [A] of earlier segments.
      scale: times query . key.
    """
    if self.platform == 'tpu':
      attend = functools.partial(fused_attention.by_splash, name=KEPT)
    else:
      attend = fused_attention.by_cudnn
    rows, heads = self._axes(key_BKTH)
    by_head = P(rows, heads)
    return self._on_each(
      functools.partial(attend, scale=scale),
      in_specs=(P(rows, None, heads), by_head, by_head, P(rows)),
      out_specs=P(rows, None, heads),
    )(
      query_BTNH,
      *fused_attention.side_by_side(key_BKTH, value_BKTH, context),
    )

  @property
  def can_decode(self) -> bool:
    """Whether there is a kernel for one token a row."""
    return self.platform == 'gpu'

  def decodes(self, rows: int, context: Context) -> bool:
    """Whether one token of so many rows is decoded by a kernel.

    Each device must have the texts of its rows.
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
    """Attention [B, N, H] of one token a row: see `decode_attention.attend`."""
    rows, heads = self._axes(key_BKH)
    by_head = P(rows, heads)

    def of_segment(segment):
      split = sharding.cache_sharding(segment[0].shape, self.mesh).spec
      return split, split, P(split[1])

    def attend(query, key, value, context):
      return decode_attention.attend(
        query, key, value, context, layer=layer, scale=scale
      )

    context = tuple(tuple(segment) for segment in context)
    return self._on_each(
      attend,
      in_specs=(by_head, by_head, by_head, tuple(map(of_segment, context))),
      out_specs=by_head,
    )(query_BNH, key_BKH, value_BKH, context)

  def _axes(self, key: jax.Array):
    """What rows and heads of keys [B, K, ...] are split over."""
    _, rows, heads = sharding.cache_sharding((1, *key.shape), self.mesh).spec
    return rows, heads

  def _on_each(self, function: Callable[..., jax.Array], **specs):
    """Runs a function on each device's part."""
    if self.mesh.size == 1:
      return function
    return jax.shard_map(function, mesh=self.mesh, check_vma=False, **specs)


def known(
  config: model_config.ModelConfig, dtype: jnp.dtype, platform: str
) -> bool:
  """Whether a platform has kernels for all attention of a model.

  Those for GPUs want JAX 0.11, which is not asked here.
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
  """The kernels for a model on a mesh, None where there are none."""
  if mesh is None:
    return None
  if sharding.are_tpus(mesh) and fused_attention.HAS_SPLASH:
    platform = 'tpu'
  elif sharding.are_gpus(mesh) and _ON_GPUS:
    platform = 'gpu'
  else:
    return None
  return Kernels(mesh, platform) if known(config, dtype, platform) else None
