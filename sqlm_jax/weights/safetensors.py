"""Hugging Face directories: config.json and safetensors."""

import json
import pathlib
import re

import ml_dtypes  # noqa: F401, makes bfloat16 known to NumPy
import numpy as np
import safetensors
import transformers

from sqlm_jax.weights import families

_IMAGES = 'gemma3'
# What a config of images and text says of both.
_OF_THE_WHOLE = ('tie_word_embeddings', 'quantization_config')
_REQUIRED = (
  'vocab_size',
  'hidden_size',
  'intermediate_size',
  'num_hidden_layers',
  'num_attention_heads',
)


class DirectoryTensors:
  """The safetensors of a directory, read when asked for."""

  def __init__(self, path: pathlib.Path):
    self.path = path
    self.hf_config = read_config(path / 'config.json')
    try:
      self.config = families.read(self.hf_config)
    except (TypeError, ValueError, ZeroDivisionError) as error:
      raise ValueError(f'{path / "config.json"}: {error}') from None
    self._stored = {}  # name -> the file's handle, and its name there
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
      self._stored |= {
        name: (handle, stored)
        for stored in handle.keys()  # noqa: SIM118, the handle is no mapping
        if (name := _text_name(stored))
      }

  def names(self) -> set[str]:
    return set(self._stored)

  def read(self, name: str) -> np.ndarray:
    handle, stored = self._stored[name]
    return handle.get_tensor(stored)


def _text_name(name: str) -> str | None:
  """The name in a model of text alone; None for what images need.

  Models of images and text say `language_model` in one of two places.
  """
  if re.match(r'(model\.)?(vision_tower|multi_modal_projector)\.', name):
    return None
  name = name.removeprefix('language_model.')
  return name.replace('model.language_model.', 'model.', 1)


def _files(path: pathlib.Path) -> list[pathlib.Path]:
  """The one file or the shards; what else lies there is not the model."""
  whole, index = 'model.safetensors', 'model.safetensors.index.json'
  if (path / whole).exists():
    return [path / whole]
  if not (path / index).exists():
    other = ', '.join(sorted(file.name for file in path.glob('*.bin')))
    raise ValueError(
      f'{path}: expected {whole} or {index}, found '
      + (f'{other}: save them as safetensors first' if other else 'neither')
    )
  shards = _read_json(path / index).get('weight_map')
  if not isinstance(shards, dict):
    raise ValueError(f'{path / index}: expected a weight_map')
  return sorted(path / name for name in set(shards.values()))


def _read_json(path: pathlib.Path) -> dict:
  try:
    found = json.loads(path.read_text(encoding='utf-8'))
  except FileNotFoundError:
    raise ValueError(f'{path}: missing') from None
  except ValueError as error:
    raise ValueError(f'{path}: expected JSON, {error}') from None
  if not isinstance(found, dict):
    raise ValueError(f'{path}: expected a JSON object')
  return found


def read_generation_config(directory: pathlib.Path) -> dict:
  """How a model wants to be sampled; {} where nothing is said.

  Raises:
    ValueError: if the file is damaged.
  """
  path = directory / 'generation_config.json'
  return _read_json(path) if path.exists() else {}


def has_images(directory: pathlib.Path) -> bool:
  """Whether a model is the text part of one of images and text."""
  path = directory / 'config.json'
  return path.exists() and _read_json(path).get('model_type') == _IMAGES


def read_config(path: pathlib.Path) -> transformers.PretrainedConfig:
  """Reads a config.json with the class of its family.

  Raises:
    ValueError: for a family that is not known or a key that is missing or
      makes no sense, by file, key and value.
  """
  found = _read_json(path)
  kind = found.get('model_type')
  text = found
  if kind == _IMAGES:  # a model of images and text, of which this is the text
    text = found.get('text_config', {}) | {'model_type': 'gemma3_text'}
    text |= {key: found[key] for key in _OF_THE_WHOLE if key in found}
  elif kind not in families.ARCHITECTURES:
    raise ValueError(
      f'{path}: model_type={kind!r}: expected one of '
      f'{", ".join((*families.ARCHITECTURES, _IMAGES))}'
    )
  else:
    # Else they would silently be those of some other model.
    for key in _REQUIRED:
      if key not in found:
        raise ValueError(f'{path}: key {key!r} is missing')
  try:
    return families.make_hf_config(text['model_type'], text)
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from None
