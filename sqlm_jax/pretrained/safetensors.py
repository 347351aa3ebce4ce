"""Reads Hugging Face directories: config.json and safetensors."""

import pathlib
import re
import reprlib
from typing import Any, NamedTuple

import ml_dtypes  # noqa: F401, makes bfloat16 known to NumPy
import numpy as np
import safetensors
import transformers

from sqlm_jax.pretrained import families, hf_values, model_files, names

_IMAGES = 'gemma3'
# Keys outside of `text_config` that also apply to the text model.
_SHARED_KEYS = ('tie_word_embeddings', 'quantization_config')
_ADAPTER = 'adapter_config.json'  # written by PEFT
_REQUIRED = (
  'vocab_size',
  'hidden_size',
  'intermediate_size',
  'num_hidden_layers',
  'num_attention_heads',
)


# Integers and narrower floats are quantized weights, which cannot be read
# without the scales in other tensors.
_DTYPES = ('F64', 'F32', 'F16', 'BF16')
# The library accepts headers of up to 100 MB, which may list millions of
# tensors. The header of a real model has about a hundred bytes for each tensor.
_MAX_HEADER_BYTES = 2**24


# Names of shards in an index, which must not lead to another directory.
_SHARD = re.compile(r'[^/\\\0]+\.safetensors')


class _Stored(NamedTuple):
  """The location of a tensor: a file, and the tensor's name in the file."""

  file: pathlib.Path
  handle: Any  # from safetensors.safe_open
  name: str


class DirectoryTensors:
  """The tensors of a directory's safetensors files, each read on demand."""

  def __init__(self, path: pathlib.Path):
    self.path = path
    has_config = model_files.is_present(path / 'config.json')
    if not has_config and model_files.is_present(path / _ADAPTER):
      raise ValueError(
        f'{path}: expected a complete model, found an adapter ({_ADAPTER}); '
        'merge it into its base model first'
      )
    self.hf_config = read_config(path / 'config.json')
    try:
      self.config = families.read(self.hf_config)
    except ValueError as error:
      raise ValueError(f'{path / "config.json"}: {error}') from None
    self._stored: dict[str, _Stored] = {}
    for file in _files(path):
      self._add(file)
    # A tied model may store its only matrix under either name.
    has_embedding = names.EMBEDDING in self._stored
    if self.config.tied_embeddings and not has_embedding:
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
          f'{file}: tensor {stored}: expected one tensor of this name, but '
          f'{other.file} has {other.name}, too'
        )
      self._stored[name] = _Stored(file, handle, stored)

  def names(self) -> set[str]:
    return set(self._stored)

  def shape(self, name: str) -> tuple[int, ...]:
    """Returns the shape of a tensor without reading it.

    Raises:
      ValueError: if weights cannot be read from the tensor's type.
    """
    stored = self._stored[name]
    tensor = stored.handle.get_slice(stored.name)
    if tensor.get_dtype() not in _DTYPES:
      raise ValueError(
        f'{stored.file}: tensor {stored.name}: {tensor.get_dtype()}: expected '
        f'one of {", ".join(_DTYPES)}; quantized weights are read only from '
        'GGUF files'
      )
    return tuple(tensor.get_shape())

  def read(self, name: str) -> np.ndarray:
    stored = self._stored[name]
    return stored.handle.get_tensor(stored.name)


def _open(file: pathlib.Path) -> Any:
  """Opens a safetensors file; the library checks its header."""
  model_files.size_of(file)
  with file.open('rb') as start:
    header_bytes = int.from_bytes(start.read(8), 'little')
  if header_bytes > _MAX_HEADER_BYTES:
    raise ValueError(
      f'{file}: expected a header of at most {_MAX_HEADER_BYTES} bytes, '
      f'found {header_bytes}'
    )
  try:
    return safetensors.safe_open(file, framework='numpy')
  except (OSError, safetensors.SafetensorError) as error:
    raise ValueError(
      f'{file}: expected a complete safetensors file, but it is truncated or '
      f'damaged ({error})'
    ) from None


def _text_name(name: str) -> str | None:
  """Returns a tensor's name in a text-only model, None for a vision tensor.

  Multimodal models have `language_model` in one of two places of the name.
  """
  if re.match(r'(model\.)?(vision_tower|multi_modal_projector)\.', name):
    return None
  name = name.removeprefix('language_model.')
  return name.replace('model.language_model.', 'model.', 1)


def _files(path: pathlib.Path) -> list[pathlib.Path]:
  """Returns model.safetensors or the shards; other files are ignored."""
  single, index = 'model.safetensors', 'model.safetensors.index.json'
  if model_files.is_present(path / single):
    return [path / single]
  if not model_files.is_present(path / index):
    other = ', '.join(sorted(file.name for file in path.glob('*.bin')))
    raise ValueError(
      f'{path}: expected {single} or {index}, found '
      + (f'{other}; save it as safetensors first' if other else 'neither')
    )
  shards = model_files.read_json(path / index).get('weight_map')
  if not isinstance(shards, dict) or not shards:
    raise ValueError(
      f'{path / index}: expected a weight_map from tensors to files, found '
      f'{reprlib.repr(shards)}'
    )
  for tensor, file in shards.items():
    if not isinstance(file, str) or not _SHARD.fullmatch(file):
      raise ValueError(
        f'{path / index}: weight_map.{tensor}={reprlib.repr(file)}: expected '
        'the name of a safetensors file in the same directory'
      )
  return sorted(path / name for name in set(shards.values()))


def read_generation_config(
  directory: pathlib.Path, vocab_size: int
) -> dict[str, Any]:
  """Reads the model's settings for sampling; {} if it has none.

  Raises:
    ValueError: if the file is damaged, or transformers could not read it.
  """
  path = directory / 'generation_config.json'
  values = model_files.read_optional_json(path)
  values = hf_values.drop_unusable_pad(values, vocab_size)
  try:
    hf_values.check_token_ids(values, vocab_size)
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from None
  try:
    transformers.GenerationConfig.from_dict(dict(values))
  # transformers checks little, so the error may have any type.
  except Exception as error:
    raise ValueError(
      f'{path}: expected settings that transformers accepts: {error!r}'
    ) from None
  return values


def has_images(directory: pathlib.Path) -> bool:
  """Returns True for a multimodal model, of which only the text is read."""
  config = model_files.read_optional_json(directory / 'config.json')
  return config.get('model_type') == _IMAGES


def read_config(path: pathlib.Path) -> transformers.PretrainedConfig:
  """Reads a config.json with the class of its family.

  Raises:
    ValueError: for an unknown family, a missing key or a value that is not
      allowed. The message names the file, the key and the value.
  """
  values = model_files.read_json(path)
  kind = values.get('model_type')
  text = values
  if kind == _IMAGES:
    text = values.get('text_config', {})
    if not isinstance(text, dict):
      raise ValueError(
        f'{path}: text_config={reprlib.repr(text)}: expected an object'
      )
    text = text | {'model_type': 'gemma3_text'}
    text |= {key: values[key] for key in _SHARED_KEYS if key in values}
  elif not isinstance(kind, str) or kind not in families.ARCHITECTURES:
    raise ValueError(
      f'{path}: model_type={kind!r}: expected one of '
      f'{", ".join((*families.ARCHITECTURES, _IMAGES))}'
    )
  else:
    # For a missing key, transformers would silently use a default size.
    for key in _REQUIRED:
      if key not in values:
        raise ValueError(f'{path}: key {key!r} is missing')
  try:
    return families.make_hf_config(text['model_type'], text)
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from None
