"""Model families: converts a Hugging Face config to a `ModelConfig`.

All families share one decoder. This module describes how they differ.
"""

import dataclasses
import math
import reprlib
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import transformers
from huggingface_hub import errors

from sqlm_jax.models import model_config
from sqlm_jax.models import rope as rope_lib
from sqlm_jax.pretrained import hf_values

# model_type -> the transformers class that loads it.
ARCHITECTURES = {
  'llama': 'LlamaForCausalLM',
  'mistral': 'MistralForCausalLM',
  'qwen2': 'Qwen2ForCausalLM',
  'qwen3': 'Qwen3ForCausalLM',
  'gemma2': 'Gemma2ForCausalLM',
  'gemma3_text': 'Gemma3ForCausalLM',
  'olmo2': 'Olmo2ForCausalLM',
}
_GEMMAS = ('gemma2', 'gemma3_text')
_ACTIVATIONS = {'silu': 'silu', 'gelu_pytorch_tanh': 'gelu_tanh'}
_QK_NORMS = {'qwen3': 'head', 'gemma3_text': 'head', 'olmo2': 'flat'}
_WINDOWED = ('mistral', 'qwen2', 'qwen3', 'gemma2', 'gemma3_text')
_ATTENTION_BIASES = ('llama', 'qwen3', 'gemma2', 'gemma3_text', 'olmo2')
# Keys that are read in addition to the fields of the config classes: keys that
# older versions of transformers wrote, and keys that are refused.
_OTHER_KEYS = {
  'is_causal',
  'layer_types',
  'original_max_position_embeddings',
  'partial_rotary_factor',
  'quantization_config',
  'rope_local_base_freq',
  'rope_scaling',
  'rope_theta',
  'sliding_window_pattern',
  'use_bidirectional_attention',
}
# Fields of every config class that do not describe the decoder.
_UNUSED_KEYS = {
  'dtype',
  'id2label',
  'label2id',
  'problem_type',
  'transformers_version',
}
_NORM_PLACEMENTS = {'gemma2': 'both', 'gemma3_text': 'both', 'olmo2': 'post'}


def make_hf_config(
  model_type: str, values: dict[str, Any]
) -> transformers.PretrainedConfig:
  """Returns the config of a family, with transformers' defaults and checks.

  Keys that do not describe the decoder are dropped: transformers would set each
  as an attribute of the config, even in place of a method, and would make up a
  name for each of `num_labels` labels.

  Raises:
    ValueError: if a value is not allowed. The message has one line.
  """
  hf_values.check(values)
  values = hf_values.drop_unusable_pad(values, values.get('vocab_size'))
  if values.get('per_layer_config'):
    _expect('per_layer_config', values['per_layer_config'], (None,))
  config_class = transformers.CONFIG_MAPPING[model_type]
  fields = {field.name for field in dataclasses.fields(config_class)}
  known = (fields | _OTHER_KEYS) - _UNUSED_KEYS
  try:
    hf = config_class.from_dict({k: v for k, v in values.items() if k in known})
  except (
    errors.StrictDataclassError,
    ArithmeticError,  # raised for sizes of 0
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
  ) as error:
    raise ValueError(' '.join(str(error).split())) from None
  hf_values.check_token_ids(hf.to_dict(), hf.vocab_size)
  return hf


def read(hf: transformers.PretrainedConfig) -> model_config.ModelConfig:
  """Returns the decoder that a Hugging Face config describes.

  Raises:
    ValueError: if the decoder does not support the family or a setting. The
      message names the key and the value.
  """
  kind = hf.model_type
  _expect('model_type', kind, ARCHITECTURES)
  for architecture in hf.architectures or ():
    _expect('architectures', architecture, (ARCHITECTURES[kind],))
  for key in ('quantization_config', 'use_bidirectional_attention'):
    if getattr(hf, key, None):
      _expect(key, getattr(hf, key), (None,))
  _expect('is_causal', getattr(hf, 'is_causal', True), (True,))
  is_gemma = kind in _GEMMAS
  activation = hf.hidden_activation if is_gemma else hf.hidden_act
  _expect('hidden_act', activation, _ACTIVATIONS)
  num_heads, width = hf.num_attention_heads, hf.hidden_size
  rope, local_rope = _ropes(hf)
  head_width = getattr(hf, 'head_dim', None) or width // num_heads
  _check_frequencies(head_width, rope, local_rope)

  # Keys that belong to other families are ignored, as in transformers.
  def of_family(key: str, *kinds: str) -> Any:
    return getattr(hf, key, None) if kind in kinds else None

  attention_bias = bool(of_family('attention_bias', *_ATTENTION_BIASES))
  return model_config.ModelConfig(
    vocab_size=hf.vocab_size,
    num_layers=hf.num_hidden_layers,
    width=width,
    mlp_width=hf.intermediate_size,
    num_heads=num_heads,
    num_kv_heads=hf.num_key_value_heads or num_heads,
    head_width=head_width,
    rope=rope,
    local_rope=local_rope,
    windows=_windows(hf),
    attention_scale=hf.query_pre_attn_scalar**-0.5 if is_gemma else 0.0,
    attention_softcap=of_family('attn_logit_softcapping', 'gemma2') or 0.0,
    logit_softcap=of_family('final_logit_softcapping', *_GEMMAS) or 0.0,
    qkv_bias=kind == 'qwen2' or attention_bias,
    output_bias=attention_bias,
    mlp_bias=bool(of_family('mlp_bias', 'llama')),
    qk_norm=_QK_NORMS.get(kind, 'none'),
    norm_placement=_NORM_PLACEMENTS.get(kind, 'pre'),
    norm_offset=1.0 if is_gemma else 0.0,
    norm_epsilon=hf.rms_norm_eps,
    activation=_ACTIVATIONS[activation],
    scale_embedding=is_gemma,
    tied_embeddings=bool(hf.tie_word_embeddings),
    context_length=hf.max_position_embeddings,
  )


def llama(c: model_config.ModelConfig) -> transformers.PretrainedConfig:
  """Returns the Hugging Face config of a Llama with an unscaled RoPE."""
  return transformers.LlamaConfig(
    architectures=[ARCHITECTURES['llama']],
    vocab_size=c.vocab_size,
    hidden_size=c.width,
    intermediate_size=c.mlp_width,
    num_hidden_layers=c.num_layers,
    num_attention_heads=c.num_heads,
    num_key_value_heads=c.num_kv_heads,
    head_dim=c.head_width,
    rms_norm_eps=c.norm_epsilon,
    rope_parameters={'rope_type': 'default', 'rope_theta': c.rope.theta},
    tie_word_embeddings=c.tied_embeddings,
    max_position_embeddings=c.context_length,
    bos_token_id=None,
    eos_token_id=None,
  )


def _expect(key: str, value: Any, allowed: Collection) -> None:
  if value not in allowed:
    choices = ', '.join(map(str, allowed))
    shown = reprlib.repr(value)
    raise ValueError(f'{key}={shown}: expected one of {choices}')


def _windows(hf: transformers.PretrainedConfig) -> tuple[int, ...]:
  """Returns each layer's attention window in tokens, 0 for no window.

  Returns () if no layer has a window.
  """
  window = getattr(hf, 'sliding_window', None)
  if not window or hf.model_type not in _WINDOWED:
    return ()
  # Mistral has no `layer_types`: all of its layers have the window.
  kinds = getattr(hf, 'layer_types', None)
  kinds = kinds or ['sliding_attention'] * hf.num_hidden_layers
  for kind in kinds:
    _expect('layer_types', kind, ('sliding_attention', 'full_attention'))
  windows = tuple(
    window if kind == 'sliding_attention' else 0 for kind in kinds
  )
  return windows if any(windows) else ()


def _ropes(
  hf: transformers.PretrainedConfig,
) -> tuple[model_config.Rope, model_config.Rope | None]:
  """Returns the RoPE, and the RoPE of windowed layers if it differs."""
  # A context length outside of `rope_parameters` overrides theirs.
  hf.standardize_rope_params()
  parameters = hf.rope_parameters
  layer_kinds = ('full_attention', 'sliding_attention')
  if not parameters.keys() & set(layer_kinds):
    return _rope(hf, parameters), None
  for kind in layer_kinds:
    if parameters.get(kind) is None:
      raise ValueError(f'rope_parameters.{kind}: missing')
  full, local = (_rope(hf, parameters[kind]) for kind in layer_kinds)
  return full, local if local != full else None


def _check_frequencies(
  head_width: int, *ropes: model_config.Rope | None
) -> None:
  """Checks that each RoPE has finite frequencies."""
  if head_width > hf_values.MAX_HEAD_WIDTH:
    raise ValueError(
      f'head_dim={head_width}: expected at most {hf_values.MAX_HEAD_WIDTH}'
    )
  for rope in filter(None, ropes):
    with np.errstate(all='ignore'):
      frequencies = rope_lib.frequencies(rope, head_width)
    if not np.isfinite(frequencies).all():
      raise ValueError(
        f'rope_parameters={rope}: expected numbers that give finite frequencies'
      )


def _rope(
  hf: transformers.PretrainedConfig, parameters: dict[str, Any]
) -> model_config.Rope:
  # A missing number is None, which `Rope` refuses.
  def get(name: str, default: Any = None) -> Any:
    return parameters.get(name, default)

  kind = get('rope_type', 'default')
  _expect('rope_type', kind, model_config.ROPE_KINDS)
  _expect('partial_rotary_factor', get('partial_rotary_factor', 1.0), (1.0,))
  rope = model_config.Rope(theta=get('rope_theta'), kind=kind)
  if kind == 'default':
    return rope
  original = get('original_max_position_embeddings')
  original = original or hf.max_position_embeddings
  factor = get('factor') or hf.max_position_embeddings / original
  if kind == 'linear':
    return model_config.Rope(theta=rope.theta, kind=kind, factor=factor)
  if kind == 'llama3':
    return model_config.Rope(
      theta=rope.theta,
      kind=kind,
      factor=factor,
      original_context=original,
      low_frequency_factor=get('low_freq_factor'),
      high_frequency_factor=get('high_freq_factor'),
    )
  return model_config.Rope(
    theta=rope.theta,
    kind=kind,
    factor=factor,
    original_context=original,
    beta_fast=get('beta_fast') or 32.0,
    beta_slow=get('beta_slow') or 1.0,
    truncate=get('truncate', True),
    attention_factor=get('attention_factor') or _yarn_attention(get, factor),
  )


def _yarn_attention(get: Callable[[str], Any], factor: float) -> float:
  """Returns YaRN's attention factor.

  Peng et al. (2023), eq. 22, extended by DeepSeek's `mscale` weights.
  """

  def scale(weight: float) -> float:
    return 0.1 * weight * math.log(max(factor, 1.0)) + 1.0

  if get('mscale') and get('mscale_all_dim'):
    return scale(get('mscale')) / scale(get('mscale_all_dim'))
  return scale(1.0)
