"""The one decoder that carries every model family."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from sqlm_jax.distributed import sharding
from sqlm_jax.models import apart, attention, layers, rope
from sqlm_jax.models import config as model_config
from sqlm_jax.models import kernels as kernels_lib
from sqlm_jax.ops import packing as packing_lib

_POLICIES = jax.checkpoint_policies


def _keep_products(primitive, *args, **params):
  """Of products with weights, and of the attention, whoever computes it."""
  return _POLICIES.dots_with_no_batch_dims_saveable(
    primitive, *args, **params
  ) or attention.is_kept(primitive, *args, **params)


# What the backward pass finds of a block: all, the products with weights and
# the attention, or the block's input. The rest it computes again.
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
    # Instead of the three, see `apart`.
    self.query_key_value = project(c.num_heads + 2 * c.num_kv_heads)
    self.query_norm, self.key_norm = norm(), norm()
    heads = c.num_heads, c.head_width
    self.output = layers.Projection(
      heads, (c.width,), self.dtypes, c.output_bias, self.lora
    )

  def project(self, x_BTD, rotation):
    """Queries, keys and values, [B, T, heads, H], rotated."""
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

  In two halves, of which each looks at one token at a time: what the attention
  compares, and what is made of its output.
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
    """Queries, keys and values of tokens, see `Attention.project`."""
    x_BTD = self._normed(self.attention_norm, x_BTD, 'pre')
    return self.attention.project(x_BTD, rotation)

  def attend(self, query, key, value, context, window, packing, layer):
    """The attention's output [B, T, N, H], and keys and values as kept."""
    c = self.config
    if packing is not None:
      query, key, value = (
        packing_lib.unpack(x, packing) for x in (query, key, value)
      )
    # As they are stored: products with them then copy nothing.
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
    """The block's output, from its input and that of the attention."""
    out_BTD = self.attention.output(out_BTNH)
    x_BTD = x_BTD + self._normed(self.attention_post_norm, out_BTD, 'post')
    out_BTD = self.mlp(self._normed(self.mlp_norm, x_BTD, 'pre'))
    return x_BTD + self._normed(self.mlp_post_norm, out_BTD, 'post')

  def _normed(self, norm, x_BTD, placement):
    if self.config.norm_placement not in (placement, 'both'):
      return x_BTD
    return norm(x_BTD)


class Decoder(nn.Module):
  """Token embedding, L blocks as one scan, final norm, unembedding.

  The blocks are scanned over parameters stacked on a leading L: compile time
  does not grow with depth, and a checkpoint holds a dozen arrays. What else
  differs from layer to layer, window and rope, is scanned along with them.
  A layer reads all segments of a chain before the next one does: its weights
  are fetched once, and have one gradient. On a device alone the segments stand
  in one row, but for the attention. What `apart` has made of parameters is read
  block by block.
  """

  config: model_config.ModelConfig
  dtypes: layers.Dtypes
  lora: layers.Lora | None = None
  remat: str = 'none'  # of REMAT
  mesh: jax.sharding.Mesh | None = None  # that rows are split over
  kernels: kernels_lib.Kernels | None = None  # of the attention

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
    """See `policy.Policy.forward_chain`."""
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
    is_apart = self.has_variable('params', apart.NAME)
    read = self._one_by_one if is_apart else self._scan
    x_IASD, keys_values = read(x_IASD, of_layers, of_segments)
    if one_row:
      x_IASD = one_row.split(*x_IASD)
    x_IASD = (x[:, :width] for x, width in zip(x_IASD, widths, strict=True))
    hidden = [self.final_norm(_keep_rows(x, self.mesh)) for x in x_IASD]
    return tuple(hidden), keys_values

  def _as_read(self, segment):
    """As a kernel takes it, if one will read it."""
    by_kernel = self.kernels is not None and self.kernels.reads(segment.width)
    return segment.even() if by_kernel else segment

  def _one_row(self, segments):
    """Puts segments in one row, or None where they stay as they are.

    Devices that share rows would have to move them. What one TPU would gain was
    not measured.
    """
    alone = self.mesh is not None and self.mesh.size == 1
    if not alone or sharding.are_tpus(self.mesh) or len(segments) == 1:
      return None
    return packing_lib.OneRow(tuple(x.tokens.shape for x in segments))

  def _scan(self, x_IASD, of_layers, of_segments):
    """Reads all layers, which are stacked."""
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
      # It costs a trace of the layer; without, other weights would be drawn.
      check_constancy_invariants=self.is_initializing(),
    )
    return scan(self.layers, x_IASD, *of_layers, of_segments, layers_L)

  def _keeps_context_whole(self, x_IASD) -> bool:
    """Whether a layer picks what it sees of all layers' context itself.

    To decode on one CPU, see `attention._attend_by_block`.
    """
    one_token = len(x_IASD) == 1 and x_IASD[0].shape[1] == 1
    on_one_cpu = self.mesh is not None and sharding.is_one_cpu(self.mesh)
    return one_token and on_one_cpu

  def _one_by_one(self, x_IASD, of_layers, of_segments):
    """Reads all layers, of which each is a tree of its own.

    One segment; the context's arrays stay whole.
    """
    pairs, *of_layers = of_layers
    block = self.layers.clone(parent=None)

    @jax.jit  # traced once, not once a layer
    def read(params, x_IASD, pairs, of_layer, of_segments, layer):
      bound = block.bind({'params': params})
      return _read_chain(
        bound, x_IASD, pairs, *of_layer, of_segments, layer=layer
      )

    found = []
    for i in range(self.config.num_layers):
      params = self.variables['params'][apart.NAME][str(i)]
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
    """Next-token logits [..., V] of hidden states [..., D].

    In the dtype that products come out in: whoever reads them makes float32 of
    them as they come, and no array of that size is written anew.
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
    """Touches every parameter, for `init`."""
    segment = attention.Segment(tokens_BT, jnp.ones(len(tokens_BT), jnp.int32))
    (hidden_BTD,), _ = self((segment,))
    return self.logits(hidden_BTD)


def _read_chain(
  block, x_IASD, context, window, rope_index, of_segments, layer=None
):
  """One layer, over segments of which each sees those before it.

  `of_segments` are lengths, also those of the context, ropes, packings, and
  what has put the segments in one row, if they are.

  Returns:
    The outputs, and keys and values of every segment.
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
  """Rows of many tokens stay where they are; one token is soon moved."""
  if mesh is None or x_BTD.shape[1] == 1:
    return x_BTD
  return sharding.keep_rows(x_BTD, mesh)


def _of_layers(c: model_config.ModelConfig):
  """Windows [L], index of the rope [L], and the ropes; None where all agree."""
  if not any(c.windows):
    return None, None, (c.rope,)
  # Larger than any text.
  windows_L = np.array([w or np.iinfo(np.int32).max for w in c.windows])
  if c.local_rope is None:
    return windows_L, None, (c.rope,)
  is_local_L = np.array([w > 0 for w in c.windows])
  return windows_L, is_local_L, (c.rope, c.local_rope)
