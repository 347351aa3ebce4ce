"""Hugging Face tensor names and layouts of a decoder, as one table."""

import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np

from sqlm_jax.models import config as model_config


class Tensors(Protocol):
  """A model file: tensors by their Hugging Face names, read when asked for."""

  path: pathlib.Path

  def names(self) -> set[str]: ...

  def read(self, name: str) -> np.ndarray: ...


class Entry(NamedTuple):
  """Where a parameter comes from.

  Linear weights are stored [out, in]; ours are [in, out], heads apart.
  """

  path: tuple[str, ...]
  name: str  # {} is the layer
  stored: tuple[int, ...]  # shape in the file
  convert: Callable[[np.ndarray], np.ndarray] = lambda x: x


def table(c: model_config.ModelConfig) -> list[Entry]:
  """All parameters of a Llama-like decoder."""
  D, F, H = c.width, c.mlp_width, c.head_width
  attention, mlp = 'model.layers.{}.self_attn.', 'model.layers.{}.mlp.'

  def heads(ours, theirs, count):
    return Entry(
      ('layers', 'attention', ours, 'kernel'),
      attention + theirs + '.weight',
      (count * H, D),
      lambda x: x.T.reshape(D, count, H),
    )

  def linear(ours, theirs, stored):
    path = ('layers', 'mlp', ours, 'kernel')
    return Entry(path, mlp + theirs + '.weight', stored, np.transpose)

  entries = [
    Entry(('embedding',), 'model.embed_tokens.weight', (c.vocab_size, D)),
    Entry(('final_norm', 'scale'), 'model.norm.weight', (D,)),
    heads('query', 'q_proj', c.num_heads),
    heads('key', 'k_proj', c.num_kv_heads),
    heads('value', 'v_proj', c.num_kv_heads),
    Entry(
      ('layers', 'attention', 'output', 'kernel'),
      attention + 'o_proj.weight',
      (D, c.num_heads * H),
      lambda x: x.T.reshape(c.num_heads, H, D),
    ),
    linear('gate', 'gate_proj', (F, D)),
    linear('up', 'up_proj', (F, D)),
    linear('down', 'down_proj', (D, F)),
    Entry(
      ('layers', 'attention_norm', 'scale'),
      'model.layers.{}.input_layernorm.weight',
      (D,),
    ),
    Entry(
      ('layers', 'mlp_norm', 'scale'),
      'model.layers.{}.post_attention_layernorm.weight',
      (D,),
    ),
  ]
  if not c.tied_embeddings:
    path = ('unembed', 'kernel')
    name = 'lm_head.weight'
    entries.append(Entry(path, name, (c.vocab_size, D), np.transpose))
  return entries


def build_params(
  config: model_config.ModelConfig,
  tensors: Tensors,
  *,
  dtype: np.dtype,
  place: Callable[[str, np.ndarray], Any] = lambda path, array: array,
) -> dict:
  """Reads a model file into the decoder's tree of parameters.

  Args:
    config: sizes of the model.
    tensors: the file.
    dtype: of the parameters.
    place: `(path, array) -> array` puts a finished parameter where it
      belongs, say on its shards; paths are joined by '/'.

  Raises:
    ValueError: for a missing, unexpected or misshapen tensor, by name.
  """
  entries = table(config)
  layers = range(config.num_layers)
  expected = {e.name.format(i) for e in entries for i in layers}
  harmless = {n for n in tensors.names() if n.endswith('rotary_emb.inv_freq')}
  if config.tied_embeddings:
    harmless.add('lm_head.weight')
  for name in sorted(tensors.names() - expected - harmless):
    raise ValueError(
      f'{tensors.path}: tensor {name}: unexpected, a model of {config} has '
      'no such tensor'
    )
  for name in sorted(expected - tensors.names()):
    raise ValueError(f'{tensors.path}: tensor {name}: missing')

  def read(entry, layer=0):
    name = entry.name.format(layer)
    array = tensors.read(name)
    if array.shape != entry.stored:
      raise ValueError(
        f'{tensors.path}: tensor {name}: shape {array.shape}, expected '
        f'{entry.stored}'
      )
    return entry.convert(array).astype(dtype)

  params = {}
  for entry in entries:
    if entry.path[0] == 'layers':
      array = np.stack([read(entry, layer) for layer in layers])
    else:
      array = read(entry)
    node = params
    for key in entry.path[:-1]:
      node = node.setdefault(key, {})
    node[entry.path[-1]] = place('/'.join(entry.path), array)
  return params
