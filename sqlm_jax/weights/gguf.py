"""GGUF files: sizes and tensors under their Hugging Face names."""

import pathlib
import re
from typing import Any

import gguf
import numpy as np

from sqlm_jax.models import config as model_config

_NAMES = {
  'token_embd': 'model.embed_tokens',
  'output_norm': 'model.norm',
  'output': 'lm_head',
  'attn_q': 'self_attn.q_proj',
  'attn_k': 'self_attn.k_proj',
  'attn_v': 'self_attn.v_proj',
  'attn_output': 'self_attn.o_proj',
  'ffn_gate': 'mlp.gate_proj',
  'ffn_up': 'mlp.up_proj',
  'ffn_down': 'mlp.down_proj',
  'attn_norm': 'input_layernorm',
  'ffn_norm': 'post_attention_layernorm',
}


class GGUFTensors:
  """A GGUF file of a Llama-like model, its tensors read when asked for."""

  def __init__(self, path: pathlib.Path):
    try:
      reader = gguf.GGUFReader(path)
      # The data of a truncated file is missed only when it is touched.
      self._tensors = {hf_name(t.name): t for t in reader.tensors}
    except (ValueError, KeyError, IndexError, OverflowError) as error:
      raise ValueError(f'{path}: expected a whole GGUF file, {error}') from None
    self._path = path
    self._fields = {name: f.contents() for name, f in _sizes(reader)}
    self.config = self._read_config()

  def names(self) -> set[str]:
    return set(self._tensors)

  def read(self, name: str) -> np.ndarray:
    """Dequantises a tensor to float32, in the Hugging Face layout."""
    tensor = self._tensors[name]
    array = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
    array = array.reshape(tensor.shape[::-1])
    if re.search(r'self_attn\.[qk]_proj', name):
      return _to_half_split(array, self.config.head_width)
    return array

  def _read_config(self) -> model_config.ModelConfig:
    architecture = self._field('general.architecture')
    if architecture != 'llama':
      raise ValueError(
        f'{self._path}: general.architecture={architecture!r}: expected llama'
      )
    scaling = self._fields.get('llama.rope.scaling.type', 'none')
    if scaling != 'none' or 'rope_freqs.weight' in self._tensors:
      raise ValueError(
        f'{self._path}: llama.rope.scaling.type={scaling!r}: expected a model '
        'without rope scaling'
      )
    get = lambda name: self._field(f'llama.{name}')
    width, num_heads = get('embedding_length'), get('attention.head_count')
    head_width = self._fields.get(
      'llama.attention.key_length', width // num_heads
    )
    embedding = self._tensors.get('model.embed_tokens.weight')
    if embedding is None:
      raise ValueError(f'{self._path}: tensor token_embd.weight: missing')
    return model_config.ModelConfig(
      vocab_size=int(embedding.shape[1]),
      num_layers=get('block_count'),
      width=width,
      mlp_width=get('feed_forward_length'),
      num_heads=num_heads,
      num_kv_heads=self._fields.get('llama.attention.head_count_kv', num_heads),
      head_width=head_width,
      rope_theta=self._fields.get('llama.rope.freq_base', 10_000.0),
      norm_epsilon=get('attention.layer_norm_rms_epsilon'),
      tied_embeddings='lm_head.weight' not in self._tensors,
      context_length=get('context_length'),
    )

  def _field(self, name: str) -> Any:
    if name not in self._fields:
      raise ValueError(f'{self._path}: {name}: missing')
    return self._fields[name]


def hf_name(name: str) -> str:
  """`blk.3.attn_q.weight` to `model.layers.3.self_attn.q_proj.weight`.

  A name that is not known stays, and is then reported as unexpected.
  """
  match = re.fullmatch(r'(?:blk\.(\d+)\.)?(\w+)\.weight', name)
  if match is None or match[2] not in _NAMES:
    return name
  layer = f'model.layers.{match[1]}.' if match[1] else ''
  return f'{layer}{_NAMES[match[2]]}.weight'


def _sizes(reader: gguf.GGUFReader):
  """Metadata fields but for the tokenizer's long lists."""
  return (
    (name, field)
    for name, field in reader.fields.items()
    if not name.startswith('tokenizer.')
  )


def _to_half_split(array: np.ndarray, head_width: int) -> np.ndarray:
  """Undoes GGUF's order of rotary pairs.

  llama.cpp rotates neighbours (0, 1), (2, 3), ...; Hugging Face rotates
  (0, H/2), (1, H/2 + 1), .... The rows of a head are stored accordingly.
  """
  heads = array.reshape(-1, head_width // 2, 2, array.shape[-1])
  return np.swapaxes(heads, 1, 2).reshape(array.shape)
