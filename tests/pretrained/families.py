"""Tiny random checkpoints of every family, made by transformers (torch)."""

import pathlib

import pytest
import transformers

TOKENS = 97
_SIZES = {
  'vocab_size': TOKENS,
  'hidden_size': 24,
  'intermediate_size': 40,
  'num_hidden_layers': 3,
  'num_attention_heads': 6,
  'num_key_value_heads': 2,
  'head_dim': 8,
  'max_position_embeddings': 128,
  'bos_token_id': 1,
  'eos_token_id': 2,
  'pad_token_id': 0,
}


def _rope(kind: str, **numbers) -> dict:
  return {'rope_parameters': {'rope_type': kind, 'rope_theta': 100.0} | numbers}


# Name -> model_type and differences from `_SIZES`. The tests' texts are longer
# than the windows, and than the original contexts of scaled RoPEs.
CASES = {
  'llama2': ('llama', {'tie_word_embeddings': False}),
  'llama-odd-heads': (
    'llama',
    {
      'hidden_size': 30,
      'num_attention_heads': 5,
      'num_key_value_heads': 1,
      'head_dim': 10,
    },
  ),
  'llama-biases': (
    'llama',
    {'attention_bias': True, 'mlp_bias': True, 'tie_word_embeddings': True},
  ),
  'llama3': (
    'llama',
    _rope(
      'llama3',
      factor=8.0,
      low_freq_factor=1.0,
      high_freq_factor=4.0,
      original_max_position_embeddings=32,
    ),
  ),
  'llama-linear': ('llama', _rope('linear', factor=4.0)),
  'mistral': ('mistral', {'sliding_window': 7}),
  'qwen2': ('qwen2', {'tie_word_embeddings': True}),
  'qwen2-window': (
    'qwen2',
    {'use_sliding_window': True, 'sliding_window': 9, 'max_window_layers': 1},
  ),
  'qwen2-yarn': (
    'qwen2',
    _rope('yarn', factor=4.0, original_max_position_embeddings=16),
  ),
  'qwen3': ('qwen3', {'tie_word_embeddings': True}),
  'qwen3-yarn': (
    'qwen3',
    _rope(
      'yarn',
      factor=2.0,
      original_max_position_embeddings=64,
      beta_fast=8.0,
      beta_slow=2.0,
      attention_factor=1.3,
    ),
  ),
  'gemma2': ('gemma2', {'sliding_window': 6, 'query_pre_attn_scalar': 20}),
  'gemma3': (
    'gemma3_text',
    {
      'sliding_window': 5,
      'query_pre_attn_scalar': 10,
      'layer_types': ['sliding_attention', 'full_attention'] * 2,
      'num_hidden_layers': 4,
      'rope_parameters': {
        'sliding_attention': {'rope_type': 'default', 'rope_theta': 50.0},
        'full_attention': {
          'rope_type': 'linear',
          'rope_theta': 1000.0,
          'factor': 8.0,
        },
      },
    },
  ),
  'olmo2': ('olmo2', {'tie_word_embeddings': False}),
}


def config_of(name: str, **changes) -> transformers.PretrainedConfig:
  """Returns the config of a case."""
  kind, differing = CASES[name]
  values = _SIZES | differing | changes
  if kind in ('qwen2', 'olmo2'):
    values.pop('head_dim')  # these two always divide the width
    values |= {'hidden_size': 48, 'num_attention_heads': 6}
  return transformers.CONFIG_MAPPING[kind](**values)


def make(name: str, directory: pathlib.Path | None = None, **changes):
  """Returns a random model in float32, and saves it if there is a directory.

  All parameters are random, including norms and biases. Parameters that are all
  zeros or ones could hide that they are not read. Skips the calling test if
  torch is not installed.
  """
  torch = pytest.importorskip('torch')
  config = config_of(name, **changes)
  config._attn_implementation = 'eager'
  torch.manual_seed(0)
  model = transformers.AutoModelForCausalLM.from_config(config)
  with torch.no_grad():
    for parameter in model.parameters():
      spread = 0.4 if parameter.ndim == 1 else 1.5 * parameter.shape[-1] ** -0.5
      parameter.copy_(
        parameter * (parameter.ndim == 1) + spread * torch.randn_like(parameter)
      )
  model = model.to(torch.float32).eval()
  if directory is not None:
    model.save_pretrained(directory)
  return model
