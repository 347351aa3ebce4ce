"""Rotary embeddings against their definition, and extensions against torch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sqlm_jax.models import model_config, rope

THETA = 10_000.0


@functools.partial(jax.jit, static_argnums=2)
def rotary(x, positions, theta):
  turns = rope.rotation(model_config.Rope(theta), positions, x.shape[-1])
  return rope.rotate(x, *turns)


def vectors(seed, width=8):
  return jax.random.normal(jax.random.key(seed), (2, 3, 4, width))


def test_rotary_by_hand():
  # Width 4 and theta 100: frequencies 1 and 1/10, pairs (0, 2) and (1, 3).
  x = jnp.array([1.0, 1.0, 0.0, 2.0]).reshape(1, 1, 1, 4)
  got = rotary(x, jnp.array([[3]]), 100.0).ravel()
  c, s = np.cos(0.3), np.sin(0.3)
  expected = [np.cos(3), c - 2 * s, np.sin(3), 2 * c + s]
  np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_position_0_is_not_rotated():
  x = vectors(0)
  np.testing.assert_array_equal(rotary(x, jnp.zeros((2, 3), int), THETA), x)


def test_rotary_keeps_the_norm():
  x = vectors(0)
  turned = rotary(x, jnp.array([[0, 1, 2], [7, 500, 2000]]), THETA)
  np.testing.assert_allclose(
    jnp.linalg.norm(turned, axis=-1), jnp.linalg.norm(x, axis=-1), rtol=1e-5
  )
  assert not np.allclose(turned[1], x[1], atol=0.1)


@pytest.mark.parametrize('shift', [1, 13, 1000])
def test_scores_depend_on_the_distance_only(shift):
  query, key = vectors(1), vectors(2)
  here, there = jnp.array([[5, 1, 9], [0, 3, 3]]), jnp.array([[2, 1, 0]] * 2)

  def scores(by):
    one, other = rotary(query, here + by, THETA), rotary(key, there + by, THETA)
    return jnp.sum(one * other, axis=-1)

  # An angle of 1000 is rounded at 3e-5 in float32.
  np.testing.assert_allclose(scores(shift), scores(0), atol=1e-3)
  moved = rotary(query, here + shift, THETA) * rotary(key, there, THETA)
  assert not np.allclose(jnp.sum(moved, axis=-1), scores(0), atol=0.05)


def test_rotary_keeps_the_dtype():
  x = vectors(0).astype(jnp.bfloat16)
  assert rotary(x, jnp.ones((2, 3), int), THETA).dtype == jnp.bfloat16


STRETCHED = [
  model_config.Rope(),
  model_config.Rope(1e6, 'linear', 8.0),
  # Llama 3.1 and 3.2, and one whose original context is short.
  model_config.Rope(5e5, 'llama3', 8.0, 8192, 1.0, 4.0),
  model_config.Rope(5e5, 'llama3', 32.0, 8192, 1.0, 4.0),
  model_config.Rope(100.0, 'llama3', 4.0, 64, 2.0, 6.0),
  model_config.Rope(1e6, 'yarn', 4.0, 32768),
  model_config.Rope(1e4, 'yarn', 40.0, 4096, beta_fast=16.0, beta_slow=2.0),
  model_config.Rope(1e4, 'yarn', 40.0, 4096, truncate=False),
  # So short that every pair is rescaled.
  model_config.Rope(1e4, 'yarn', 4.0, 16),
]


@pytest.mark.parametrize('ours', STRETCHED)
@pytest.mark.parametrize('head_width', [8, 64, 128])
def test_frequencies_are_those_of_transformers(ours, head_width):
  pytest.importorskip('torch')
  from transformers import LlamaConfig, modeling_rope_utils

  numbers = {
    'rope_theta': ours.theta,
    'rope_type': ours.kind,
    'factor': ours.factor,
    'original_max_position_embeddings': ours.original_context,
    'low_freq_factor': ours.low_frequency_factor,
    'high_freq_factor': ours.high_frequency_factor,
    'beta_fast': ours.beta_fast,
    'beta_slow': ours.beta_slow,
    'truncate': ours.truncate,
    'attention_factor': 1.0,
  }
  if ours.kind == 'default':
    half = np.arange(0, head_width, 2) / head_width
    expected = 1 / ours.theta**half
  else:
    hf = LlamaConfig(head_dim=head_width, max_position_embeddings=10**6)
    hf.rope_parameters = numbers
    compute = modeling_rope_utils.ROPE_INIT_FUNCTIONS[ours.kind]
    expected = compute(hf, 'cpu')[0].numpy()
  # transformers computes powers in float32.
  np.testing.assert_allclose(
    rope.frequencies(ours, head_width), expected, rtol=5e-6
  )


def test_the_attention_factor_scales_both():
  positions = jnp.arange(3)[None]
  plain = rope.rotation(model_config.Rope(), positions, 8)
  scaled = rope.rotation(model_config.Rope(attention_factor=1.5), positions, 8)
  for one, other in zip(plain, scaled, strict=True):
    np.testing.assert_allclose(one * 1.5, other, rtol=1e-6)
