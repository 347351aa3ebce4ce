"""Checks the values of a Hugging Face config before anything is built from it.

transformers checks types, but accepts any size and accepts NaN as a number.
"""

import reprlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import logging

MAX_LAYERS = 1000  # the deepest published model has 126
MAX_SIZE = 2**31 - 1  # JAX indexes with int32
MAX_HEAD_WIDTH = 2**16
_MAX_LABELS = 2**20
_MAX_FLOAT = float(np.finfo(np.float32).max)  # the decoder computes in float32

# Key -> the smallest and the largest integer that it may have.
_INTEGERS = {
  'vocab_size': (1, MAX_SIZE),
  'hidden_size': (1, MAX_SIZE),
  'intermediate_size': (1, MAX_SIZE),
  'num_hidden_layers': (1, MAX_LAYERS),
  'num_attention_heads': (1, MAX_SIZE),
  'num_key_value_heads': (1, MAX_SIZE),
  'head_dim': (1, MAX_HEAD_WIDTH),
  'max_position_embeddings': (1, MAX_SIZE),
  'original_max_position_embeddings': (1, MAX_SIZE),
  'sliding_window': (0, MAX_SIZE),
  'sliding_window_pattern': (1, MAX_SIZE),
  'max_window_layers': (0, MAX_SIZE),
  'num_labels': (0, _MAX_LABELS),
}
_POSITIVE = (
  'rms_norm_eps',
  'rope_theta',
  'rope_local_base_freq',
  'query_pre_attn_scalar',
  'partial_rotary_factor',
  'factor',
  'attention_factor',
  'low_freq_factor',
  'high_freq_factor',
  'beta_fast',
  'beta_slow',
)
_NOT_NEGATIVE = (
  'attn_logit_softcapping',
  'final_logit_softcapping',
  'mscale',
  'mscale_all_dim',
)
_TRUTH_VALUES = (
  'attention_bias',
  'is_causal',
  'mlp_bias',
  'tie_word_embeddings',
  'truncate',
  'use_sliding_window',
)
_TEXTS = ('hidden_act', 'hidden_activation', 'rope_type', 'type')
_LISTS = ('architectures', 'layer_types')  # of strings
# Objects whose keys are also checked. Some families have a RoPE for each type
# of layer.
_OBJECTS = (
  'rope_parameters',
  'rope_scaling',
  'full_attention',
  'sliding_attention',
)


def check(values: Mapping[str, Any], within: str = '') -> None:
  """Checks the types and ranges of the keys that the decoder is built from.

  A value of None is accepted because it is transformers' default for many keys.
  Only `rope_theta` must be a number.

  Args:
    values: the keys and values of a config, or of an object in it.
    within: the keys that lead to `values`, each followed by a dot.

  Raises:
    ValueError: if a value is not allowed. The message names the key, the value
      and the allowed values.
  """
  for key, value in values.items():
    name = within + key
    if value is None and key != 'rope_theta':
      continue
    if key in _INTEGERS:
      minimum, maximum = _INTEGERS[key]
      if type(value) is not int or not minimum <= value <= maximum:
        raise _error(name, value, f'an integer from {minimum} to {maximum}')
    elif key in _POSITIVE and not (is_number(value) and value > 0):
      raise _error(name, value, 'a positive number')
    elif key in _NOT_NEGATIVE and not is_number(value):
      raise _error(name, value, 'a number that is at least 0')
    elif key in _TRUTH_VALUES and not isinstance(value, bool):
      raise _error(name, value, 'true or false')
    elif key in _TEXTS and not isinstance(value, str):
      raise _error(name, value, 'a string')
    elif key in _LISTS:
      is_list = isinstance(value, list)
      if not is_list or not all(isinstance(entry, str) for entry in value):
        raise _error(name, value, 'a list of strings')
    elif key in _OBJECTS:
      if not isinstance(value, dict):
        raise _error(name, value, 'an object')
      check(value, f'{name}.')


def drop_unusable_pad(
  values: Mapping[str, Any], vocab_size: int | None
) -> dict[str, Any]:
  """Drops a `pad_token_id` that is equal to the size of the vocabulary.

  Some models are published with such an id: a padding token was added to the
  tokenizer without a row in the embedding. This library does not use padding
  tokens.
  """
  kept = dict(values)
  pad = kept.get('pad_token_id')
  if type(pad) is int and pad == vocab_size:
    logging.warning(
      'Ignoring pad_token_id=%d because the embedding has only %d rows.',
      *(pad, vocab_size),
    )
    del kept['pad_token_id']
  return kept


def check_token_ids(values: Mapping[str, Any], vocab_size: int) -> None:
  """Checks the ids of special tokens; -1 stands for no token in some files.

  Raises:
    ValueError: if a key that ends in `_token_id` is not an id of the
      vocabulary, or a list of ids.
  """
  for key, value in values.items():
    if not key.endswith('_token_id') or value is None:
      continue
    for i in value if isinstance(value, list) else [value]:
      if type(i) is not int or not -1 <= i < vocab_size:
        raise _error(key, value, f'ids less than vocab_size={vocab_size}')


def is_number(value: Any) -> bool:
  """Returns True for a number that is at least 0 and finite in float32."""
  return (
    isinstance(value, int | float)
    and not isinstance(value, bool)
    and 0 <= value <= _MAX_FLOAT
  )


def _error(name: str, value: Any, expected: str) -> ValueError:
  return ValueError(f'{name}={reprlib.repr(value)}: expected {expected}')
