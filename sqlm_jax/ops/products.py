"""Matrix products in bfloat16 on a CPU.

On processors that multiply bfloat16 (AVX-512 BF16), XLA has bfloat16 kernels
that are twice as fast as those for float32. XLA uses them only if the result is
float32, the left operand has at least two rows, the contraction is over the
last dimension of the left operand, and the arrays have the default layout. XLA
computes all other bfloat16 operations in float32, with conversions before and
after. Therefore only the operands of products are bfloat16 here (measured in
docs/dev/speed_notes.md).

X and Y here are the contracted dimension and that of the results. With plain
products, `multiply` is `jax.lax.dot_general`, see `layers.Dtypes.multiply`.
"""

import functools

import jax
import jax.numpy as jnp


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def multiply(
  x_MX: jax.Array, y: jax.Array, dtype: jnp.dtype, axis: int = 0
) -> jax.Array:
  """Computes `x @ y` with operands rounded to `dtype` and sums in float32.

  The products of the backward pass are computed in the same way.

  Args:
    x_MX: left operand.
    y: right operand, [X, Y] or [Y, X].
    dtype: dtype that both operands are rounded to.
    axis: the axis of `y` that is X.

  Returns:
    The product [M, Y] in float32.
  """
  return _product(x_MX, y, dtype, axis)


def _multiply_forward(
  x_MX: jax.Array, y: jax.Array, dtype: jnp.dtype, axis: int
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
  return _product(x_MX, y, dtype, axis), (x_MX, y)


def _multiply_backward(
  dtype: jnp.dtype,
  axis: int,
  residuals: tuple[jax.Array, jax.Array],
  d_MY: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  x_MX, y = residuals
  d_x_MX = _product(d_MY, y, dtype, 1 - axis)
  left, right = (d_MY, x_MX) if axis else (x_MX, d_MY)
  d_y = _product(_transpose(left.astype(dtype)), right, dtype, 0)
  return d_x_MX.astype(x_MX.dtype), d_y.astype(y.dtype)


multiply.defvjp(_multiply_forward, _multiply_backward)


def _product(
  x: jax.Array, y: jax.Array, dtype: jnp.dtype, axis: int
) -> jax.Array:
  rows = len(x)
  if rows == 1:
    x = jnp.pad(x, ((0, 1), (0, 0)))
  product = jax.lax.dot_general(
    x.astype(dtype),
    y.astype(dtype),
    (((1,), (axis,)), ((), ())),
    preferred_element_type=jnp.float32,
  )
  return product[:rows]


def _transpose(x: jax.Array) -> jax.Array:
  """Returns `x.T` as an array with the default layout.

  XLA represents a two-dimensional transpose as a change of the layout of x. It
  has no bfloat16 kernel for that layout and multiplies in float32.
  """
  return jnp.transpose(x[None], (2, 0, 1)).reshape(x.shape[::-1])


def to_bits(x: jax.Array) -> jax.Array:
  """Returns the bits of a bfloat16 array as uint16.

  To slice a layer out of stacked bfloat16 layers, XLA converts the whole array
  to float32 and the slice back to bfloat16. It slices integers directly.
  """
  return jax.lax.bitcast_convert_type(x.astype(jnp.bfloat16), jnp.uint16)


def from_bits(x: jax.Array) -> jax.Array:
  """Inverts `to_bits`. Returns arrays that are not uint16 unchanged."""
  if x.dtype != jnp.uint16:
    return x
  return jax.lax.bitcast_convert_type(x, jnp.bfloat16)
