"""Norms, linear maps and adapters against their definitions."""

import jax.numpy as jnp
import numpy as np

from sqlm_jax.models import layers

FLOAT32 = layers.Dtypes(*[jnp.dtype('float32')] * 3)


def test_norm_by_hand():
  # Mean square (9 + 16) / 2 = 12.5.
  x = jnp.array([[[3.0, 4.0]], [[0.0, 0.0]]])
  norm = layers.RMSNorm(0.0, 0.0, FLOAT32)
  scale = {'params': {'scale': jnp.array([1.0, 2.0])}}
  root = 12.5**0.5
  np.testing.assert_allclose(
    norm.apply(scale, x[:1]), [[[3 / root, 8 / root]]], rtol=1e-6
  )
  # With epsilon, zeros stay 0: 0 / sqrt(0 + 1e-5).
  small = layers.RMSNorm(1e-5, 0.0, FLOAT32).apply(scale, x)
  np.testing.assert_array_equal(small[1], [[0.0, 0.0]])


def test_an_offset_is_added_to_the_scale():
  x = jnp.array([[[3.0, 4.0]]])

  def apply(offset, scale):
    return layers.RMSNorm(0.0, offset, FLOAT32).apply(
      {'params': {'scale': jnp.array(scale)}}, x
    )

  np.testing.assert_array_equal(
    apply(1.0, [0.25, -0.5]), apply(0.0, [1.25, 0.5])
  )


def test_adapter_by_hand():
  # One input, heads [1, 2]: kernel (1, 2), a = 3, b = (5, 7), alpha / r = 2.
  lora = layers.Lora(rank=1, alpha=2.0)
  model = layers.Projection((1,), (1, 2), FLOAT32, True, lora)
  params = {
    'kernel': jnp.array([[[1.0, 2.0]]]),
    'bias': jnp.array([[10.0, 20.0]]),
    'lora_a': jnp.array([[3.0]]),
    'lora_b': jnp.array([[[5.0, 7.0]]]),
  }
  x = jnp.array([[[1.0]]])
  got = model.apply({'params': params}, x)
  # 1 + 10 + 2 * 15 and 2 + 20 + 2 * 21.
  np.testing.assert_array_equal(got, [[[[41.0, 64.0]]]])
  del params['lora_a'], params['lora_b']
  frozen = model.apply({'params': params}, x)
  np.testing.assert_array_equal(frozen, [[[[11.0, 22.0]]]])
