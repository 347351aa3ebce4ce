"""Hugging Face directories: config.json and safetensors."""

import json
import pathlib

import numpy as np
import safetensors

from sqlm_jax.models import config as model_config

_ARCHITECTURES = ('LlamaForCausalLM',)


class DirectoryTensors:
  """The safetensors of a directory, read when asked for."""

  def __init__(self, path: pathlib.Path):
    self.path = path
    self.config = read_config(path / 'config.json')
    self._files = {}
    for file in _files(path):
      if not file.exists():
        raise ValueError(f'{file}: missing')
      try:
        handle = safetensors.safe_open(file, framework='numpy')
      except (OSError, safetensors.SafetensorError) as error:
        raise ValueError(
          f'{file}: expected whole safetensors, this file is truncated or '
          f'damaged ({error})'
        ) from None
      self._files |= dict.fromkeys(handle.keys(), handle)

  def names(self) -> set[str]:
    return set(self._files)

  def read(self, name: str) -> np.ndarray:
    return self._files[name].get_tensor(name)


def _files(path: pathlib.Path) -> list[pathlib.Path]:
  """The one file or the shards; what else lies there is not the model."""
  whole, index = 'model.safetensors', 'model.safetensors.index.json'
  if (path / whole).exists():
    return [path / whole]
  if not (path / index).exists():
    raise ValueError(f'{path}: expected {whole} or {index}, found neither')
  shards = _read_json(path / index).get('weight_map')
  if not isinstance(shards, dict):
    raise ValueError(f'{path / index}: expected a weight_map')
  return sorted(path / name for name in set(shards.values()))


def _read_json(path: pathlib.Path) -> dict:
  try:
    found = json.loads(path.read_text())
  except FileNotFoundError:
    raise ValueError(f'{path}: missing') from None
  except ValueError as error:
    raise ValueError(f'{path}: expected JSON, {error}') from None
  if not isinstance(found, dict):
    raise ValueError(f'{path}: expected a JSON object')
  return found


def read_config(path: pathlib.Path) -> model_config.ModelConfig:
  """Reads sizes and choices from a config.json.

  Raises:
    ValueError: for an architecture or a choice that the decoder does not
      have, by file, key and value.
  """
  c = _read_json(path)

  def expect(key, value, allowed):
    if value not in allowed:
      choices = ', '.join(map(str, allowed))
      raise ValueError(f'{path}: {key}={value!r}: expected one of {choices}')

  for architecture in c.get('architectures') or [None]:
    expect('architectures', architecture, _ARCHITECTURES)
  # transformers 5 writes rope_parameters, older ones two keys.
  rope = c.get('rope_parameters') or c.get('rope_scaling') or {}
  kind = rope.get('rope_type', rope.get('type', 'default'))
  expect('rope_scaling', kind, ('default',))
  expect('hidden_act', c.get('hidden_act', 'silu'), ('silu',))
  for key in ('attention_bias', 'mlp_bias'):
    expect(key, c.get(key, False), (False,))
  try:
    num_heads, width = c['num_attention_heads'], c['hidden_size']
    return model_config.ModelConfig(
      vocab_size=c['vocab_size'],
      num_layers=c['num_hidden_layers'],
      width=width,
      mlp_width=c['intermediate_size'],
      num_heads=num_heads,
      num_kv_heads=c.get('num_key_value_heads') or num_heads,
      head_width=c.get('head_dim') or width // num_heads,
      rope_theta=rope.get('rope_theta', c.get('rope_theta', 10_000.0)),
      norm_epsilon=c.get('rms_norm_eps', 1e-6),
      tied_embeddings=c.get('tie_word_embeddings', False),
      context_length=c.get('max_position_embeddings', 2048),
    )
  except KeyError as error:
    raise ValueError(f'{path}: key {error} is missing') from None
  except (TypeError, ValueError, ZeroDivisionError) as error:
    raise ValueError(f'{path}: {error}') from None
