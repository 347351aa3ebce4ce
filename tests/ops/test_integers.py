"""Tests of integer arithmetic."""

import jax.numpy as jnp
import pytest

from sqlm_jax.ops import integers


@pytest.mark.parametrize(
  'dividend, divisor, expected',
  [(0, 3, 0), (1, 3, 1), (3, 3, 1), (4, 3, 2), (2**62 + 1, 2, 2**61 + 1)],
)
def test_ceil_div_rounds_up(dividend, divisor, expected):
  assert integers.ceil_div(dividend, divisor) == expected


def test_ceil_div_of_an_array():
  found = integers.ceil_div(jnp.array([0, 1, 4]), 4)
  assert found.tolist() == [0, 1, 1]
  assert found.dtype == jnp.int32
