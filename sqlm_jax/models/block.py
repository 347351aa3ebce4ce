"""A block of the decoder: attention and MLP."""

import functools
from typing import Generic, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from sqlm_jax.distributed import sharding
from sqlm_jax.models import (
  attention,
  joined_segments,
  layers,
  model_config,
  rope,
  stacked_attention,
)
from sqlm_jax.models import kernels as kernels_lib
from sqlm_jax.ops import packing as packing_lib
from sqlm_jax.ops.arrays import Array

Rotation = tuple[jax.Array, jax.Array]  # sine and cosine, see `rope.rotation`


class Chain(NamedTuple):
  """The parts of a chain of segments that are the same in all layers.

  Attributes:
    lengths: number of tokens [A] of each row, of the context's segments and
      then of the chain's.
    rotations: rotations of the tokens of each segment, or of all joined
      segments, one per rope.
    packings: packing of each segment, or None.
    layout: layout of the segments for operations on single tokens.
  """

  lengths: tuple[jax.Array, ...]
  rotations: tuple[tuple[Rotation, ...], ...]
  packings: tuple[packing_lib.Packing | None, ...]
  layout: joined_segments.Layout


class OfLayer(NamedTuple, Generic[Array]):
  """The inputs of a layer that may differ between layers.

  Attributes:
    context: keys and values of each earlier segment.
    window: attention window of the layer; None attends to all tokens.
    is_local: True if the layer uses the second of two ropes; None with one.
    index: index of the layer, if `context` holds all layers; otherwise None.
  """

  context: tuple[attention.Pair, ...]
  window: Array | None
  is_local: Array | None
  index: int | Array | None


def make_norm(
  c: model_config.ModelConfig, dtypes: layers.Dtypes
) -> layers.RMSNorm:
  """Returns a norm of a model."""
  return layers.RMSNorm(c.norm_epsilon, c.norm_offset, dtypes)


class Attention(nn.Module):
  """The linear maps of grouped-query attention, Ainslie et al. (2023)."""

  config: model_config.ModelConfig
  dtypes: layers.Dtypes
  lora: layers.Lora | None

  def setup(self) -> None:
    c = self.config
    norm = functools.partial(make_norm, c, self.dtypes)

    def project(heads: int) -> layers.Projection:
      outputs = heads, c.head_width
      return layers.Projection(
        (c.width,), outputs, self.dtypes, c.qkv_bias, self.lora
      )

    self.query = project(c.num_heads)
    self.key = project(c.num_kv_heads)
    self.value = project(c.num_kv_heads)
    # Replaces the three projections in parameters made by `unstacked`.
    self.query_key_value = project(c.num_heads + 2 * c.num_kv_heads)
    self.query_norm, self.key_norm = norm(), norm()
    heads = c.num_heads, c.head_width
    self.output = layers.Projection(
      heads, (c.width,), self.dtypes, c.output_bias, self.lora
    )

  def project(
    self, x_BTD: jax.Array, rotation: Rotation
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Computes queries, keys and values [B, T, heads, H].

    Queries and keys are normalized, depending on the config, and rotated.
    """
    c = self.config
    if self.has_variable('params', 'query_key_value'):
      query, key, value = jnp.split(
        self.query_key_value(x_BTD),
        (c.num_heads, c.num_heads + c.num_kv_heads),
        axis=2,
      )
    else:
      query, key = self.query(x_BTD), self.key(x_BTD)
      value = self.value(x_BTD)
    query = rope.rotate(self._normalize(self.query_norm, query), *rotation)
    key = rope.rotate(self._normalize(self.key_norm, key), *rotation)
    return query, key, value

  def _normalize(self, norm: layers.RMSNorm, x_BTNH: jax.Array) -> jax.Array:
    if self.config.qk_norm == 'none':
      return x_BTNH
    if self.config.qk_norm == 'head':
      return norm(x_BTNH)
    return norm(x_BTNH.reshape(*x_BTNH.shape[:2], -1)).reshape(x_BTNH.shape)


class Block(nn.Module):
  """Attention and MLP, each with norms and a residual connection.

  The block is split into the attention (`attend`) and two parts that process
  every token separately: `before` computes the attention's inputs, and `after`
  processes its output.
  """

  config: model_config.ModelConfig
  dtypes: layers.Dtypes
  lora: layers.Lora | None
  mesh: jax.sharding.Mesh | None
  kernels: kernels_lib.Kernels | None

  def setup(self) -> None:
    c = self.config
    norm = functools.partial(make_norm, c, self.dtypes)
    self.attention_norm, self.attention_post_norm = norm(), norm()
    self.mlp_norm, self.mlp_post_norm = norm(), norm()
    self.attention = Attention(c, self.dtypes, self.lora)
    self.mlp = layers.GatedMLP(
      c.width, c.mlp_width, c.activation, c.mlp_bias, self.dtypes, self.lora
    )

  def before(
    self, x_BTD: jax.Array, rotation: Rotation
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Computes queries, keys and values, see `Attention.project`."""
    x_BTD = self._normalize(self.attention_norm, x_BTD, 'pre')
    return self.attention.project(x_BTD, rotation)

  def attend(
    self,
    projected: tuple[jax.Array, jax.Array, jax.Array],
    context: tuple[attention.KeyValues, ...],
    *,
    packing: packing_lib.Packing | None,
    window: jax.Array | None,
    index: int | jax.Array | None,
  ) -> tuple[jax.Array, attention.Pair]:
    """Computes the attention of a segment over itself and its context.

    Args:
      projected: queries, keys and values of the segment.
      context: earlier segments.
      packing: packing of the segment.
      window: attention window.
      index: index of the layer, if `context` holds all layers.

    Returns:
      The output [B, T, N, H], and keys and values in the layout of the cache,
      [B, K, T, H] each. With a packing, the output has the layout of its parts.
    """
    c = self.config
    query, key, value = projected
    if packing is not None:
      query, key, value = (
        packing_lib.unpack(x, packing) for x in (query, key, value)
      )
    # The layout of the cache: products with keys and values need no copy.
    key, value = jnp.swapaxes(key, 1, 2), jnp.swapaxes(value, 1, 2)
    attend = attention.attend
    if index is not None:
      attend = functools.partial(stacked_attention.attend, layer=index)
    out = attend(
      query,
      key,
      value,
      context,
      span=attention.Span(
        c.attention_scale or c.head_width**-0.5, c.attention_softcap, window
      ),
      kernels=self.kernels,
    )
    if packing is not None:
      out = packing_lib.pack(out, packing)
    return out, (key, value)

  def after(self, x_BTD: jax.Array, out_BTNH: jax.Array) -> jax.Array:
    """Computes the block's output from its input and the attention's output."""
    out_BTD = self.attention.output(out_BTNH)
    x_BTD = x_BTD + self._normalize(self.attention_post_norm, out_BTD, 'post')
    out_BTD = self.mlp(self._normalize(self.mlp_norm, x_BTD, 'pre'))
    return x_BTD + self._normalize(self.mlp_post_norm, out_BTD, 'post')

  def _normalize(
    self, norm: layers.RMSNorm, x_BTD: jax.Array, placement: str
  ) -> jax.Array:
    if self.config.norm_placement not in (placement, 'both'):
      return x_BTD
    return norm(x_BTD)


def read_chain(
  block: Block,
  xs: tuple[jax.Array, ...],
  of_layer: OfLayer,
  chain: Chain,
) -> tuple[tuple[jax.Array, ...], tuple[attention.Pair, ...]]:
  """Runs one layer over segments, each of which attends to the earlier ones.

  Args:
    block: the layer.
    xs: activations [A, T, D] of each segment, in the layout of the chain.
    of_layer: inputs that may differ between layers.
    chain: inputs that are the same in all layers.

  Returns:
    The outputs, and the keys and values of every segment.
  """
  xs = tuple(keep_rows(x, block.mesh) for x in xs)
  projected = [
    block.before(x, _select_rope(rotations, of_layer.is_local))
    for x, rotations in zip(xs, chain.rotations, strict=True)
  ]
  context = [
    attention.KeyValues(keys, values, lengths_A)
    for (keys, values), lengths_A in zip(
      of_layer.context, chain.lengths, strict=False
    )
  ]
  outs, keys_values = [], []
  for of_segment, packing in zip(
    chain.layout.split(projected), chain.packings, strict=True
  ):
    out, pair = block.attend(
      of_segment,
      tuple(context),
      packing=packing,
      window=of_layer.window,
      index=of_layer.index,
    )
    outs.append(out)
    keys_values.append(pair)
    context.append(attention.KeyValues(*pair, chain.lengths[len(context)]))
  xs = tuple(map(block.after, xs, chain.layout.join(outs)))
  return xs, tuple(keys_values)


def _select_rope(
  rotations: tuple[Rotation, ...], is_local: jax.Array | None
) -> Rotation:
  """Returns the rotation of a layer's rope."""
  if len(rotations) == 1 or is_local is None:
    return rotations[0]
  plain, local = rotations
  sin, cos = (
    jnp.where(is_local, x_local, x_plain)
    for x_plain, x_local in zip(plain, local, strict=True)
  )
  return sin, cos


def keep_rows(x_BTD: jax.Array, mesh: jax.sharding.Mesh | None) -> jax.Array:
  """Keeps activations split by row, except for one token per row.

  Moving a single token between devices is cheap.
  """
  if mesh is None or x_BTD.shape[1] == 1:
    return x_BTD
  return sharding.keep_rows(x_BTD, mesh)
