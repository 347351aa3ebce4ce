"""GGUF files: sizes and tensors under their Hugging Face names."""

import pathlib
import re
from typing import Any

import gguf
import numpy as np

from sqlm_jax.models import config as model_config
from sqlm_jax.weights import families

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
    self.path = path
    reader = _open(path)
    self._tensors = {hf_name(t.name): t for t in reader.tensors}
    self._fields = {name: f.contents() for name, f in _sizes(reader)}
    self.config = self._read_config()
    self.hf_config = families.llama(self.config)

  def names(self) -> set[str]:
    return set(self._tensors)

  def read(self, name: str) -> np.ndarray:
    """Dequantises a tensor to float32, in the Hugging Face layout."""
    tensor = self._tensors[name]
    try:
      array = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
    except NotImplementedError:
      raise ValueError(
        f'{self.path}: tensor {tensor.name}: {tensor.tensor_type.name}, '
        'expected a quantization that the gguf library dequantizes'
      ) from None
    is_rotated = re.fullmatch(r'.*\.self_attn\.[qk]_proj\.weight', name)
    # A misshapen tensor is left alone, and is then reported by its shape.
    if is_rotated and not array.shape[0] % self.config.head_width:
      array = _to_half_split(array, self.config.head_width)
    return array

  def _read_config(self) -> model_config.ModelConfig:
    self._expect('general.architecture', 'llama')
    if 'rope_freqs.weight' in self._tensors:
      raise ValueError(
        f'{self.path}: tensor rope_freqs.weight: expected a model without '
        'rope scaling'
      )
    self._expect('llama.rope.scaling.type', 'none', default='none')
    # Without a type llama.cpp scales linearly by the factor.
    self._expect('llama.rope.scaling.factor', 1.0, default=1.0)
    get = self._number
    width, num_heads = get('embedding_length'), get('attention.head_count')
    head_width = get('attention.key_length', width // num_heads)
    self._expect('llama.rope.dimension_count', head_width, default=head_width)
    embedding = self._tensors.get('model.embed_tokens.weight')
    if embedding is None:
      raise ValueError(f'{self.path}: tensor token_embd.weight: missing')
    return model_config.ModelConfig(
      vocab_size=int(embedding.shape[-1]),  # GGUF counts dimensions backwards
      num_layers=get('block_count'),
      width=width,
      mlp_width=get('feed_forward_length'),
      num_heads=num_heads,
      num_kv_heads=get('attention.head_count_kv', num_heads),
      head_width=head_width,
      rope=model_config.Rope(get('rope.freq_base', 10_000.0)),
      norm_epsilon=get('attention.layer_norm_rms_epsilon'),
      tied_embeddings='lm_head.weight' not in self._tensors,
      context_length=get('context_length'),
    )

  def _expect(self, name: str, expected: Any, default: Any = None) -> None:
    value = self._fields.get(name, default)
    if value != expected:
      raise ValueError(f'{self.path}: {name}={value!r}: expected {expected!r}')

  def _number(self, name: str, default: float | None = None) -> Any:
    value = self._fields.get(f'llama.{name}', default)
    # Some models have one number a layer, which our decoder has not.
    if not isinstance(value, int | float) or value <= 0:
      raise ValueError(
        f'{self.path}: llama.{name}={value!r}: expected a positive number'
      )
    return value


def _open(path: pathlib.Path) -> gguf.GGUFReader:
  with path.open('rb') as file:
    start = file.read(4)
  if start != b'GGUF':
    raise ValueError(
      f'{path}: expected a GGUF file or a Hugging Face directory, this is a '
      f'file that begins with {start!r}'
    )
  try:
    return gguf.GGUFReader(path)
  except (ValueError, KeyError, IndexError, OverflowError) as error:
    raise ValueError(
      f'{path}: expected a whole GGUF file, this one is truncated or damaged '
      f'({error})'
    ) from None


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
