"""A table of the decoder's Hugging Face tensor names and layouts."""

import functools
import hashlib
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np

from sqlm_jax.models import model_config

# A parameter in pieces that are read one at a time. A piece is an index and an
# array: (layer,) and the layer's slice, or () and the complete parameter.
Pieces = Iterator[tuple[tuple[int, ...], np.ndarray]]


class Place(Protocol):
  """Assembles a parameter and places it, for example on devices."""

  def __call__(
    self, path: str, shape: tuple[int, ...], pieces: Pieces, /
  ) -> Any: ...


EMBEDDING = 'model.embed_tokens.weight'
UNEMBEDDING = 'lm_head.weight'


class Tensors(Protocol):
  """A model file: tensors by Hugging Face name, each read on demand."""

  path: pathlib.Path

  def names(self) -> set[str]: ...

  def shape(self, name: str) -> tuple[int, ...]: ...

  def read(self, name: str) -> np.ndarray: ...


class Tensor(NamedTuple):
  """A tensor to be written; `read` copies it to the host."""

  name: str
  shape: tuple[int, ...]
  read: Callable[[], np.ndarray]


class Entry(NamedTuple):
  """The location and layout of a parameter in a file.

  Linear weights are stored as [out, in]. The decoder's are [in, out], with a
  separate axis for heads.
  """

  path: tuple[str, ...]
  name: str  # {} stands for the layer
  stored: tuple[int, ...]  # shape in the file
  shape: tuple[int, ...]  # shape in the decoder, without the layer axis L
  is_linear: bool

  @property
  def is_layered(self) -> bool:
    return self.path[0] == 'layers'

  def from_file(self, array: np.ndarray) -> np.ndarray:
    return (array.T if self.is_linear else array).reshape(self.shape)

  def to_file(self, array: np.ndarray) -> np.ndarray:
    if self.is_linear:
      return array.reshape(self.stored[::-1]).T
    return array.reshape(self.stored)


def table(c: model_config.ModelConfig) -> list[Entry]:
  """Returns an entry for each parameter of a decoder."""
  vocabulary = (c.vocab_size, c.width)
  entries = [
    Entry(('embedding',), EMBEDDING, vocabulary, vocabulary, False),
    _scale(('final_norm',), 'model.norm', c.width),
    *_attention(c),
    *_mlp(c),
    *_norms(c),
  ]
  if not c.tied_embeddings:
    entries += _linear(
      ('unembed',), 'lm_head', stored=vocabulary, shape=vocabulary[::-1]
    )
  return entries


def _attention(c: model_config.ModelConfig) -> Iterator[Entry]:
  D, H = c.width, c.head_width
  path, prefix = ('layers', 'attention'), 'model.layers.{}.self_attn.'
  for name, short, count in (
    ('query', 'q', c.num_heads),
    ('key', 'k', c.num_kv_heads),
    ('value', 'v', c.num_kv_heads),
  ):
    yield from _linear(
      (*path, name),
      f'{prefix}{short}_proj',
      stored=(count * H, D),
      shape=(D, count, H),
      bias=(count, H) if c.qkv_bias else None,
    )
    if short != 'v' and c.qk_norm != 'none':
      width = H if c.qk_norm == 'head' else count * H
      yield _scale((*path, f'{name}_norm'), f'{prefix}{short}_norm', width)
  yield from _linear(
    (*path, 'output'),
    prefix + 'o_proj',
    stored=(D, c.num_heads * H),
    shape=(c.num_heads, H, D),
    bias=(D,) if c.output_bias else None,
  )


def _mlp(c: model_config.ModelConfig) -> Iterator[Entry]:
  D, F = c.width, c.mlp_width
  for name, stored in (('gate', (F, D)), ('up', (F, D)), ('down', (D, F))):
    yield from _linear(
      ('layers', 'mlp', name),
      f'model.layers.{{}}.mlp.{name}_proj',
      stored=stored,
      shape=stored[::-1],
      bias=stored[:1] if c.mlp_bias else None,
    )


def _norms(c: model_config.ModelConfig) -> Iterator[Entry]:
  # With pre-norm, `post_attention_layernorm` is applied before the MLP. With
  # post-norm, it is applied after the attention.
  names = {
    'pre': {
      'attention_norm': 'input_layernorm',
      'mlp_norm': 'post_attention_layernorm',
    },
    'post': {
      'attention_post_norm': 'post_attention_layernorm',
      'mlp_post_norm': 'post_feedforward_layernorm',
    },
    'both': {
      'attention_norm': 'input_layernorm',
      'attention_post_norm': 'post_attention_layernorm',
      'mlp_norm': 'pre_feedforward_layernorm',
      'mlp_post_norm': 'post_feedforward_layernorm',
    },
  }[c.norm_placement]
  for name, stored_name in names.items():
    yield _scale(('layers', name), 'model.layers.{}.' + stored_name, c.width)


def _scale(path: tuple[str, ...], name: str, width: int) -> Entry:
  return Entry((*path, 'scale'), name + '.weight', (width,), (width,), False)


def _linear(
  path: tuple[str, ...],
  name: str,
  *,
  stored: tuple[int, ...],
  shape: tuple[int, ...],
  bias: tuple[int, ...] | None = None,
) -> Iterator[Entry]:
  yield Entry((*path, 'kernel'), name + '.weight', stored, shape, True)
  if bias is not None:
    yield Entry((*path, 'bias'), name + '.bias', stored[:1], bias, False)


def in_memory(dtype: np.dtype) -> Place:
  """Returns a `Place` that assembles parameters as NumPy arrays."""

  def place(path: str, shape: tuple[int, ...], pieces: Pieces) -> np.ndarray:
    del path
    array = np.empty(shape, dtype)
    for at, piece in pieces:
      array[at] = piece
    return array

  return place


def check_tensors(config: model_config.ModelConfig, tensors: Tensors) -> None:
  """Checks that a file has the tensors of a model, without reading them.

  A config may claim sizes that do not fit into memory. After this check, the
  sizes of the config are known to match the file.

  Raises:
    ValueError: if a tensor is missing or unexpected, has a wrong shape, or has
      a type that cannot be read. The message names the tensor.
  """
  # Types come first, so that the scales of quantized weights are not reported.
  shapes = {name: tensors.shape(name) for name in sorted(tensors.names())}
  entries = table(config)
  _check_names(config, entries, tensors)
  for entry in entries:
    for layer in range(config.num_layers if entry.is_layered else 1):
      name = entry.name.format(layer)
      _check_shape(tensors, name, shape=shapes[name], expected=entry.stored)


def build_params(
  config: model_config.ModelConfig, tensors: Tensors, place: Place
) -> dict:
  """Reads a model file into the decoder's tree of parameters.

  Only one tensor of the file is in memory at a time, in addition to the arrays
  that `place` keeps.

  Args:
    config: the decoder's config.
    tensors: the model file.
    place: assembles a parameter and places it, for example sharded over
      devices, in its final dtype.

  Raises:
    ValueError: if a tensor is missing or unexpected, or has a wrong shape. The
      message names the tensor.
  """
  entries = table(config)
  _check_names(config, entries, tensors)
  if config.tied_embeddings and UNEMBEDDING in tensors.names():
    _check_tied(tensors)

  def read(entry: Entry, layer: int = 0) -> np.ndarray:
    name = entry.name.format(layer)
    array = tensors.read(name)
    _check_shape(tensors, name, shape=array.shape, expected=entry.stored)
    return entry.from_file(array)

  params = {}
  for entry in entries:
    if entry.is_layered:
      shape = (config.num_layers, *entry.shape)
      pieces = (((i,), read(entry, i)) for i in range(config.num_layers))
    else:
      shape = entry.shape
      pieces = (((), read(entry)) for _ in range(1))
    node = params
    for key in entry.path[:-1]:
      node = node.setdefault(key, {})
    node[entry.path[-1]] = place('/'.join(entry.path), shape, pieces)
  return params


def _check_names(
  config: model_config.ModelConfig, entries: Iterable[Entry], tensors: Tensors
) -> None:
  layers = range(config.num_layers)
  expected = {e.name.format(i) for e in entries for i in layers}
  harmless = {n for n in tensors.names() if n.endswith('rotary_emb.inv_freq')}
  if config.tied_embeddings:
    harmless.add(UNEMBEDDING)  # see `_check_tied`
  for name in sorted(tensors.names() - expected - harmless):
    raise ValueError(
      f'{tensors.path}: tensor {name}: unexpected, because a model of '
      f'{config} has no such tensor'
    )
  for name in sorted(expected - tensors.names()):
    raise ValueError(f'{tensors.path}: tensor {name}: missing')


def _check_shape(
  tensors: Tensors,
  name: str,
  *,
  shape: tuple[int, ...],
  expected: tuple[int, ...],
) -> None:
  if shape != expected:
    raise ValueError(
      f'{tensors.path}: tensor {name}: expected shape {expected}, found {shape}'
    )


def _check_tied(tensors: Tensors) -> None:
  """Checks that the head stored with a tied model equals the embedding."""

  # Digests are compared, so that only one tensor is in memory at a time.
  def digest(name: str) -> bytes:
    array = np.ascontiguousarray(tensors.read(name))
    return hashlib.sha256(array.view(np.uint8).data).digest()

  if digest(EMBEDDING) != digest(UNEMBEDDING):
    raise ValueError(
      f'{tensors.path}: tensor {UNEMBEDDING} differs from {EMBEDDING}: '
      'expected tie_word_embeddings=false in config.json'
    )


def file_tensors(
  config: model_config.ModelConfig, params: dict
) -> Iterator[Tensor]:
  """Yields the tensors of a model file; the inverse of `build_params`."""
  for entry in table(config):
    array = _leaf(params, entry.path)
    for layer in range(config.num_layers) if entry.is_layered else (None,):
      read = functools.partial(_take, array, layer, entry.to_file)
      yield Tensor(entry.name.format(layer), entry.stored, read)


def adapter_tensors(
  config: model_config.ModelConfig, adapters: dict
) -> Iterator[Tensor]:
  """Yields the tensors of a PEFT file: A is [r, in] and B is [out, r]."""
  for entry in table(config):
    if not (entry.is_layered and entry.is_linear):
      continue
    outputs, inputs = entry.stored
    adapter = _leaf(adapters, entry.path[:-1])
    rank = adapter['lora_a'].shape[-1]
    for layer in range(config.num_layers):
      name = entry.name.format(layer).removesuffix('.weight')
      for letter, key, shape in (
        ('A', 'lora_a', (rank, inputs)),
        ('B', 'lora_b', (outputs, rank)),
      ):
        yield Tensor(
          f'base_model.model.{name}.lora_{letter}.weight',
          shape,
          functools.partial(
            _take,
            adapter[key],
            layer,
            functools.partial(_transposed, shape=shape),
          ),
        )


def _transposed(array: np.ndarray, *, shape: tuple[int, ...]) -> np.ndarray:
  return array.reshape(shape[::-1]).T


def linear_names(config: model_config.ModelConfig) -> list[str]:
  """Returns the short names of the layers' linear maps, such as q_proj."""
  return [
    entry.name.split('.')[-2]
    for entry in table(config)
    if entry.is_layered and entry.is_linear
  ]


def _leaf(tree: dict[str, Any], path: tuple[str, ...]) -> Any:
  for key in path:
    tree = tree[key]
  return tree


def _take(
  array: Any,
  layer: int | None,
  transform: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
  """Copies one tensor to the host and applies `transform` to it."""
  return transform(np.asarray(array if layer is None else array[layer]))
