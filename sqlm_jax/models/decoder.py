"""The transformer decoder, which supports all model families."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from sqlm_jax.distributed import sharding
from sqlm_jax.models import attention, layers, model_config, rope, unstacked
from sqlm_jax.models import kernels as kernels_lib
from sqlm_jax.ops import packing as packing_lib

_POLICIES = jax.checkpoint_policies


def _keep_products(primitive, *args, **params):
  """Checkpoint policy that saves products with weights and the attention.

  The attention is saved whether or not a kernel computes it.
  """
  return _POLICIES.dots_with_no_batch_dims_saveable(
    primitive, *args, **params
  ) or attention.is_kept(primitive, *args, **params)


# The values of a block that are saved for the backward pass: all of them, the
# products with weights and the attention, or only the block's input. The
# backward pass recomputes the other values.
REMAT = {
  'none': None,
  'dots': _keep_products,
  'full': _POLICIES.nothing_saveable,
}


def _norm(c: model_config.ModelConfig, dtypes: layers.Dtypes) -> layers.RMSNorm:
  return layers.RMSNorm(c.norm_epsilon, c.norm_offset, dtypes)


class Attention(nn.Module):
  """The linear maps of grouped-query attention, Ainslie et al. (2023)."""

  config: model_config.ModelConfig
  dtypes: layers.Dtypes
  lora: layers.Lora | None

  def setup(self):
    c = self.config
    norm = functools.partial(_norm, c, self.dtypes)

    def project(heads):
      outputs = heads, c.head_width
      return layers.Projection(
        (c.width,), outputs, self.dtypes, c.qkv_bias, self.lora
      )

    self.query = project(c.num_heads)
    self.key = project(c.num_kv_heads)
    self.value = project(c.num_kv_heads)
    # Replaces the three projections in parameters made by `apart`.
    self.query_key_value = project(c.num_heads + 2 * c.num_kv_heads)
    self.query_norm, self.key_norm = norm(), norm()
    heads = c.num_heads, c.head_width
    self.output = layers.Projection(
      heads, (c.width,), self.dtypes, c.output_bias, self.lora
    )

  def project(self, x_BTD, rotation):
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
    query = rope.rotate(self._normed(self.query_norm, query), *rotation)
    key = rope.rotate(self._normed(self.key_norm, key), *rotation)
    return query, key, value

  def _normed(self, norm, x_BTNH):
    if self.config.qk_norm == 'none':
      return x_BTNH
    if self.config.qk_norm == 'head':
      return norm(x_BTNH)
    return norm(x_BTNH.reshape(*x_BTNH.shape[:2], -1)).reshape(x_BTNH.shape)


class Block(nn.Module):
  """Attention and MLP, each with norms and a residual connection.

  The block is split into the attention (`attend`) and two parts that process
  every token separately: `before` computes the attention's inputs, and
  `behind` processes its output.
  """

  config: model_config.ModelConfig
  dtypes: layers.Dtypes
  lora: layers.Lora | None
  mesh: jax.sharding.Mesh | None
  kernels: kernels_lib.Kernels | None

  def setup(self):
    c = self.config
    norm = functools.partial(_norm, c, self.dtypes)
    self.attention_norm, self.attention_post_norm = norm(), norm()
    self.mlp_norm, self.mlp_post_norm = norm(), norm()
    self.attention = Attention(c, self.dtypes, self.lora)
    self.mlp = layers.GatedMLP(
      c.width, c.mlp_width, c.activation, c.mlp_bias, self.dtypes, self.lora
    )

  def before(self, x_BTD, rotation):
    """Computes queries, keys and values, see `Attention.project`."""
    x_BTD = self._normed(self.attention_norm, x_BTD, 'pre')
    return self.attention.project(x_BTD, rotation)

  def attend(self, query, key, value, context, window, packing, layer):
    """Computes the attention of a segment over itself and its context.

    Returns:
      The output [B, T, N, H], and keys and values in the layout of the cache,
      [B, K, T, H] each. With a packing, the output has the layout of its parts.
    """
    c = self.config
    if packing is not None:
      query, key, value = (
        packing_lib.unpack(x, packing) for x in (query, key, value)
      )
    # The layout of the cache: products with keys and values need no copy.
    key, value = jnp.swapaxes(key, 1, 2), jnp.swapaxes(value, 1, 2)
    scale = c.attention_scale or c.head_width**-0.5
    span = attention.Span(scale, c.attention_softcap, window)
    out = attention.attend(
      query, key, value, context, span=span, layer=layer, kernels=self.kernels
    )
    if packing is not None:
      out = packing_lib.pack(out, packing)
    return out, (key, value)

  def behind(self, x_BTD, out_BTNH):
    """Computes the block's output from its input and the attention's output."""
    out_BTD = self.attention.output(out_BTNH)
    x_BTD = x_BTD + self._normed(self.attention_post_norm, out_BTD, 'post')
    out_BTD = self.mlp(self._normed(self.mlp_norm, x_BTD, 'pre'))
    return x_BTD + self._normed(self.mlp_post_norm, out_BTD, 'post')

  def _normed(self, norm, x_BTD, placement):
    if self.config.norm_placement not in (placement, 'both'):
      return x_BTD
    return norm(x_BTD)


class Decoder(nn.Module):
  """Token embedding, L blocks, final norm and unembedding.

  The blocks are one scan over parameters stacked along a leading dimension L.
  Compile time therefore does not grow with depth, and a checkpoint holds only a
  dozen arrays. The window and the rope, which may differ between layers, are
  scanned as well. Parameters made by `apart` are not stacked; their blocks run
  one after another without a scan.

  A layer processes all segments of a chain before the next layer does, so that
  its weights are read once and have a single gradient. On a single CPU or GPU,
  the segments are concatenated to one row, except in the attention.
  """

  config: model_config.ModelConfig
  dtypes: layers.Dtypes
  lora: layers.Lora | None = None
  remat: str = 'none'  # a key of REMAT
  mesh: jax.sharding.Mesh | None = None  # mesh that rows are split over
  kernels: kernels_lib.Kernels | None = None  # attention kernels

  def setup(self):
    c = self.config
    self.embed = self.param(
      'embedding',
      nn.initializers.normal(c.width**-0.5),
      (c.vocab_size, c.width),
      self.dtypes.params,
    )
    self.layers = Block(c, self.dtypes, self.lora, self.mesh, self.kernels)
    self.final_norm = _norm(c, self.dtypes)
    if not c.tied_embeddings:
      self.unembed = layers.Projection((c.width,), (c.vocab_size,), self.dtypes)

  def __call__(self, segments, context=()):
    """Runs the model over segments, see `policy.Policy.forward_chain`."""
    c = self.config
    widths = [segment.tokens.shape[1] for segment in segments]
    segments = tuple(map(self._as_read, segments))
    lengths = tuple(segment.lengths for segment in (*context, *segments))
    windows_L, rope_index_L, ropes = _of_layers(c)
    rotations = []
    firsts = attention.starts(lengths)[len(context) :]
    for segment, first_A in zip(segments, firsts, strict=True):
      positions_AS = first_A[:, None] + jnp.arange(segment.width)[None, :]
      if segment.packing is not None:
        positions_AS = packing_lib.pack(positions_AS, segment.packing)
      rotations.append(
        tuple(rope.rotation(r, positions_AS, c.head_width) for r in ropes)
      )
    x_IASD = tuple(self._embed(segment.tokens) for segment in segments)
    one_row = self._one_row(segments)
    if one_row:
      x_IASD = (one_row.join(x_IASD),)
      rotations = [jax.tree.map(lambda *parts: one_row.join(parts), *rotations)]
    pairs = tuple((segment.keys, segment.values) for segment in context)
    of_layers = (pairs, windows_L, rope_index_L)
    packings = tuple(segment.packing for segment in segments)
    of_segments = (lengths, tuple(rotations), packings, one_row)
    is_apart = self.has_variable('params', unstacked.NAME)
    read = self._one_by_one if is_apart else self._scan
    x_IASD, keys_values = read(x_IASD, of_layers, of_segments)
    if one_row:
      x_IASD = one_row.split(*x_IASD)
    x_IASD = (x[:, :width] for x, width in zip(x_IASD, widths, strict=True))
    hidden = [self.final_norm(_keep_rows(x, self.mesh)) for x in x_IASD]
    return tuple(hidden), keys_values

  def _as_read(self, segment):
    """Pads a segment to an even width if a kernel computes its attention."""
    by_kernel = self.kernels is not None and self.kernels.reads(segment.width)
    return segment.even() if by_kernel else segment

  def _one_row(self, segments):
    """Returns the layout that joins segments to one row, or None if not used.

    It is used on a single CPU or GPU. Several devices would have to move rows
    between them, and the gain on a single TPU was not measured.
    """
    alone = self.mesh is not None and self.mesh.size == 1
    if not alone or sharding.are_tpus(self.mesh) or len(segments) == 1:
      return None
    return packing_lib.OneRow(tuple(x.tokens.shape for x in segments))

  def _scan(self, x_IASD, of_layers, of_segments):
    """Runs all layers as a scan over stacked parameters."""
    read, saved = _read_chain, REMAT[self.remat]
    if saved is not None:
      read = nn.remat(read, prevent_cse=False, policy=saved)
    layers_L, of_context = None, 0
    if self._keeps_context_whole(x_IASD):
      layers_L, of_context = np.arange(self.config.num_layers), nn.broadcast
    scan = nn.scan(
      read,
      variable_axes={'params': 0},
      split_rngs={'params': True},
      in_axes=(of_context, 0, 0, nn.broadcast, 0),
      length=self.config.num_layers,
      # The check costs a trace of the layer, but `init` without it would draw
      # different weights.
      check_constancy_invariants=self.is_initializing(),
    )
    return scan(self.layers, x_IASD, *of_layers, of_segments, layers_L)

  def _keeps_context_whole(self, x_IASD) -> bool:
    """Returns True if layers get the context of all layers and an index.

    This applies to decoding on a single CPU, see `attention._attend_by_block`.
    """
    one_token = len(x_IASD) == 1 and x_IASD[0].shape[1] == 1
    on_one_cpu = self.mesh is not None and sharding.is_one_cpu(self.mesh)
    return one_token and on_one_cpu

  def _one_by_one(self, x_IASD, of_layers, of_segments):
    """Runs all layers one by one, each with its own parameter tree.

    There is a single segment. Each layer gets the unsliced context of all
    layers and its own index.
    """
    pairs, *of_layers = of_layers
    block = self.layers.clone(parent=None)

    @jax.jit  # traced once instead of once per layer
    def read(params, x_IASD, pairs, of_layer, of_segments, layer):
      bound = block.bind({'params': params})
      return _read_chain(
        bound, x_IASD, pairs, *of_layer, of_segments, layer=layer
      )

    found = []
    for i in range(self.config.num_layers):
      params = self.variables['params'][unstacked.NAME][str(i)]
      of_layer = jax.tree.map(lambda x, i=i: x[i], of_layers)
      x_IASD, keys_values = read(
        params, x_IASD, pairs, of_layer, of_segments, i
      )
      found.append(keys_values)
    return x_IASD, jax.tree.map(lambda *layers: jnp.stack(layers), *found)

  def _embed(self, tokens_AS):
    x_ASD = self.dtypes.round(jnp.take(self.embed, tokens_AS, axis=0))
    if self.config.scale_embedding:
      x_ASD = x_ASD * jnp.asarray(self.config.width**0.5, x_ASD.dtype)
    return x_ASD

  def logits(self, hidden, *, keep_rows=True):
    """Computes next-token logits [..., V] from hidden states [..., D].

    Without a soft-cap, the logits keep the dtype of the matrix product. Callers
    convert them to float32 as they read them, which avoids writing another
    array of this size.
    """
    if self.mesh is not None and hidden.ndim == 2 and keep_rows:
      hidden = sharding.keep_rows(hidden, self.mesh)
    if self.config.tied_embeddings:
      rows = hidden.reshape(-1, hidden.shape[-1])
      logits = self.dtypes.multiply(rows, self.embed, axis=1)
      logits = logits.reshape(*hidden.shape[:-1], -1)
    else:
      logits = self.unembed(hidden)
    cap = self.config.logit_softcap
    return layers.softcap(logits.astype(jnp.float32), cap) if cap else logits

  def initialise(self, tokens_BT):
    """Calls every submodule, so that `init` creates all parameters."""
    segment = attention.Segment(tokens_BT, jnp.ones(len(tokens_BT), jnp.int32))
    (hidden_BTD,), _ = self((segment,))
    return self.logits(hidden_BTD)


def _read_chain(
  block, x_IASD, context, window, rope_index, of_segments, layer=None
):
  """Runs one layer over segments, each of which attends to the earlier ones.

  Args:
    block: the layer.
    x_IASD: activations of each segment, or of all segments joined to one row.
    context: keys and values of each earlier segment.
    window: attention window of the layer; None attends to all tokens.
    rope_index: True if the layer uses the second of two ropes; None with one.
    of_segments: `(lengths, rotations, packings, one_row)`. The lengths include
      those of the context. `one_row` joins and splits segments, or is None.
    layer: index of the layer, if `context` holds all layers; otherwise None.

  Returns:
    The outputs, and the keys and values of every segment.
  """
  lengths, rotations, packings, one_row = of_segments
  x_IASD = tuple(_keep_rows(x, block.mesh) for x in x_IASD)
  seen = [
    attention.KeyValues(keys, values, lengths_A)
    for (keys, values), lengths_A in zip(context, lengths, strict=False)
  ]
  projected = []
  for x_ASD, of_ropes in zip(x_IASD, rotations, strict=True):
    rotation = of_ropes[0]
    if len(of_ropes) > 1:
      rotation = tuple(
        jnp.where(rope_index, local, whole)
        for whole, local in zip(*of_ropes, strict=True)
      )
    projected.append(block.before(x_ASD, rotation))
  if one_row:
    projected = zip(*map(one_row.split, *projected), strict=True)
  outs, keys_values = [], []
  for of_segment, packing in zip(projected, packings, strict=True):
    out, pair = block.attend(*of_segment, tuple(seen), window, packing, layer)
    outs.append(out)
    keys_values.append(pair)
    seen.append(attention.KeyValues(*pair, lengths[len(seen)]))
  if one_row:
    outs = [one_row.join(outs)]
  x_IASD = tuple(map(block.behind, x_IASD, outs))
  return x_IASD, tuple(keys_values)


def _keep_rows(x_BTD: jax.Array, mesh: jax.sharding.Mesh | None) -> jax.Array:
  """Keeps activations split by row, except for one token per row.

  Moving a single token between devices is cheap.
  """
  if mesh is None or x_BTD.shape[1] == 1:
    return x_BTD
  return sharding.keep_rows(x_BTD, mesh)


def _of_layers(c: model_config.ModelConfig):
  """Returns the windows [L], the rope indices [L] and the ropes of the layers.

  The windows are None if no layer has one, and the indices are None if all
  layers use the same rope.
  """
  if not any(c.windows):
    return None, None, (c.rope,)
  # A window larger than any text means full attention.
  windows_L = np.array([w or np.iinfo(np.int32).max for w in c.windows])
  if c.local_rope is None:
    return windows_L, None, (c.rope,)
  is_local_L = np.array([w > 0 for w in c.windows])
  return windows_L, is_local_L, (c.rope, c.local_rope)
