"""Attention over segments against numbers worked by hand and one softmax."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sqlm_jax.ops import segment_attention

# A = K = 1 row and key head, H = 2.
ROWS, HEADS, WIDTH = 1, 1, 2


def normal(seed, *shape):
  return jax.random.normal(jax.random.key(seed), shape)


def test_one_segment_by_hand():
  # Scores 0 and log 3: weights 1/4 and 3/4, and log-sum-exp log 4.
  keys = jnp.array([[[[0.0, 0.0], [np.log(3.0), 0.0]]]])
  values = jnp.array([[[[0.0, 4.0], [8.0, 0.0]]]])
  segment = segment_attention.MaskedKeys(
    keys, values, jnp.ones((1, 1, 2), bool)
  )
  out, lse = segment_attention.attend_to_segment(
    jnp.array([[[[2.0, 0.0]]]]), segment, scale=0.5
  )
  np.testing.assert_allclose(out, [[[[6.0, 1.0]]]], rtol=1e-6)
  np.testing.assert_allclose(lse, [[[np.log(4.0)]]], rtol=1e-6)


def test_a_masked_key_is_not_read():
  segment = segment_attention.MaskedKeys(
    jnp.array([[[[0.0, 0.0], [9.0, 9.0]]]]),
    jnp.array([[[[1.0, 2.0], [7.0, 7.0]]]]),
    jnp.array([[[True, False]]]),
  )
  out, _ = segment_attention.attend_to_segment(
    jnp.ones((1, 1, 1, 2)), segment, scale=1.0
  )
  np.testing.assert_array_equal(out, [[[[1.0, 2.0]]]])


@pytest.mark.parametrize('softcap', [0.0, 0.5])
def test_the_division_into_segments_has_no_effect(softcap):
  """Compares values and gradients for two query heads and two tokens."""
  query = normal(0, ROWS, 2, 2, WIDTH)
  keys, values = (normal(i, ROWS, HEADS, 7, WIDTH) for i in (1, 2))
  weights = normal(3, *query.shape)

  def loss(query, keys, values, ends):
    pieces = zip([0, *ends], [*ends, 7], strict=True)
    segments = tuple(
      segment_attention.MaskedKeys(
        keys[:, :, start:end],
        values[:, :, start:end],
        jnp.ones((1, 1, end - start), bool),
      )
      for start, end in pieces
    )
    out = segment_attention.attend(0.7, softcap, query, segments)
    return jnp.sum(out * weights)

  for argument in (0, 1, 2):
    whole, divided = (
      jax.value_and_grad(loss, argument)(query, keys, values, ends)
      for ends in ([], [2, 3])
    )
    # float32; both sum the same products in another order.
    np.testing.assert_allclose(divided[0], whole[0], rtol=1e-5)
    np.testing.assert_allclose(divided[1], whole[1], rtol=1e-4, atol=1e-5)
