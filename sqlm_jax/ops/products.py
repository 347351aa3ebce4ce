"""Products of matrices in bfloat16 on a CPU.

XLA has kernels for them that are twice as fast as those for float32 where the
processor multiplies bfloat16 (AVX-512 BF16): for products that come out in
float32, of two rows or more, summed over the last dimension on the left, if all
is laid out as usual. What else a program does in bfloat16 it does in float32,
between conversions. So the operands alone are bfloat16 here (measured:
docs/benchmarks.md, what was tried).
"""

import functools

import jax
import jax.numpy as jnp


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def multiply(
  x_MK: jax.Array, y: jax.Array, dtype: jnp.dtype, axis: int = 0
) -> jax.Array:
  """`x @ y` of operands rounded to `dtype`, summed in float32.

  The products of the backward pass are of the same kind.

  Args:
    x_MK: left operand.
    y: right operand, [K, N] or [N, K].
    dtype: what both are rounded to.
    axis: of y that is K.

  Returns:
    [M, N] in float32.
  """
  return _product(x_MK, y, dtype, axis)


def _multiply_forward(x_MK, y, dtype, axis):
  return _product(x_MK, y, dtype, axis), (x_MK, y)


def _multiply_backward(dtype, axis, kept, d_MN):
  x_MK, y = kept
  d_x_MK = _product(d_MN, y, dtype, 1 - axis)
  left, right = (d_MN, x_MK) if axis else (x_MK, d_MN)
  d_y = _product(_transpose(left.astype(dtype)), right, dtype, 0)
  return d_x_MK.astype(x_MK.dtype), d_y.astype(y.dtype)


multiply.defvjp(_multiply_forward, _multiply_backward)


def _product(x, y, dtype, axis):
  rows = len(x)
  if rows == 1:
    x = jnp.pad(x, ((0, 1), (0, 0)))
  found = jax.lax.dot_general(
    x.astype(dtype),
    y.astype(dtype),
    (((1,), (axis,)), ((), ())),
    preferred_element_type=jnp.float32,
  )
  return found[:rows]


def _transpose(x):
  """`x.T`, in a way that XLA takes for an array of its own.

  A transposition of two dimensions it notes as another layout of x, for which
  it looks for a kernel, finds none, and multiplies in float32.
  """
  return jnp.transpose(x[None], (2, 0, 1)).reshape(x.shape[::-1])


def to_bits(x: jax.Array) -> jax.Array:
  """bfloat16 as integers of 16 bits.

  XLA slices stacked layers of bfloat16 out of a copy in float32, and converts
  the slice back; of integers it slices what is there.
  """
  return jax.lax.bitcast_convert_type(x.astype(jnp.bfloat16), jnp.uint16)


def from_bits(x: jax.Array) -> jax.Array:
  """The way back; other arrays as they are."""
  if x.dtype != jnp.uint16:
    return x
  return jax.lax.bitcast_convert_type(x, jnp.bfloat16)
