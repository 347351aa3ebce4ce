"""Adapters against the kernels that they are equivalent to."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sqlm_jax.models import layers, lora
from sqlm_jax.models import policy as policy_lib
from tests import tiny

LORA = layers.Lora(rank=3, alpha=6.0)
POLICY = policy_lib.make_policy(tiny.CONFIG, lora=LORA)
TOKENS_BT = np.arange(12).reshape(2, 6) * 7 % 300


@pytest.fixture(scope='module')
def params():
  """Returns parameters with nonzero adapters."""
  params = jax.jit(POLICY.init)(jax.random.key(0))
  moved = jax.tree.map(
    lambda x: 0.1 * jax.random.normal(jax.random.key(x.size), x.shape),
    lora.adapters(params),
  )
  return lora.join(lora.base(params), moved)


@jax.jit
@functools.partial(jax.value_and_grad, argnums=(0, 1))
def likelihood(base, adapters):
  params = lora.join(base, adapters)
  hidden_BTD, _ = POLICY.forward(params, TOKENS_BT, np.full(2, 6))
  logps = jax.nn.log_softmax(POLICY.logits(params, hidden_BTD)[:, :-1])
  return jnp.sum(logps * jax.nn.one_hot(TOKENS_BT[:, 1:], 300))


def test_new_adapters_change_nothing():
  params = jax.jit(POLICY.init)(jax.random.key(0))
  base, adapters = lora.base(params), lora.adapters(params)
  assert not any(
    np.any(x)
    for p, x in jax.tree.leaves_with_path(adapters)
    if p[-1].key == 'lora_b'
  )
  assert likelihood(base, adapters)[0] == likelihood(base, {})[0]


def test_base_and_adapters_are_two_halves(params):
  base, adapters = lora.base(params), lora.adapters(params)

  def count(tree):
    return len(jax.tree.leaves(tree))

  assert count(base) + count(adapters) == count(params)
  assert count(adapters) == 2 * 7  # seven linear maps a block
  assert set(adapters) == {'layers'}  # no empty branches
  assert jax.tree.structure(lora.join(base, adapters)) == jax.tree.structure(
    params
  )
  plain = policy_lib.make_policy(tiny.CONFIG)
  shapes = jax.eval_shape(plain.init, jax.random.key(0))
  assert jax.tree.structure(base) == jax.tree.structure(shapes)


def test_merged_and_adapted_are_one_model(params):
  merged = lora.merge(params, LORA)
  apart = likelihood(lora.base(params), lora.adapters(params))[0]
  np.testing.assert_allclose(likelihood(merged, {})[0], apart, rtol=1e-5)
  assert abs(likelihood(lora.base(params), {})[0] - apart) > 0.1


def test_a_small_change_of_a_frozen_kernel_survives_in_more_bits(params):
  """In bfloat16, the dtype of frozen kernels, most of it would be lost."""
  frozen = jax.tree.map(lambda x: x.astype(jnp.bfloat16), lora.base(params))
  small = jax.tree.map(lambda x: x * 1e-2, lora.adapters(params))
  merged = lora.merge(lora.join(frozen, small), LORA, 'float32')
  wider = jax.tree.map(lambda x: x.astype(jnp.float32), frozen)
  expected = lora.merge(lora.join(wider, small), LORA)
  for name in ('gate', 'down'):
    found, whole = (
      tree['layers']['mlp'][name]['kernel'] for tree in (merged, expected)
    )
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, whole)
    narrow = lora.merge(lora.join(frozen, small), LORA)
    assert narrow['layers']['mlp'][name]['kernel'].dtype == jnp.bfloat16


def test_gradients_are_those_of_the_merged_kernel(params):
  """W = K + alpha / r A B, so dA = alpha / r dW B' and dB = alpha / r A' dW."""
  merged = lora.merge(params, LORA)
  of_merged = likelihood(merged, {})[1][0]['layers']
  of_adapters = likelihood(lora.base(params), lora.adapters(params))[1][1]
  scale = LORA.alpha / LORA.rank
  for group in ('attention', 'mlp'):
    for name, found in of_adapters['layers'][group].items():
      here = params['layers'][group][name]
      a, b = here['lora_a'], here['lora_b']
      flat_a = np.asarray(a).reshape(2, -1, 3)
      flat_b = np.asarray(b).reshape(2, 3, -1)
      d_kernel = np.asarray(of_merged[group][name]['kernel'])
      d_kernel = d_kernel.reshape(2, flat_a.shape[1], flat_b.shape[2])
      expected_a = scale * d_kernel @ flat_b.swapaxes(1, 2)
      expected_b = scale * flat_a.swapaxes(1, 2) @ d_kernel
      close = {'rtol': 1e-3, 'atol': 1e-4}
      np.testing.assert_allclose(
        found['lora_a'].reshape(flat_a.shape), expected_a, **close
      )
      np.testing.assert_allclose(
        found['lora_b'].reshape(flat_b.shape), expected_b, **close
      )
      assert np.abs(expected_a).max() > 1e-2


def test_adapters_are_float32_in_a_bfloat16_model():
  halves = policy_lib.make_policy(tiny.CONFIG, dtype='bfloat16', lora=LORA)
  params = jax.eval_shape(halves.init, jax.random.key(0))

  def dtypes(tree):
    return {str(x.dtype) for x in jax.tree.leaves(tree)}

  assert dtypes(lora.adapters(params)) == {'float32'}
  assert dtypes(lora.base(params)) == {'bfloat16'}
