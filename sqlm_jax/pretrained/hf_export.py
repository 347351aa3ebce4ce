"""Writes parameters as Hugging Face and PEFT directories."""

import math
import pathlib
from collections.abc import Iterable
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors.numpy
import transformers
from huggingface_hub import serialization

from sqlm_jax.models import layers, model_config
from sqlm_jax.pretrained import families, names
from sqlm_jax.text import json_text

DTYPES = ('float32', 'bfloat16', 'float16')
# The hub's usual shard size. The host holds one shard at a time.
_SHARD_BYTES = 5 * 10**9


def write_model(
  directory: pathlib.Path,
  config: model_config.ModelConfig,
  hf_config: transformers.PretrainedConfig,
  params: dict,
  *,
  dtype: str,
  shard_bytes: int = _SHARD_BYTES,
) -> None:
  """Writes config.json and safetensors, with an index if there are shards.

  Args:
    directory: an existing directory.
    config: the decoder's config.
    hf_config: the corresponding Hugging Face config.
    params: the decoder's parameters, without adapters.
    dtype: the dtype of the written tensors, one of `DTYPES`.
    shard_bytes: the maximum size of a file in bytes. A file exceeds it only if
      a single tensor does.
  """
  values = hf_config.to_diff_dict() | _older_rope_keys(hf_config)
  values['architectures'] = [families.ARCHITECTURES[hf_config.model_type]]
  # transformers 4 reads `torch_dtype`, transformers 5 reads `dtype`.
  values |= {'dtype': dtype, 'torch_dtype': dtype}
  write_json(directory / 'config.json', values)
  tensors = {t.name: t for t in names.file_tensors(config, params)}
  plan = serialization.split_state_dict_into_shards_factory(
    tensors,
    get_storage_size=lambda t: math.prod(t.shape) * jnp.dtype(dtype).itemsize,
    filename_pattern='model{suffix}.safetensors',
    max_shard_size=shard_bytes,
  )
  for file, members in plan.filename_to_tensors.items():
    _save(directory / file, (tensors[name] for name in members), dtype)
  if plan.is_sharded:
    index = {'metadata': plan.metadata, 'weight_map': plan.tensor_to_filename}
    write_json(directory / 'model.safetensors.index.json', index)


def write_adapter(
  directory: pathlib.Path,
  config: model_config.ModelConfig,
  adapters: dict,
  lora: layers.Lora,
  *,
  base: str,
  revision: str | None = None,
) -> None:
  """Writes adapters in float32, in the format that the PEFT library loads.

  Args:
    directory: an existing directory.
    config: the decoder's config.
    adapters: the adapter parameters, see `models.lora`.
    lora: the rank and scale of the adapters.
    base: the path or hub id of the base model.
    revision: the base model's revision on the hub, if any.
  """
  values = {
    'peft_type': 'LORA',
    'task_type': 'CAUSAL_LM',
    'base_model_name_or_path': base,
    'revision': revision,
    'r': lora.rank,
    'lora_alpha': lora.alpha,
    'lora_dropout': 0.0,
    'bias': 'none',
    'target_modules': names.linear_names(config),
    'inference_mode': True,
  }
  write_json(directory / 'adapter_config.json', values)
  tensors = names.adapter_tensors(config, adapters)
  _save(directory / 'adapter_model.safetensors', tensors, 'float32')


def write_json(path: pathlib.Path, values: dict[str, Any]) -> None:
  text = json_text.dumps(values, indent=2, sort_keys=True) + '\n'
  path.write_text(text, encoding='utf-8')


def _save(
  path: pathlib.Path, tensors: Iterable[names.Tensor], dtype: str
) -> None:
  arrays = {
    t.name: np.ascontiguousarray(t.read(), jnp.dtype(dtype)) for t in tensors
  }
  path.touch()
  mode = path.stat().st_mode  # follows the user's umask
  # transformers refuses a file whose metadata does not state the format.
  safetensors.numpy.save_file(arrays, path, metadata={'format': 'pt'})
  path.chmod(mode)  # safetensors writes files that only their owner may read


def _older_rope_keys(hf_config: transformers.PretrainedConfig) -> dict:
  """Returns the RoPE keys that tools older than transformers 5 read."""
  parameters = hf_config.rope_parameters
  keys = {}
  if 'full_attention' in parameters:
    keys['rope_local_base_freq'] = parameters['sliding_attention']['rope_theta']
    parameters = parameters['full_attention']
  keys['rope_theta'] = parameters['rope_theta']
  if parameters['rope_type'] != 'default':
    scaling = {k: v for k, v in parameters.items() if k != 'rope_theta'}
    keys['rope_scaling'] = scaling
  return keys
