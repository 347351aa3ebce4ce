"""Opens a model from a path, or a random model."""

import dataclasses
import functools
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import transformers

from sqlm_jax.config import schema as config_lib
from sqlm_jax.distributed import sharding, transfers
from sqlm_jax.models import layers, lora, model_config
from sqlm_jax.models import policy as policy_lib
from sqlm_jax.pretrained import catalog, families, gguf_file, loader, tokenizer


def lora_of(config: config_lib.Config) -> layers.Lora | None:
  """Returns the settings of the adapters, None without adapters."""
  adapter = config.model.lora
  if not adapter.rank:
    return None
  return layers.Lora(adapter.rank, adapter.alpha)


class LoadParams(Protocol):
  """Loads the parameters of the model in a dtype, directly onto their shards.

  Frozen scales and biases may have a wider dtype.
  """

  def __call__(self, dtype: str) -> policy_lib.Params: ...


class Opened(NamedTuple):
  """The fields of `build.Parts` that depend on the files of the model."""

  tokens: tokenizer.Tokenizer
  policy: policy_lib.Policy
  sampling_policy: policy_lib.Policy
  hf_config: transformers.PretrainedConfig
  generation: dict[str, Any]
  load_params: LoadParams
  path: pathlib.Path | None  # file or directory of the model, None if random


def open_model(config: config_lib.Config, mesh: jax.sharding.Mesh) -> Opened:
  """Opens the model of a config, without loading its parameters."""
  if config.model.path == 'random':
    return _random_model(config, mesh)
  path = catalog.resolve(config.model.path)
  with gguf_file.read_once():
    checkpoint = loader.open_checkpoint(path)
    tokens = tokenizer.load_tokenizer(
      path,
      trusted=config.model.path in catalog.MODELS,
      needs_chat=config.task.style == 'chat',
    )
  try:
    tokens = tokenizer.cut(tokens, checkpoint.config.vocab_size)
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from None
  unused = checkpoint.config.vocab_size - tokens.vocab_size
  # Embeddings are padded: rows without a token decode to an empty string.
  tokens = tokens._replace(token_bytes=tokens.token_bytes + (b'',) * unused)

  def load(dtype: str) -> policy_lib.Params:
    def place(
      path: str,
      shape: tuple[int, ...],
      pieces: Iterator[tuple[tuple[int, ...], np.ndarray]],
    ) -> jax.Array:
      name = path.split('/')[-1]
      return transfers.place_parameter(
        path,
        shape,
        pieces,
        dtype=_stored_dtype(name, dtype, config.model.param_dtype),
        mesh=mesh,
      )

    return checkpoint.params(place)

  policies = _make_policies(config, checkpoint.config, mesh)
  hf_config, generation = checkpoint.hf_config, checkpoint.generation
  return Opened(tokens, *policies, hf_config, generation, load, path)


def _random_model(config: config_lib.Config, mesh: jax.sharding.Mesh) -> Opened:
  """Returns a randomly initialized model with a byte-level tokenizer."""
  tokens = tokenizer.byte_tokenizer()
  sizes = dataclasses.asdict(config.random_model)
  try:
    model = model_config.ModelConfig(vocab_size=tokens.vocab_size, **sizes)
  except ValueError as error:
    raise ValueError(f'random_model.{error}') from None
  policies = _make_policies(config, model, mesh)
  key = jax.random.key(config.seed)

  @functools.partial(jax.jit, static_argnums=0)
  def load(dtype: str) -> policy_lib.Params:
    params = jax.tree_util.tree_map_with_path(
      lambda path, x: x.astype(
        _stored_dtype(path[-1].key, dtype, config.model.param_dtype)
      ),
      lora.base(policies[0].init(key)),
    )
    shardings = sharding.shard_parameters(params, mesh)
    return jax.lax.with_sharding_constraint(params, shardings)

  return Opened(tokens, *policies, families.llama(model), {}, load, None)


def _stored_dtype(name: str, dtype: str, param_dtype: str) -> jnp.dtype:
  """Returns the dtype in which a parameter is stored.

  Frozen scales and biases are at least as wide as trained ones. They are not
  cast before use, so a reference policy with bfloat16 scales would differ from
  the policy before its first update.
  """
  if name in ('scale', 'bias'):
    return jnp.promote_types(dtype, param_dtype)
  return jnp.dtype(dtype)


def _make_policies(
  config: config_lib.Config,
  model: model_config.ModelConfig,
  mesh: jax.sharding.Mesh,
) -> tuple[policy_lib.Policy, policy_lib.Policy]:
  """Returns the policies for training and sampling, which differ in dtype."""
  make = functools.partial(
    policy_lib.make_policy,
    model,
    param_dtype=config.model.param_dtype,
    remat=config.model.remat,
    kernels=config.model.kernels,
    lora=lora_of(config),
    mesh=mesh,
  )
  dtype = config.model.dtype
  return make(dtype=dtype), make(dtype=config.sampler.dtype or dtype)
