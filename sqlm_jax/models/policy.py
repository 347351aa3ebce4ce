"""Policies: language models as pure functions of a parameter tree."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sqlm_jax.distributed import sharding
from sqlm_jax.models import attention, decoder, layers, model_config, unstacked
from sqlm_jax.models import kernels as kernels_lib
from sqlm_jax.ops import products

Params = Any  # a nested dict of arrays
KeyValues = attention.KeyValues
Segment = attention.Segment


class Policy(NamedTuple):
  """A language model as pure functions.

  Attributes:
    config: configuration of the model.
    init: `(key) -> params`, returns random parameters.
    forward: `(params, tokens_BT, lengths_B, context) -> (hidden_BTD,
      KeyValues)`. Tokens are right-padded. `context` is a tuple of earlier
      segments, whose rows are shared by consecutive rows of the batch.
      Positions continue where the context ends. Results after a row's length
      are computed but arbitrary.
    forward_chain: `(params, segments, context) -> (hidden, KeyValues)`, each
      result a tuple with one element per segment. Runs `forward` over several
      `Segment`s, each of which is context of the later ones, and reads the
      weights once.
    logits: `(params, hidden) -> logits`, [..., D] to [..., V]. The logits are
      bfloat16 if an accelerator computes in bfloat16; sum them in float32.
    split_logits: `(params, *, by_row) -> (hidden_MD -> logits_MV)`, returns a
      function that computes logits split over the vocabulary. Devices that
      share parameters (`fsdp`) exchange their rows, and each computes its part
      of the vocabulary for all of them, so that rows are communicated instead
      of the unembedding. With `by_row`, each device then receives the logits of
      its own rows.
    init_cache: `(rows, slots) -> KeyValues`, returns an empty segment to decode
      into.
    cast: `params -> params`, casts parameters to the dtype they are computed
      in, once before they are used many times.
    take_apart: `params -> params`, prepares parameters for decoding one token
      per row at a time, see `unstacked.take_apart`. Returns them unchanged if
      this saves no time.
    reads_live: True if decoding reads only the live slots of the cache, so that
      unused capacity costs no time.
  """

  config: model_config.ModelConfig
  init: Callable[[jax.Array], Params]
  forward: Callable[..., tuple[jax.Array, KeyValues]]
  forward_chain: Callable[
    ..., tuple[tuple[jax.Array, ...], tuple[KeyValues, ...]]
  ]
  logits: Callable[[Params, jax.Array], jax.Array]
  split_logits: Callable[..., Callable[[jax.Array], jax.Array]]
  init_cache: Callable[[int, int], KeyValues]
  cast: Callable[[Params], Params]
  take_apart: Callable[[Params], Params]
  reads_live: bool


def make_policy(
  config: model_config.ModelConfig,
  *,
  dtype: str = 'float32',
  param_dtype: str | None = None,
  remat: str = 'none',
  kernels: bool = True,
  lora: layers.Lora | None = None,
  mesh: jax.sharding.Mesh | None = None,
) -> Policy:
  """Builds the policy of a model configuration.

  Args:
    config: configuration of the model.
    dtype: dtype of activations, cache and matrix products. On a CPU, bfloat16
      applies only to the operands of products with parameters, and everything
      else is float32, see `ops.products`.
    param_dtype: dtype that parameters are stored in; None means `dtype`.
    remat: rematerialization policy, a key of `decoder.REMAT`.
    kernels: use the attention kernels found by `kernels.find`, if any.
    lora: low-rank adapters for all linear maps of the blocks. `init` creates
      them as well; `forward` skips them if the parameters contain none.
    mesh: mesh that rows are split over. None leaves the sharding to the
      compiler and assumes an accelerator.
  """
  compute = operands = jnp.dtype(dtype)
  if mesh is not None and sharding.is_on_cpu(mesh):
    compute = jnp.dtype('float32')
  dtypes = layers.Dtypes(jnp.dtype(param_dtype or dtype), compute, operands)
  found = kernels_lib.find(config, compute, mesh) if kernels else None
  model = decoder.Decoder(config, dtypes, lora, remat, mesh, found)
  take_apart = lambda params: params
  can_decode = bool(found and found.can_decode)
  if can_decode:
    join = not sharding.shares_outputs(mesh)
    take_apart = jax.jit(functools.partial(unstacked.take_apart, join=join))

  def init(key):
    tokens = jnp.zeros((1, 1), jnp.int32)
    method = decoder.Decoder.initialise
    return model.init(key, tokens, method=method)['params']

  def forward_chain(params, segments, context=()):
    hidden, pairs = model.apply({'params': params}, segments, context)
    return hidden, tuple(
      KeyValues(*pair, segment.lengths)
      for pair, segment in zip(pairs, segments, strict=True)
    )

  def forward(params, tokens_BT, lengths_B, context=()):
    (hidden_BTD,), (own,) = forward_chain(
      params, (Segment(tokens_BT, lengths_B),), context
    )
    return hidden_BTD, own

  def logits(params, hidden):
    method = decoder.Decoder.logits
    return model.apply({'params': params}, hidden, method=method)

  def init_cache(rows, slots):
    c = config
    shape = (c.num_layers, rows, c.num_kv_heads, slots, c.head_width)
    empty = jnp.zeros(shape, compute)
    return KeyValues(empty, empty, jnp.zeros((rows,), jnp.int32))

  return Policy(
    config=config,
    init=init,
    forward=forward,
    forward_chain=forward_chain,
    logits=logits,
    split_logits=_make_split_logits(model, logits),
    init_cache=init_cache,
    cast=functools.partial(_cast, dtypes),
    take_apart=take_apart,
    reads_live=can_decode,
  )


def _cast(dtypes: layers.Dtypes, params: Params) -> Params:
  """Casts parameters, see `Policy.cast`."""

  def one(path, x):
    name = path[-1].key
    if name == 'scale':
      return x  # norms are computed in float32
    if dtypes.rounds and name == 'bias':
      return x.astype(dtypes.compute)
    if dtypes.rounds and name != 'embedding':
      return products.to_bits(x)
    return x.astype(dtypes.operands)

  return jax.tree_util.tree_map_with_path(one, params)


def _make_split_logits(model: decoder.Decoder, logits):
  """Returns `Policy.split_logits`.

  Args:
    model: decoder whose logits are computed.
    logits: `Policy.logits`, used if devices do not split the vocabulary.
  """
  config, mesh = model.config, model.mesh
  if mesh is None or not sharding.splits_vocabulary(config.vocab_size, mesh):
    return lambda params, *, by_row=False: functools.partial(logits, params)
  name, axis = ('embedding', 0) if config.tied_embeddings else ('unembed', 1)
  method = functools.partial(decoder.Decoder.logits, keep_rows=False)

  def split_logits(params, *, by_row=False):
    split = lambda x: sharding.split_vocabulary(x, mesh, axis)
    params = params | {name: jax.tree.map(split, params[name])}

    def of_rows(hidden_MD):
      hidden_MD = sharding.share_rows(hidden_MD, mesh)
      logits_MV = model.apply({'params': params}, hidden_MD, method=method)
      logits_MV = sharding.split_logits(logits_MV, mesh)
      return sharding.logits_by_row(logits_MV, mesh) if by_row else logits_MV

    return of_rows

  return split_logits
