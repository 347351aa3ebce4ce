"""Tests of soft-caps."""

import jax.numpy as jnp
import numpy as np

from sqlm_jax.ops import soft_cap


def test_soft_cap_by_hand():
  # 2 tanh(0.5 / 2) = 0.48984; large numbers become the cap.
  x = jnp.array([0.5, 1e6, -1e6])
  np.testing.assert_allclose(
    soft_cap.soft_cap(x, 2.0), [0.48984, 2.0, -2.0], rtol=1e-4
  )


def test_a_cap_of_0_is_no_limit():
  x = jnp.array([0.5, 1e6, -1e6])
  np.testing.assert_array_equal(soft_cap.soft_cap(x, 0.0), x)
