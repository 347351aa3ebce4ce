"""Masked values have no effect on sums and means, whatever they are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sqlm_jax.ops import masked

INF, NAN = float('inf'), float('nan')


@pytest.mark.parametrize(
  'x, mask, total, count',
  [
    ([1.0, 2.0, 4.0], [1, 1, 1], 7.0, 3),
    ([1.0, 2.0, 4.0], [1, 0, 1], 5.0, 2),
    ([1.0, 2.0, 4.0], [0, 0, 0], 0.0, 0),
    ([1.0, NAN, INF], [1, 0, 0], 1.0, 1),
    ([NAN, -INF], [0, 0], 0.0, 0),
    ([-3.0], [1], -3.0, 1),
    ([], [], 0.0, 0),
  ],
)
def test_sum_and_count(x, mask, total, count):
  x, mask = jnp.array(x), jnp.array(mask, bool)
  got_total, got_count = masked.sum_and_count(x, mask)
  assert got_total == masked.total(x, mask) == total
  assert got_count == count
  assert got_count.dtype == jnp.float32  # adds up with sums in a scan
  assert masked.mean(x, mask) == (total / count if count else 0.0)


def test_mean_along_an_axis():
  x = jnp.array([[1.0, 2.0, NAN], [4.0, INF, 8.0], [NAN, NAN, NAN]])
  mask = jnp.array([[1, 1, 0], [1, 0, 1], [0, 0, 0]], bool)
  # Rows: (1+2)/2, (4+8)/2, none. Columns: (1+4)/2, 2/1, 8/1.
  np.testing.assert_array_equal(masked.mean(x, mask, axis=1), [1.5, 6.0, 0.0])
  np.testing.assert_array_equal(masked.mean(x, mask, axis=0), [2.5, 2.0, 8.0])


def test_gradient_of_masked_entries_is_zero():
  x = jnp.array([1.0, NAN, 3.0, INF])
  mask = jnp.array([True, False, True, False])
  np.testing.assert_array_equal(
    jax.grad(lambda x: masked.mean(x, mask))(x), [0.5, 0.0, 0.5, 0.0]
  )


@pytest.mark.parametrize(
  'lengths, width, expected',
  [
    ([0, 1, 3], 3, [[0, 0, 0], [1, 0, 0], [1, 1, 1]]),
    ([5], 2, [[1, 1]]),
    ([2], 0, [[]]),
    ([[1], [2]], 2, [[[1, 0]], [[1, 1]]]),
    (1, 2, [1, 0]),
  ],
)
def test_up_to(lengths, width, expected):
  mask = masked.up_to(jnp.array(lengths), width)
  assert mask.dtype == bool
  np.testing.assert_array_equal(mask, np.array(expected, bool))
