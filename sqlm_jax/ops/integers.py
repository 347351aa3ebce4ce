"""Integer arithmetic, for Python integers and for arrays."""

from typing import Any, overload

import jax


@overload
def ceil_div(dividend: int, divisor: int) -> int: ...


@overload
def ceil_div(dividend: jax.Array, divisor: int | jax.Array) -> jax.Array: ...


def ceil_div(dividend: Any, divisor: Any) -> Any:
  """Returns `dividend / divisor`, rounded up to an integer."""
  return -(-dividend // divisor)
