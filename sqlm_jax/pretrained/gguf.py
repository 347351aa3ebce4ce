"""Reads GGUF files: the config and the tensors, by Hugging Face names.

The meaning of the fields, and the values that llama.cpp assumes for missing
fields, come from its loader (llama-model.cpp) and its converter
(convert_hf_to_gguf.py).
"""

import functools
import pathlib
from typing import Any

import gguf
import numpy as np
import transformers

from sqlm_jax.models import model_config
from sqlm_jax.models import rope as rope_lib
from sqlm_jax.pretrained import (
  families,
  gguf_fields,
  gguf_file,
  hf_values,
  names,
)

# general.architecture -> Hugging Face's model_type.
_MODEL_TYPES = {
  'llama': 'llama',
  'qwen2': 'qwen2',
  'qwen3': 'qwen3',
  'gemma2': 'gemma2',
  'gemma3': 'gemma3_text',
}
_ARCHITECTURES = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
# Parameters of Llama 3.1 to 3.3. A file has only the frequency divisors that
# follow from them.
_LLAMA3_CONTEXT = 8192
_LLAMA3 = {
  'low_freq_factor': 1.0,
  'high_freq_factor': 4.0,
  'original_max_position_embeddings': _LLAMA3_CONTEXT,
}
_LLAMA3_TENSOR = 'rope_freqs.weight'


class GGUFTensors:
  """The tensors of a GGUF file, each read on demand."""

  def __init__(self, path: pathlib.Path):
    self.path = path
    reader = gguf_file.open_file(path)
    stored = {tensor.name: tensor for tensor in reader.tensors}
    fields = gguf_fields.Fields(path, reader.fields, _MODEL_TYPES)
    self.hf_config = _hf_config(fields, stored)
    try:
      self.config = families.read(self.hf_config)
    except ValueError as error:
      raise ValueError(f'{path}: {error}') from None
    self._is_llama = fields.architecture == 'llama'
    if self._is_llama:
      stored.pop(_LLAMA3_TENSOR, None)  # `_hf_config` has read it
    hf_names = _hf_names(self.config, fields.architecture)
    # Unknown names are kept and later reported as unexpected.
    self._tensors = {hf_names.get(name, name): t for name, t in stored.items()}

  def names(self) -> set[str]:
    return set(self._tensors)

  def shape(self, name: str) -> tuple[int, ...]:
    """Returns the shape of a tensor without reading it.

    Raises:
      ValueError: if the tensor's type cannot be dequantized.
    """
    tensor = self._tensors[name]
    if not _is_readable(tensor.tensor_type):
      raise _unreadable(self.path, tensor)
    return tuple(tensor.shape.tolist()[::-1])  # GGUF reverses the dimensions

  def read(self, name: str) -> np.ndarray:
    """Dequantizes a tensor to float32 in the Hugging Face layout."""
    array = _dequantize(self.path, self._tensors[name])
    module = name.rpartition('.')[0]
    if self._is_llama and module.endswith(('.q_proj', '.k_proj')):
      return _to_half_split(array, self.config.head_width)
    if self.config.norm_offset and module.endswith('norm'):
      # llama.cpp's converter adds the norm offset to the weights.
      return array - np.float32(self.config.norm_offset)
    return array


@functools.cache
def _is_readable(kind: gguf.GGMLQuantizationType) -> bool:
  """Returns True if the gguf library dequantizes a type."""
  _, block_bytes = gguf.GGML_QUANT_SIZES[kind]
  try:
    gguf.quants.dequantize(np.zeros((1, block_bytes), np.uint8), kind)
  except NotImplementedError:
    return False
  return True


def _dequantize(path: pathlib.Path, tensor: gguf.ReaderTensor) -> np.ndarray:
  if not _is_readable(tensor.tensor_type):
    raise _unreadable(path, tensor)
  return gguf.quants.dequantize(tensor.data, tensor.tensor_type)


def _unreadable(path: pathlib.Path, tensor: gguf.ReaderTensor) -> ValueError:
  return ValueError(
    f'{path}: tensor {tensor.name}: {tensor.tensor_type.name}, '
    'expected a quantization that the gguf library dequantizes'
  )


def _to_half_split(array: np.ndarray, head_width: int) -> np.ndarray:
  """Converts the order of rotary pairs in Llama files to Hugging Face's.

  llama.cpp rotates the adjacent pairs (0, 1), (2, 3), ...; Hugging Face rotates
  (0, H/2), (1, H/2 + 1), .... The rows of a head are stored accordingly.
  """
  if array.shape[0] % head_width:
    return array  # the caller reports the wrong shape
  heads = array.reshape(-1, head_width // 2, 2, *array.shape[1:])
  return np.swapaxes(heads, 1, 2).reshape(array.shape)


def _hf_names(
  config: model_config.ModelConfig, architecture: str
) -> dict[str, str]:
  """Returns the Hugging Face name of each GGUF tensor name.

  For example, `blk.3.attn_q.weight` maps to
  `model.layers.3.self_attn.q_proj.weight`.
  """
  known = gguf.get_tensor_name_map(
    _ARCHITECTURES[architecture], config.num_layers
  )
  hf_names = {}
  for entry in names.table(config):
    for layer in range(config.num_layers if entry.is_layered else 1):
      hf_name = entry.name.format(layer)
      name = known.get_name(hf_name, ('.weight', '.bias'))
      if name is not None:
        hf_names[name] = hf_name
  return hf_names


def _hf_config(
  fields: gguf_fields.Fields, stored: dict[str, gguf.ReaderTensor]
) -> transformers.PretrainedConfig:
  model_type = _MODEL_TYPES[fields.architecture]
  _refuse_unknown(fields)
  values = _sizes(fields, stored)
  ropes = {'rope_parameters': _rope(fields, stored, values['head_dim'])}
  if fields.architecture.startswith('gemma'):
    ropes = _gemma(fields, values, ropes['rope_parameters'])
  else:
    fields.expect('attention.sliding_window', (0,), default=0)
  architectures = {'architectures': [families.ARCHITECTURES[model_type]]}
  try:
    return families.make_hf_config(model_type, values | ropes | architectures)
  except ValueError as error:
    raise ValueError(f'{fields.path}: {error}') from None


def _refuse_unknown(fields: gguf_fields.Fields) -> None:
  """Refuses features of these architectures that the decoder lacks."""
  fields.expect('split.count', (0, 1), default=1)  # not a split model
  fields.expect('expert_count', (0,), default=0)
  fields.expect('attention.causal', (True,), default=True)


def _sizes(
  fields: gguf_fields.Fields, stored: dict[str, gguf.ReaderTensor]
) -> dict[str, Any]:
  """Returns the config values that all families share, by Hugging Face key."""
  if 'token_embd.weight' not in stored:
    raise ValueError(f'{fields.path}: tensor token_embd.weight: missing')
  width = fields.integer('embedding_length')
  num_heads = fields.integer('attention.head_count')
  num_layers = fields.integer('block_count', maximum=hf_values.MAX_LAYERS)
  head_width = fields.integer('attention.key_length', width // num_heads)
  fields.expect('attention.value_length', (head_width,), default=head_width)
  fields.expect('rope.dimension_count', (head_width,), default=head_width)
  shape = stored['token_embd.weight'].shape
  if len(shape) != 2:
    raise ValueError(
      f'{fields.path}: tensor token_embd.weight: expected 2 dimensions, found '
      f'{len(shape)}'
    )
  vocab_size = int(shape[1])  # GGUF reverses the dimensions
  values = {'vocab_size': vocab_size}
  for token, stored_as in (('bos', 'bos'), ('eos', 'eos'), ('pad', 'padding')):
    name = f'tokenizer.ggml.{stored_as}_token_id'
    # A pad token may lack an embedding row, see `hf_values.drop_unusable_pad`.
    maximum = vocab_size if token == 'pad' else vocab_size - 1
    values[f'{token}_token_id'] = (
      None
      if fields.get(name) in (None, gguf_file.NO_TOKEN)
      else fields.integer(name, minimum=0, maximum=maximum)
    )
  if fields.architecture != 'qwen2':  # its biases are not configurable
    biased = {name.split('.')[-2] for name in stored if name.endswith('.bias')}
    values['attention_bias'] = any(n.startswith('attn_') for n in biased)
    if fields.architecture == 'llama':
      values['mlp_bias'] = any(n.startswith('ffn_') for n in biased)
  return values | {
    'hidden_size': width,
    'intermediate_size': fields.integer('feed_forward_length'),
    'num_hidden_layers': num_layers,
    'num_attention_heads': num_heads,
    'num_key_value_heads': fields.integer('attention.head_count_kv', num_heads),
    'head_dim': head_width,
    'rms_norm_eps': fields.number('attention.layer_norm_rms_epsilon'),
    'max_position_embeddings': fields.integer('context_length'),
    'tie_word_embeddings': 'output.weight' not in stored,
  }


def _rope(
  fields: gguf_fields.Fields,
  stored: dict[str, gguf.ReaderTensor],
  head_width: int,
) -> dict[str, Any]:
  """Returns Hugging Face's rope_parameters."""
  theta = fields.number('rope.freq_base', 10_000.0)
  plain = {'rope_type': 'default', 'rope_theta': theta}
  # `scale_linear` is an older name of the factor. If the type is missing,
  # llama.cpp assumes linear.
  factor = fields.number('rope.scale_linear', 1.0)
  factor = fields.number('rope.scaling.factor', factor)
  fields.expect('rope.scaling.type', ('none', 'linear', 'yarn'), 'linear')
  kind = fields.get('rope.scaling.type', 'linear')
  is_plain = kind == 'none' or factor == 1.0
  if fields.architecture == 'llama' and _LLAMA3_TENSOR in stored:
    if not is_plain:
      raise ValueError(
        f'{fields.path}: tensor {_LLAMA3_TENSOR}: expected no such tensor '
        f'because {fields.architecture}.rope.scaling.factor={factor}'
      )
    divisors = _dequantize(fields.path, stored[_LLAMA3_TENSOR])
    return _llama3(fields.path, divisors, theta=theta, head_width=head_width)
  if is_plain:
    return plain
  scaled = plain | {'rope_type': kind, 'factor': factor}
  return scaled if kind == 'linear' else scaled | _yarn(fields)


def _yarn(fields: gguf_fields.Fields) -> dict[str, Any]:
  # Families with other values scale the attention differently.
  fields.expect('rope.scaling.yarn_ext_factor', (1.0,), default=1.0)
  fields.expect('rope.scaling.yarn_log_multiplier', (0.0,), default=0.0)
  fields.expect('rope.scaling.attn_factor', (1.0,), default=1.0)
  context = fields.integer('context_length')
  parameters = {
    'original_max_position_embeddings': fields.integer(
      'rope.scaling.original_context_length', context
    )
  }
  for key, gguf_key in (
    ('attention_factor', 'yarn_attn_factor'),
    ('beta_fast', 'yarn_beta_fast'),
    ('beta_slow', 'yarn_beta_slow'),
  ):
    if fields.get(f'rope.scaling.{gguf_key}') is not None:
      parameters[key] = fields.number(f'rope.scaling.{gguf_key}')
  return parameters


def _llama3(
  path: pathlib.Path, divisors: np.ndarray, *, theta: float, head_width: int
) -> dict[str, Any]:
  """Infers Llama 3's rope_parameters from the divisors of the frequencies."""
  if divisors.shape == (head_width // 2,) and divisors.min() >= 1:
    factor = float(divisors.max())  # the slowest pairs use the full factor
    stretched = model_config.Rope(
      theta,
      'llama3',
      factor,
      original_context=_LLAMA3_CONTEXT,
      low_frequency_factor=_LLAMA3['low_freq_factor'],
      high_frequency_factor=_LLAMA3['high_freq_factor'],
    )
    plain = rope_lib.frequencies(model_config.Rope(theta), head_width)
    expected = plain / rope_lib.frequencies(stretched, head_width)
    if np.allclose(divisors, expected, rtol=1e-4, atol=0):
      parameters = {'rope_type': 'llama3', 'rope_theta': theta}
      return parameters | {'factor': factor} | _LLAMA3
  raise ValueError(
    f'{path}: tensor {_LLAMA3_TENSOR}: expected the {head_width // 2} divisors '
    f'of Llama 3 with {_LLAMA3}'
  )


def _gemma(
  fields: gguf_fields.Fields, values: dict[str, Any], rope: dict[str, Any]
) -> dict[str, Any]:
  """Returns Gemma's own values: windows, two RoPEs, a scale and soft caps."""
  is_2 = fields.architecture == 'gemma2'
  num_layers = values['num_hidden_layers']
  window = fields.integer(
    'attention.sliding_window', 4096 if is_2 else 0, minimum=0
  )
  # The attention scale is not stored. Only the 27B models scale by
  # width / num_heads; llama.cpp recognizes them by their number of layers.
  scalar = values['head_dim']
  if num_layers == (46 if is_2 else 62):
    scalar = values['hidden_size'] // values['num_attention_heads']
  caps = {
    f'{name}_softcapping': fields.number(
      f'{name}_softcapping', default if is_2 else 0.0, may_be_0=True
    )
    or None
    for name, default in (('attn_logit', 50.0), ('final_logit', 30.0))
  }
  theta = rope['rope_theta']
  if is_2:
    fields.expect('rope.freq_base_swa', (theta,), default=theta)
  else:
    local = fields.number('rope.freq_base_swa', 10_000.0)
    rope = {
      'full_attention': rope,
      'sliding_attention': {'rope_type': 'default', 'rope_theta': local},
    }
  return caps | {
    'sliding_window': window or None,
    'layer_types': _layer_types(
      fields,
      num_layers=num_layers,
      window=window,
      period=2 if is_2 else 6,
    ),
    'query_pre_attn_scalar': scalar,
    'rope_parameters': rope,
  }


def _layer_types(
  fields: gguf_fields.Fields, *, num_layers: int, window: int, period: int
) -> list[str]:
  """Returns the layers' types; the last layer of each period has no window."""
  name = 'attention.sliding_window_pattern'
  pattern = fields.get(name, period)
  if not isinstance(pattern, list):
    period = fields.integer(name, period)
    pattern = [layer % period < period - 1 for layer in range(num_layers)]
  elif len(pattern) != num_layers or not set(pattern) <= {0, 1}:
    raise fields.error(
      name,
      pattern,
      f'a period, or one truth value for each of {num_layers} layers',
    )
  kinds = ('full_attention', 'sliding_attention')
  return [kinds[bool(window and is_local)] for is_local in pattern]
