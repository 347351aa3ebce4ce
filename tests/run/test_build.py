"""Tests of the parts of a run."""

import jax
import numpy as np
import pytest

from configs import smoke
from sqlm_jax.config import schema as config_lib
from sqlm_jax.run import build as build_lib
from tests.pretrained import test_gguf
from tests.pretrained import test_tokenizer_files as tokenizer_files


def build(path, rows: int) -> build_lib.Parts:
  """Opens a tiny GGUF file of 264 tokens and an embedding of `rows`."""
  tensors = test_gguf.random_tensors() | {
    'token_embd.weight': np.zeros((rows, test_gguf.WIDTH), np.float32),
    'output.weight': np.zeros((rows, test_gguf.WIDTH), np.float32),
  }
  config = smoke.get_config()
  config.model.path = str(tokenizer_files.write(path, tensors))
  return build_lib.build(config_lib.from_dict(config.to_dict()))


def test_a_tokenizer_larger_than_the_embedding_is_rejected(tmp_path):
  with pytest.raises(
    ValueError,
    match=r'tiny\.gguf: a tokenizer of 264 tokens: expected at most the 263',
  ):
    build(tmp_path / 'tiny.gguf', 263)


@pytest.mark.parametrize('rows', [264, 270])
def test_embeddings_without_a_token_decode_to_an_empty_text(tmp_path, rows):
  parts = build(tmp_path / 'tiny.gguf', rows)
  assert parts.policy.config.vocab_size == rows
  assert parts.tokens.vocab_size == rows  # as wide as the logits
  assert set(parts.tokens.token_bytes[264:]) <= {b''}
  parts.load_params('float32')


@pytest.mark.parametrize('path', ['random', 'tiny.gguf'])
def test_frozen_scales_have_the_dtype_of_trained_scales(tmp_path, path):
  """Otherwise a bfloat16 reference would differ from the initial policy."""
  if path == 'random':
    parts = build_lib.build(config_lib.from_dict(smoke.get_config().to_dict()))
  else:
    parts = build(tmp_path / path, 264)
  frozen, trained = map(parts.load_params, ('bfloat16', 'float32'))
  num_scales = 0
  for (path, x), y in zip(
    jax.tree.leaves_with_path(frozen), jax.tree.leaves(trained), strict=True
  ):
    name = path[-1].key
    assert x.dtype == ('float32' if name in ('scale', 'bias') else 'bfloat16')
    np.testing.assert_array_equal(x, y.astype(x.dtype))
    num_scales += name == 'scale'
  assert num_scales


def test_inconsistent_sizes_are_rejected_by_key():
  c = smoke.get_config()
  c.random_model.num_kv_heads = 3
  with pytest.raises(ValueError, match=r'^random_model\..*num_(kv_)?heads'):
    build_lib.build(config_lib.from_dict(c.to_dict()))


def test_the_answers_of_a_group_alternate_between_temperatures():
  c = smoke.get_config()
  c.solver.group_size = 5
  c.solver.temperatures = (1.0, 0.5)
  parts = build_lib.build(config_lib.from_dict(c.to_dict()))
  solver = parts.samplers['solver'].settings.temperature
  assert solver.tolist() == [1.0, 0.5, 1.0, 0.5, 1.0]
  # One greedy answer, and samples at evaluation.temperature.
  evaluation = parts.samplers['evaluation'].settings.temperature
  assert evaluation.tolist() == [0.0, 1.0, 1.0, 1.0, 1.0]
