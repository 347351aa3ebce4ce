"""The layers that a decoder block is built from."""

import jax
import jax.numpy as jnp
from flax import linen as nn


class RMSNorm(nn.Module):
  """Root-mean-square norm in float32, Zhang and Sennrich (2019), eq. 4."""

  epsilon: float
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    scale = self.param(
      'scale', nn.initializers.ones, (x.shape[-1],), self.dtype
    )
    x32 = x.astype(jnp.float32)
    variance = jnp.mean(jnp.square(x32), axis=-1, keepdims=True)
    x32 = x32 * jax.lax.rsqrt(variance + self.epsilon)
    # Like transformers: round to the model's dtype first, scale second.
    return jnp.einsum('...d,d->...d', x32.astype(x.dtype), scale)


class Projection(nn.Module):
  """A linear map with a named einsum, so that heads stay a dimension."""

  equation: str
  shape: tuple[int, ...]
  in_axes: tuple[int, ...]  # the axes of `shape` that are summed over
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    out_axes = tuple(i for i in range(len(self.shape)) if i not in self.in_axes)
    kernel = self.param(
      'kernel',
      nn.initializers.lecun_normal(in_axis=self.in_axes, out_axis=out_axes),
      self.shape,
      self.dtype,
    )
    return jnp.einsum(self.equation, x, kernel)


class GatedMLP(nn.Module):
  """SwiGLU, Shazeer (2020), eq. 6: down(silu(gate(x)) * up(x))."""

  width: int
  mlp_width: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x_BTD: jax.Array) -> jax.Array:
    wide = (self.width, self.mlp_width)
    gate = Projection('btd,df->btf', wide, (0,), self.dtype, name='gate')
    up = Projection('btd,df->btf', wide, (0,), self.dtype, name='up')
    down = Projection('btf,fd->btd', wide[::-1], (0,), self.dtype, name='down')
    return down(nn.silu(gate(x_BTD)) * up(x_BTD))


def rotary(x_BTNH: jax.Array, positions_BT: jax.Array, theta: float):
  """Rotary position embedding, Su et al. (2021), eq. 34, half-split layout.

  Dimension `i` is paired with `i + H/2`, as Hugging Face checkpoints store it.

  Args:
    x_BTNH: queries or keys.
    positions_BT: absolute positions, counted from 0.
    theta: the base of the geometric series of wavelengths.

  Returns:
    Rotated queries or keys, in the dtype of `x_BTNH`.
  """
  half = x_BTNH.shape[-1] // 2
  frequencies = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
  angles_BTH = (
    positions_BT[..., None].astype(jnp.float32) * frequencies[None, None, :]
  )
  sin, cos = jnp.sin(angles_BTH)[:, :, None], jnp.cos(angles_BTH)[:, :, None]
  first, second = jnp.split(x_BTNH.astype(jnp.float32), 2, axis=-1)
  rotated = jnp.concatenate(
    [first * cos - second * sin, second * cos + first * sin], axis=-1
  )
  return rotated.astype(x_BTNH.dtype)
