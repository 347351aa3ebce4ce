"""Policies: language models as pure functions of a parameter tree."""

import functools
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from sqlm_jax.distributed import sharding
from sqlm_jax.models import attention, decoder, layers, model_config, unstacked
from sqlm_jax.models import kernels as kernels_lib
from sqlm_jax.ops import products

Params = Any  # a nested dict of arrays
KeyValues = attention.KeyValues
Segment = attention.Segment


class Init(Protocol):
  """Creates random parameters."""

  def __call__(self, key: jax.Array) -> Params:
    """Returns random parameters.

    Args:
      key: a PRNG key.
    """


class Forward(Protocol):
  """Runs a model over one segment."""

  def __call__(
    self,
    params: Params,
    tokens_BT: jax.Array,
    lengths_B: jax.Array,
    context: tuple[KeyValues, ...] = (),
  ) -> tuple[jax.Array, KeyValues]:
    """Returns the hidden states [B, T, D], and the keys and values.

    Args:
      params: parameters.
      tokens_BT: right-padded tokens.
      lengths_B: number of tokens of each row. Results after a row's length are
        computed but arbitrary.
      context: earlier segments, whose rows are shared by consecutive rows of
        the batch. Positions continue where the context ends.
    """


class ForwardChain(Protocol):
  """Runs a model over several segments, and reads its weights once."""

  def __call__(
    self,
    params: Params,
    segments: tuple[Segment, ...],
    context: tuple[KeyValues, ...] = (),
  ) -> tuple[tuple[jax.Array, ...], tuple[KeyValues, ...]]:
    """Returns hidden states, and keys and values, one of each per segment.

    Args:
      params: parameters.
      segments: segments, each of which is context of the later ones.
      context: earlier segments, as for `Forward`.
    """


class Logits(Protocol):
  """Computes logits from hidden states."""

  def __call__(self, params: Params, hidden: jax.Array) -> jax.Array:
    """Returns the logits [..., V].

    The logits are bfloat16 if an accelerator computes in bfloat16; sum them in
    float32.

    Args:
      params: parameters.
      hidden: hidden states [..., D].
    """


class RowLogits(Protocol):
  """Computes the logits of rows."""

  def __call__(self, hidden_MD: jax.Array, /) -> jax.Array:
    """Returns the logits [M, V]."""


class SplitLogits(Protocol):
  """Computes logits that are split over the vocabulary."""

  def __call__(self, params: Params, *, by_row: bool = False) -> RowLogits:
    """Returns the function that computes the logits of rows.

    Devices that share parameters (`fsdp`) exchange their rows, and each
    computes its part of the vocabulary for all of them, so that rows are
    communicated instead of the unembedding.

    Args:
      params: parameters.
      by_row: each device then receives the logits of its own rows.
    """


class InitCache(Protocol):
  """Creates a segment to decode into."""

  def __call__(self, rows: int, slots: int) -> KeyValues:
    """Returns an empty segment of `rows` rows with `slots` slots each."""


class MapParams(Protocol):
  """Converts parameters."""

  def __call__(self, params: Params) -> Params:
    """Returns the converted parameters."""


class Policy(NamedTuple):
  """A language model as pure functions.

  Attributes:
    config: configuration of the model.
    init: creates random parameters.
    forward: runs the model over one segment.
    forward_chain: runs the model over several segments.
    logits: computes logits from hidden states.
    split_logits: computes logits that are split over the vocabulary.
    init_cache: creates a segment to decode into.
    cast: casts parameters to the dtype they are computed in, once before they
      are used many times.
    unstack: prepares parameters for decoding one token per row at a time,
      see `unstacked.unstack`. Returns them unchanged if this saves no time.
    reads_live: True if decoding reads only the live slots of the cache, so that
      unused capacity costs no time.
  """

  config: model_config.ModelConfig
  init: Init
  forward: Forward
  forward_chain: ForwardChain
  logits: Logits
  split_logits: SplitLogits
  init_cache: InitCache
  cast: MapParams
  unstack: MapParams
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
  """Returns the policy of a model configuration.

  Args:
    config: configuration of the model.
    dtype: dtype of activations, cache and matrix products. On a CPU, bfloat16
      applies only to the operands of products with parameters, see `_dtypes`.
    param_dtype: dtype that parameters are stored in; None means `dtype`.
    remat: rematerialization policy, a key of `decoder.REMAT`.
    kernels: use the attention kernels found by `kernels.find`, if any.
    lora: low-rank adapters for all linear maps of the blocks. `init` creates
      them as well; `forward` skips them if the parameters contain none.
    mesh: mesh that rows are split over. None leaves the sharding to the
      compiler and assumes an accelerator.
  """
  dtypes = _dtypes(dtype, param_dtype, mesh)
  found_kernels = None
  if kernels:
    found_kernels = kernels_lib.find(config, dtypes.compute, mesh)
  model = decoder.Decoder(config, dtypes, lora, remat, mesh, found_kernels)
  can_decode = found_kernels is not None and found_kernels.can_decode
  unstack: MapParams = _unchanged
  if mesh is not None and can_decode:
    unstack = _make_unstack(mesh)

  def init(key: jax.Array) -> Params:
    tokens = jnp.zeros((1, 1), jnp.int32)
    method = decoder.Decoder.initialize
    return model.init(key, tokens, method=method)['params']

  def forward_chain(
    params: Params,
    segments: tuple[Segment, ...],
    context: tuple[KeyValues, ...] = (),
  ) -> tuple[tuple[jax.Array, ...], tuple[KeyValues, ...]]:
    hidden, pairs = _apply(model, params, segments, context)
    return hidden, tuple(
      KeyValues(*pair, segment.lengths)
      for pair, segment in zip(pairs, segments, strict=True)
    )

  def forward(
    params: Params,
    tokens_BT: jax.Array,
    lengths_B: jax.Array,
    context: tuple[KeyValues, ...] = (),
  ) -> tuple[jax.Array, KeyValues]:
    (hidden_BTD,), (keys_values,) = forward_chain(
      params, (Segment(tokens_BT, lengths_B),), context
    )
    return hidden_BTD, keys_values

  def logits(params: Params, hidden: jax.Array) -> jax.Array:
    method = decoder.Decoder.logits
    return _apply(model, params, hidden, method=method)

  return Policy(
    config=config,
    init=init,
    forward=forward,
    forward_chain=forward_chain,
    logits=logits,
    split_logits=_make_split_logits(model, logits),
    init_cache=functools.partial(_init_cache, config, dtypes),
    cast=functools.partial(_cast, dtypes),
    unstack=unstack,
    reads_live=can_decode,
  )


def _apply(
  model: decoder.Decoder, params: Params, *arguments: Any, **options: Any
) -> Any:
  """Returns the output of a model.

  Flax's `apply` may also return changed variables, so its type is a union.
  """
  return model.apply({'params': params}, *arguments, **options)


def _dtypes(
  dtype: str, param_dtype: str | None, mesh: jax.sharding.Mesh | None
) -> layers.Dtypes:
  """Returns the dtypes of a policy.

  On a CPU, only the operands of products with parameters have the given dtype.
  Everything else is float32, see `ops.products`.
  """
  compute = operands = jnp.dtype(dtype)
  if mesh is not None and sharding.is_on_cpu(mesh):
    compute = jnp.dtype('float32')
  return layers.Dtypes(jnp.dtype(param_dtype or dtype), compute, operands)


def _make_unstack(mesh: jax.sharding.Mesh) -> MapParams:
  """Returns `Policy.unstack`, for a device whose kernels decode."""
  join = not sharding.splits_outputs(mesh)
  return jax.jit(functools.partial(unstacked.unstack, join=join))


def _init_cache(
  config: model_config.ModelConfig,
  dtypes: layers.Dtypes,
  rows: int,
  slots: int,
) -> KeyValues:
  """Returns an empty cache, see `Policy.init_cache`."""
  c = config
  shape = (c.num_layers, rows, c.num_kv_heads, slots, c.head_width)
  empty = jnp.zeros(shape, dtypes.compute)
  return KeyValues(empty, empty, jnp.zeros((rows,), jnp.int32))


def _unchanged(params: Params) -> Params:
  return params


def _cast(dtypes: layers.Dtypes, params: Params) -> Params:
  """Casts parameters, see `Policy.cast`."""

  def cast_leaf(path: tuple[Any, ...], x: jax.Array) -> jax.Array:
    name = path[-1].key
    if name == 'scale':
      return x  # norms are computed in float32
    if dtypes.rounds and name == 'bias':
      return x.astype(dtypes.compute)
    if dtypes.rounds and name != 'embedding':
      return products.to_bits(x)
    return x.astype(dtypes.operands)

  return jax.tree_util.tree_map_with_path(cast_leaf, params)


def _make_split_logits(model: decoder.Decoder, logits: Logits) -> SplitLogits:
  """Returns `Policy.split_logits`.

  Args:
    model: decoder whose logits are computed.
    logits: `Policy.logits`, used if devices do not split the vocabulary.
  """
  config, mesh = model.config, model.mesh
  if mesh is None or not sharding.splits_vocabulary(config.vocab_size, mesh):

    def whole_logits(params: Params, *, by_row: bool = False) -> RowLogits:
      del by_row  # every device has the logits of its rows anyway
      return functools.partial(logits, params)

    return whole_logits
  name, axis = ('embedding', 0) if config.tied_embeddings else ('unembed', 1)
  method = functools.partial(decoder.Decoder.logits, keep_rows=False)

  def split_logits(params: Params, *, by_row: bool = False) -> RowLogits:
    unembedding = jax.tree.map(
      lambda x: sharding.split_vocabulary(x, mesh, axis), params[name]
    )
    params = params | {name: unembedding}

    def of_rows(hidden_MD: jax.Array) -> jax.Array:
      hidden_MD = sharding.share_rows(hidden_MD, mesh)
      logits_MV = _apply(model, params, hidden_MD, method=method)
      logits_MV = sharding.split_logits(logits_MV, mesh)
      return sharding.logits_by_row(logits_MV, mesh) if by_row else logits_MV

    return of_rows

  return split_logits
