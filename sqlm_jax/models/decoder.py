"""The one decoder that carries every model family."""

import jax.numpy as jnp
from flax import linen as nn

from sqlm_jax.models import attention, layers
from sqlm_jax.models import config as model_config


class Attention(nn.Module):
  """Grouped-query attention, Ainslie et al. (2023)."""

  config: model_config.ModelConfig
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x_BTD, positions_BT, context):
    c = self.config
    heads = (c.width, c.num_heads, c.head_width)
    kv_heads = (c.width, c.num_kv_heads, c.head_width)
    project = lambda name, shape: layers.Projection(
      'btd,dnh->btnh', shape, (0,), self.dtype, name=name
    )(x_BTD)
    query = layers.rotary(project('query', heads), positions_BT, c.rope_theta)
    key = layers.rotary(project('key', kv_heads), positions_BT, c.rope_theta)
    value = project('value', kv_heads)
    out = attention.attend(query, key, value, context)
    out = layers.Projection(
      'btnh,nhd->btd', heads[1:] + heads[:1], (0, 1), self.dtype, name='output'
    )(out)
    return out, (key, value)


class Block(nn.Module):
  """Pre-norm attention and MLP, each with a residual connection."""

  config: model_config.ModelConfig
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x_BTD, context, context_lengths, positions_BT):
    c = self.config
    context = tuple(
      attention.KeyValues(keys, values, lengths)
      for (keys, values), lengths in zip(context, context_lengths, strict=True)
    )
    norm = layers.RMSNorm(c.norm_epsilon, self.dtype, name='attention_norm')
    attended, keys_values = Attention(c, self.dtype, name='attention')(
      norm(x_BTD), positions_BT, context
    )
    x_BTD = x_BTD + attended
    norm = layers.RMSNorm(c.norm_epsilon, self.dtype, name='mlp_norm')
    mlp = layers.GatedMLP(c.width, c.mlp_width, self.dtype, name='mlp')
    return x_BTD + mlp(norm(x_BTD)), keys_values


class Decoder(nn.Module):
  """Token embedding, L blocks as one scan, final norm, unembedding.

  The blocks are scanned over parameters stacked on a leading L: compile time
  does not grow with depth, and a checkpoint holds a dozen arrays.
  """

  config: model_config.ModelConfig
  dtype: jnp.dtype
  remat: bool = False

  def setup(self):
    c = self.config
    self.embed = self.param(
      'embedding',
      nn.initializers.normal(c.width**-0.5),
      (c.vocab_size, c.width),
      self.dtype,
    )
    block = nn.remat(Block, prevent_cse=False) if self.remat else Block
    self.layers = nn.scan(
      block,
      variable_axes={'params': 0},
      split_rngs={'params': True},
      in_axes=(0, nn.broadcast, nn.broadcast),
      length=c.num_layers,
    )(c, self.dtype)
    self.final_norm = layers.RMSNorm(c.norm_epsilon, self.dtype)
    if not c.tied_embeddings:
      self.unembed = layers.Projection(
        '...d,dv->...v', (c.width, c.vocab_size), (0,), self.dtype
      )

  def __call__(self, tokens_BT, context=()):
    """See `policy.Policy.forward`."""
    rows, width = tokens_BT.shape
    positions_BT = jnp.broadcast_to(jnp.arange(width)[None, :], (rows, width))
    for segment in context:
      # Each context row serves rows // A consecutive rows of the batch.
      start_B = jnp.repeat(segment.lengths, rows // segment.lengths.shape[0])
      positions_BT = positions_BT + start_B[:, None]
    x_BTD = jnp.take(self.embed, tokens_BT, axis=0)
    x_BTD, (keys, values) = self.layers(
      x_BTD,
      tuple((segment.keys, segment.values) for segment in context),
      tuple(segment.lengths for segment in context),
      positions_BT,
    )
    return self.final_norm(x_BTD), keys, values

  def logits(self, hidden):
    """Next-token logits [..., V] in float32 of hidden states [..., D]."""
    if self.config.tied_embeddings:
      logits = jnp.einsum('...d,vd->...v', hidden, self.embed)
    else:
      logits = self.unembed(hidden)
    return logits.astype(jnp.float32)

  def initialise(self, tokens_BT):
    """Touches every parameter, for `init`."""
    return self.logits(self(tokens_BT)[0])
