"""Integer arithmetic, for Python integers and for arrays."""

from typing import TypeVar

import jax

Integer = TypeVar('Integer', int, jax.Array)


def ceil_div(dividend: Integer, divisor: int | jax.Array) -> Integer:
  """Returns `dividend / divisor`, rounded up to an integer."""
  return -(-dividend // divisor)
