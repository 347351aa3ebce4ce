"""The layers that a decoder block is built from."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

ACTIVATIONS = {
  'silu': nn.silu,
  'gelu_tanh': lambda x: nn.gelu(x, approximate=True),
}


class Lora(NamedTuple):
  """Low-rank adaptation of linear maps, Hu et al. (2021), eq. 3."""

  rank: int  # r
  alpha: float  # the adapter's output is scaled by alpha / r


class Dtypes(NamedTuple):
  """What parameters are stored in, and what is computed with them."""

  params: jnp.dtype
  compute: jnp.dtype


class RMSNorm(nn.Module):
  """Root-mean-square norm in float32, Zhang and Sennrich (2019), eq. 4.

  Gemma stores the scale's distance from 1: then `offset` is 1.
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
    return jnp.einsum('...d,d->...d', x32, scale32).astype(x.dtype)


class Projection(nn.Module):
  """A linear map with a named einsum, so that heads stay a dimension.

  With `lora`, and where the parameters have the adapter, the map is
  `kernel + alpha / r a b`: `a` from the inputs to r, `b` from r to the
  outputs. Parameters without the adapter are the frozen base alone.
  """

  equation: str
  shape: tuple[int, ...]
  in_axes: tuple[int, ...]  # the axes of `shape` that are summed over
  dtypes: Dtypes
  bias: bool = False
  lora: Lora | None = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    out_axes = tuple(i for i in range(len(self.shape)) if i not in self.in_axes)
    stored, dtype = self.dtypes
    out_shape = tuple(self.shape[i] for i in out_axes)
    kernel = self.param(
      'kernel',
      nn.initializers.lecun_normal(in_axis=self.in_axes, out_axis=out_axes),
      self.shape,
      stored,
    )
    y = jnp.einsum(self.equation, x, kernel.astype(dtype))
    if self.bias:
      bias = self.param('bias', nn.initializers.zeros, out_shape, stored)
      bias = bias.astype(dtype)
      y = y + jnp.expand_dims(bias, range(y.ndim - bias.ndim))
    if self.lora and (
      self.is_initializing() or self.has_variable('params', 'lora_a')
    ):
      y = y + self._adapter(x, out_shape)
    return y

  def _adapter(self, x: jax.Array, out_shape: tuple[int, ...]) -> jax.Array:
    rank, alpha = self.lora
    # The published initialisation: uniform within 1/sqrt(fan-in), and zeros.
    start = nn.initializers.variance_scaling(
      1 / 3, 'fan_in', 'uniform', in_axis=self.in_axes, out_axis=-1
    )
    in_shape = tuple(self.shape[i] for i in self.in_axes)
    # Always float32: steps of a small learning rate vanish in bfloat16.
    a = self.param('lora_a', start, (*in_shape, rank), jnp.float32)
    zeros = nn.initializers.zeros
    b = self.param('lora_b', zeros, (rank, *out_shape), jnp.float32)
    inputs, rest = self.equation.split(',')
    kernel, outputs = rest.split('->')
    ins = ''.join(kernel[i] for i in self.in_axes)
    outs = ''.join(c for c in kernel if c not in ins)
    rows = ''.join(c for c in inputs if c not in ins)
    narrow = jnp.einsum(f'{inputs},{ins}r->{rows}r', x, a.astype(x.dtype))
    wide = jnp.einsum(f'{rows}r,r{outs}->{outputs}', narrow, b.astype(x.dtype))
    return wide * (alpha / rank)


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
    wide = (self.width, self.mlp_width)
    project = lambda name, equation, shape: Projection(
      equation, shape, (0,), self.dtypes, self.bias, self.lora, name=name
    )
    gate = project('gate', 'btd,df->btf', wide)
    up = project('up', 'btd,df->btf', wide)
    down = project('down', 'btf,fd->btd', wide[::-1])
    return down(ACTIVATIONS[self.activation](gate(x_BTD)) * up(x_BTD))


def softcap(x: jax.Array, cap: float) -> jax.Array:
  """Keeps numbers within (-cap, cap), Gemma 2 (2024), section 2; 0 does not."""
  return cap * jnp.tanh(x / cap) if cap else x
