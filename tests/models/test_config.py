"""Sizes of a model that cannot be."""

import dataclasses

import pytest

from tests import tiny


@pytest.mark.parametrize(
  'field, value, message',
  [
    ('vocab_size', 0, 'vocab_size=0: expected a positive number'),
    ('num_layers', -1, 'num_layers=-1: expected a positive number'),
    ('rope_theta', 0.0, 'rope_theta=0.0: expected a positive number'),
    ('norm_epsilon', float('nan'), 'norm_epsilon=nan: expected a positive'),
    ('num_kv_heads', 3, 'num_heads=4: expected a multiple of num_kv_heads=3'),
    ('num_kv_heads', 8, 'num_heads=4: expected a multiple of num_kv_heads=8'),
    ('head_width', 7, 'head_width=7: expected an even number'),
  ],
)
def test_errors_name_the_field(field, value, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(tiny.CONFIG, **{field: value})


def test_equal_configs_are_one_static_argument():
  assert hash(dataclasses.replace(tiny.CONFIG)) == hash(tiny.CONFIG)
  untied = dataclasses.replace(tiny.CONFIG, tied_embeddings=False)
  assert untied != tiny.CONFIG
