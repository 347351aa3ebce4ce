"""Layers of a decoder block.

X and Y here are the inputs and outputs of a linear map.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from sqlm_jax.ops import products

ACTIVATIONS = {
  'silu': nn.silu,
  'gelu_tanh': lambda x: nn.gelu(x, approximate=True),
}


class Lora(NamedTuple):
  """Low-rank adaptation of linear maps, Hu et al. (2021), eq. 3."""

  rank: int  # r
  alpha: float  # the adapter's output is multiplied by alpha / r


class Dtypes(NamedTuple):
  """Dtypes of parameters, activations and operands of products.

  Attributes:
    params: dtype in which parameters are stored.
    compute: dtype of activations, keys and values.
    operands: dtype of the operands of products with parameters, see
      `ops.products`.
  """

  params: jnp.dtype
  compute: jnp.dtype
  operands: jnp.dtype

  @property
  def rounds(self) -> bool:
    """True if the operands of products are rounded to another dtype."""
    return self.operands != self.compute

  def round(self, x: jax.Array) -> jax.Array:
    """Rounds a parameter that is added, such as a bias, like an operand."""
    if self.rounds:
      # XLA would remove a cast to `operands` and back.
      exact = jnp.finfo(self.operands)
      x = jax.lax.reduce_precision(x, exact.nexp, exact.nmant)
    return x.astype(self.compute)

  def multiply(self, x_MX: jax.Array, y: jax.Array, axis: int = 0) -> jax.Array:
    """Computes `x @ y` with parameters y [X, Y], or [Y, X] if `axis` is 1."""
    y = products.from_bits(y)
    if self.rounds:
      return products.multiply(x_MX, y, self.operands, axis)
    inner = ((1,), (axis,))
    return jax.lax.dot_general(x_MX, y.astype(self.compute), (inner, ((), ())))


class RMSNorm(nn.Module):
  """Root-mean-square norm in float32, Zhang and Sennrich (2019), eq. 4.

  The output is multiplied by `scale + offset`. For Gemma, which stores the
  difference of the scale from 1, `offset` is 1.
  """

  epsilon: float
  offset: float
  dtypes: Dtypes

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    start = nn.initializers.constant(1.0 - self.offset)
    scale = self.param('scale', start, (x.shape[-1],), self.dtypes.params)
    x32 = x.astype(jnp.float32)
    variance = jnp.mean(jnp.square(x32), axis=-1, keepdims=True)
    x32 = x32 * jax.lax.rsqrt(variance + self.epsilon)
    scale32 = scale.astype(jnp.float32) + self.offset
    scale32 = jnp.expand_dims(scale32, range(x.ndim - 1))
    return (x32 * scale32).astype(x.dtype)


class Projection(nn.Module):
  """A linear map between one or more dimensions, for example width and heads.

  If `lora` is given and the parameters contain the adapter, the map is
  `kernel + alpha / r a b`, where `a` maps the inputs to r dimensions and `b`
  maps these to the outputs. If the parameters contain no adapter, the map is
  the frozen base alone.
  """

  inputs: tuple[int, ...]  # sizes of the last dimensions, which are contracted
  outputs: tuple[int, ...]  # sizes of the dimensions that replace them
  dtypes: Dtypes
  bias: bool = False
  lora: Lora | None = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    in_axes = tuple(range(len(self.inputs)))
    out_axes = tuple(range(-len(self.outputs), 0))
    stored = self.dtypes.params
    kernel = self.param(
      'kernel',
      nn.initializers.lecun_normal(in_axis=in_axes, out_axis=out_axes),
      (*self.inputs, *self.outputs),
      stored,
    )
    y = self._apply(x, kernel)
    if self.bias:
      bias = self.param('bias', nn.initializers.zeros, self.outputs, stored)
      bias = bias.astype(y.dtype)
      y = y + jnp.expand_dims(bias, range(y.ndim - bias.ndim))
    if self.lora is not None and (
      self.is_initializing() or self.has_variable('params', 'lora_a')
    ):
      y = y + self._adapter(x, in_axes, self.lora)
    return y

  def _apply(self, x: jax.Array, *factors: jax.Array) -> jax.Array:
    """Multiplies `x` by `factors` as products of two-dimensional matrices.

    On a CPU, XLA copies operands of more than two dimensions before it
    multiplies them. In the backward pass, it also recomputes the copied operand
    from its inputs. Products of more dimensions are 1.4 times slower.
    """
    kept = x.shape[: x.ndim - len(self.inputs)]
    y = x.reshape(math.prod(kept), -1)
    for factor in factors:
      y = self.dtypes.multiply(y, factor.reshape(y.shape[1], -1))
    return y.reshape(*kept, *self.outputs)

  def _adapter(
    self, x: jax.Array, in_axes: tuple[int, ...], lora: Lora
  ) -> jax.Array:
    rank, alpha = lora
    # The published initialization: a is uniform within 1/sqrt(fan-in), b is 0.
    start = nn.initializers.variance_scaling(
      1 / 3, 'fan_in', 'uniform', in_axis=in_axes, out_axis=-1
    )
    # Always float32: bfloat16 would round away updates at small learning rates.
    a = self.param('lora_a', start, (*self.inputs, rank), jnp.float32)
    zeros = nn.initializers.zeros
    b = self.param('lora_b', zeros, (rank, *self.outputs), jnp.float32)
    y = self._apply(x, a, b)
    return y * (alpha / rank)


class GatedMLP(nn.Module):
  """A gated linear unit, Shazeer (2020), eq. 6: down(act(gate(x)) * up(x))."""

  width: int
  mlp_width: int
  activation: str
  bias: bool
  dtypes: Dtypes
  lora: Lora | None = None

  @nn.compact
  def __call__(self, x_BTD: jax.Array) -> jax.Array:

    def project(name: str, inputs: int, outputs: int) -> Projection:
      return Projection(
        (inputs,), (outputs,), self.dtypes, self.bias, self.lora, name=name
      )

    if self.has_variable('params', 'gate_up'):  # see `join`
      joined = project('gate_up', self.width, 2 * self.mlp_width)
      gate_BTF, up_BTF = jnp.split(joined(x_BTD), 2, axis=-1)
    else:
      gate_BTF = project('gate', self.width, self.mlp_width)(x_BTD)
      up_BTF = project('up', self.width, self.mlp_width)(x_BTD)
    down = project('down', self.mlp_width, self.width)
    return down(ACTIVATIONS[self.activation](gate_BTF) * up_BTF)


def join(
  params: dict[str, Any], names: tuple[str, ...], axis: int
) -> dict[str, Any]:
  """Concatenates the parameters of linear maps that have the same input.

  Args:
    params: parameters by the name of their module. Modules that are not in
      `names` remain unchanged.
    names: names of the linear maps to join. If any of them has an adapter, all
      parameters remain unchanged.
    axis: axis of the outputs, along which the parameters are concatenated.

  Returns:
    The parameters, with those of the joined map under the names joined by '_'.
  """
  if any('lora_a' in params[name] for name in names):
    return params
  others = {name: x for name, x in params.items() if name not in names}
  joined = jax.tree.map(
    lambda *parts: jnp.concatenate(parts, axis),
    *(params[name] for name in names),
  )
  return others | {'_'.join(names): joined}
