"""Hugging Face directories: config.json and safetensors."""

import pathlib
import re
import reprlib
from typing import Any, NamedTuple

import ml_dtypes  # noqa: F401, makes bfloat16 known to NumPy
import numpy as np
import safetensors
import transformers

from sqlm_jax import model_files
from sqlm_jax.weights import families, hf_values, names

_IMAGES = 'gemma3'
# What a config of images and text says of both.
_OF_THE_WHOLE = ('tie_word_embeddings', 'quantization_config')
_ADAPTER = 'adapter_config.json'  # of PEFT
_REQUIRED = (
  'vocab_size',
  'hidden_size',
  'intermediate_size',
  'num_hidden_layers',
  'num_attention_heads',
)


# The types that weights are read from. Integers and narrower floats are
# quantized, and mean nothing without scales that other tensors hold.
_DTYPES = ('F64', 'F32', 'F16', 'BF16')
# The library refuses headers of more than 100 MB, but one of less can still
# hold millions of tensors. That of a model has a hundred bytes a tensor.
_MAX_HEADER_BYTES = 2**24


# What an index may call a file. Folders hold copies of the weights.
_SHARD = re.compile(r'[^/\\\0]+\.safetensors')


class _Stored(NamedTuple):
  """Where a tensor is stored: its file, and its name there."""

  file: pathlib.Path
  handle: Any  # of safetensors.safe_open
  name: str


class DirectoryTensors:
  """The safetensors of a directory, read when asked for."""

  def __init__(self, path: pathlib.Path):
    self.path = path
    is_whole = model_files.is_present(path / 'config.json')
    if not is_whole and model_files.is_present(path / _ADAPTER):
      raise ValueError(
        f'{path}: expected a whole model, this is an adapter ({_ADAPTER}): '
        'merge it into its base first'
      )
    self.hf_config = read_config(path / 'config.json')
    try:
      self.config = families.read(self.hf_config)
    except ValueError as error:
      raise ValueError(f'{path / "config.json"}: {error}') from None
    self._stored: dict[str, _Stored] = {}
    for file in _files(path):
      self._add(file)
    # A tied model may store the one matrix under either name.
    is_head_alone = names.EMBEDDING not in self._stored
    if self.config.tied_embeddings and is_head_alone:
      head = self._stored.pop(names.UNEMBEDDING, None)
      self._stored |= {names.EMBEDDING: head} if head else {}

  def _add(self, file: pathlib.Path) -> None:
    """Adds the tensors of a file, without reading them."""
    handle = _open(file)
    for stored in handle.keys():  # noqa: SIM118, the handle is no mapping
      name = _text_name(stored)
      if name is None:
        continue
      if name in self._stored:
        other = self._stored[name]
        raise ValueError(
          f'{file}: tensor {stored}: expected once, {other.file} has '
          f'{other.name}, too'
        )
      self._stored[name] = _Stored(file, handle, stored)

  def names(self) -> set[str]:
    return set(self._stored)

  def shape(self, name: str) -> tuple[int, ...]:
    """Returns the shape of a tensor without reading it.

    Raises:
      ValueError: if its type is not one that weights are read from.
    """
    stored = self._stored[name]
    tensor = stored.handle.get_slice(stored.name)
    if tensor.get_dtype() not in _DTYPES:
      raise ValueError(
        f'{stored.file}: tensor {stored.name}: {tensor.get_dtype()}, expected '
        f'one of {", ".join(_DTYPES)}: quantized weights are read from GGUF '
        'files alone'
      )
    return tuple(tensor.get_shape())

  def read(self, name: str) -> np.ndarray:
    stored = self._stored[name]
    return stored.handle.get_tensor(stored.name)


def _open(file: pathlib.Path) -> Any:
  """Opens a file of safetensors, whose library checks that all fits."""
  model_files.size_of(file)
  with file.open('rb') as start:
    header_bytes = int.from_bytes(start.read(8), 'little')
  if header_bytes > _MAX_HEADER_BYTES:
    raise ValueError(
      f'{file}: expected whole safetensors with a header of at most '
      f'{_MAX_HEADER_BYTES} bytes, this one has {header_bytes}'
    )
  try:
    return safetensors.safe_open(file, framework='numpy')
  except (OSError, safetensors.SafetensorError) as error:
    raise ValueError(
      f'{file}: expected whole safetensors, this file is truncated or '
      f'damaged ({error})'
    ) from None


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
  if model_files.is_present(path / whole):
    return [path / whole]
  if not model_files.is_present(path / index):
    other = ', '.join(sorted(file.name for file in path.glob('*.bin')))
    raise ValueError(
      f'{path}: expected {whole} or {index}, found '
      + (f'{other}: save them as safetensors first' if other else 'neither')
    )
  shards = model_files.read_json(path / index).get('weight_map')
  if not isinstance(shards, dict) or not shards:
    raise ValueError(
      f'{path / index}: expected a weight_map from tensors to files, found '
      f'{reprlib.repr(shards)}'
    )
  for tensor, file in shards.items():
    # A path would lead out of the directory that the user named.
    if not isinstance(file, str) or not _SHARD.fullmatch(file):
      raise ValueError(
        f'{path / index}: weight_map.{tensor}={reprlib.repr(file)}: expected '
        'the name of a safetensors file in the same directory'
      )
  return sorted(path / name for name in set(shards.values()))


def read_generation_config(
  directory: pathlib.Path, vocab_size: int
) -> dict[str, Any]:
  """Reads how a model wants to be sampled; {} where nothing is said.

  Raises:
    ValueError: if the file is damaged, or transformers could not read it.
  """
  path = directory / 'generation_config.json'
  if not model_files.is_present(path):
    return {}
  found = model_files.read_json(path)
  try:
    hf_values.check_token_ids(found, vocab_size)
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from None
  try:
    transformers.GenerationConfig.from_dict(dict(found))
  except Exception as error:  # of any type: transformers checks little itself
    raise ValueError(
      f'{path}: expected settings that transformers reads, {error!r}'
    ) from None
  return found


def has_images(directory: pathlib.Path) -> bool:
  """Returns True if a model is the text half of one of images and text."""
  path = directory / 'config.json'
  if not model_files.is_present(path):
    return False
  return model_files.read_json(path).get('model_type') == _IMAGES


def read_config(path: pathlib.Path) -> transformers.PretrainedConfig:
  """Reads a config.json with the class of its family.

  Raises:
    ValueError: for a family that is not known or a key that is missing or
      makes no sense, by file, key and value.
  """
  found = model_files.read_json(path)
  kind = found.get('model_type')
  text = found
  if kind == _IMAGES:  # a model of images and text, of which this is the text
    text = found.get('text_config', {})
    if not isinstance(text, dict):
      raise ValueError(
        f'{path}: text_config={reprlib.repr(text)}: expected an object'
      )
    text = text | {'model_type': 'gemma3_text'}
    text |= {key: found[key] for key in _OF_THE_WHOLE if key in found}
  elif not isinstance(kind, str) or kind not in families.ARCHITECTURES:
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
