"""Tests of the checks of model configs."""

import dataclasses

import pytest

from sqlm_jax.models import model_config
from tests import tiny


@pytest.mark.parametrize(
  'field, value, message',
  [
    ('vocab_size', 0, 'vocab_size=0: expected a positive number'),
    ('num_layers', -1, 'num_layers=-1: expected a positive number'),
    ('qk_norm', 'layer', "qk_norm='layer': expected one of none, head, flat"),
    ('norm_placement', 'x', 'expected one of pre, post, both'),
    ('activation', 'relu', "activation='relu': expected one of silu, gelu_tan"),
    ('attention_softcap', -1.0, 'attention_softcap=-1.0: expected a positive'),
    ('windows', (4,), r'windows=\(4,\): expected one number of tokens for ea'),
    ('windows', (4, -1), r'windows=\(4, -1\): expected one number of tokens'),
    ('norm_epsilon', float('nan'), 'norm_epsilon=nan: expected a positive'),
    ('num_kv_heads', 3, 'num_heads=4: expected a multiple of num_kv_heads=3'),
    ('num_kv_heads', 8, 'num_heads=4: expected a multiple of num_kv_heads=8'),
    ('head_width', 7, 'head_width=7: expected an even number'),
    ('num_layers', 2.0, 'num_layers=2.0: expected int'),
    ('num_layers', True, 'num_layers=True: expected int'),
    ('qkv_bias', 'false', "qkv_bias='false': expected bool"),
    ('norm_epsilon', '1e-5', "norm_epsilon='1e-5': expected a positive"),
    ('norm_epsilon', float('inf'), 'norm_epsilon=inf: expected a positive'),
    ('attention_scale', 1j, 'attention_scale=1j: expected a positive'),
  ],
)
def test_errors_name_the_field(field, value, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(tiny.CONFIG, **{field: value})


@pytest.mark.parametrize(
  'values, message',
  [
    ({'theta': 0.0}, 'theta=0.0: expected a positive number'),
    ({'kind': 'dynamic'}, "kind='dynamic': expected one of default, linear"),
    ({'factor': -2.0}, 'factor=-2.0: expected a positive number'),
    ({'theta': None}, 'theta=None: expected a positive number'),
    ({'theta': '1e4'}, "theta='1e4': expected a positive number"),
    ({'theta': 1.0, 'kind': 'yarn'}, 'theta=1.0: expected more than 1'),
    (
      {'kind': 'llama3', 'low_frequency_factor': 4.0},
      'low_frequency_factor=4.0: expected less than high_frequency_factor=4.0',
    ),
  ],
)
def test_a_rope_that_cannot_be(values, message):
  with pytest.raises(ValueError, match=message):
    model_config.Rope(**values)


def test_equal_configs_are_one_static_argument():
  assert hash(dataclasses.replace(tiny.CONFIG)) == hash(tiny.CONFIG)
  untied = dataclasses.replace(tiny.CONFIG, tied_embeddings=False)
  assert untied != tiny.CONFIG
