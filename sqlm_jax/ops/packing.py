"""Packing of rows without padding.

The cost of per-token operations is then proportional to the number of real
tokens. Attention operates on rows: its inputs are unpacked before it, and its
output is packed after it. Packing, unpacking and their gradients are gathers,
never scatters.

A here is the number of parts, and S the number of slots of a part.
"""

import math
from typing import Generic, NamedTuple

import jax
import jax.numpy as jnp

from sqlm_jax.ops.arrays import Array


class Packing(NamedTuple, Generic[Array]):
  """A mapping between B rows of T tokens and A packed parts of S slots.

  Each part holds B / A consecutive rows, so that parts can be sharded over
  devices in the same way as rows. Each token has exactly one slot, and each
  slot holds at most one token.

  Attributes:
    slots: [A, S], the index `row * T + t` of the token in each slot, with rows
      counted within the part. The index of an empty slot is out of range.
    places: [A, B / A, T], the slot of each token. The slot of a padding token
      is out of range.
  """

  slots: Array
  places: Array


def pack(x: jax.Array, packing: Packing) -> jax.Array:
  """Packs rows [B, T, ...] into parts [A, S, ...], with 0 in empty slots."""
  slots, places = packing
  x = x.reshape(len(places), -1, *x.shape[2:])
  return _move(x, slots, places.reshape(len(places), -1))


def unpack(x: jax.Array, packing: Packing) -> jax.Array:
  """Unpacks parts [A, S, ...] into rows [B, T, ...], with 0 in the padding."""
  slots, places = packing
  parts, rows, width = places.shape
  x = _move(x, places.reshape(parts, -1), slots)
  return x.reshape(parts * rows, width, *x.shape[2:])


def lengthen(packing: Packing) -> Packing:
  """Returns the packing for rows of T + 1 tokens, the last of them padding."""
  slots, places = packing
  width = places.shape[2]
  # Each earlier row shifts a token by one. Out-of-range slots remain so.
  slots = slots + slots // width
  out_of_range = slots.shape[1]
  places = jnp.pad(
    places, ((0, 0), (0, 0), (0, 1)), constant_values=out_of_range
  )
  return Packing(slots, places)


@jax.custom_vjp
def _move(x: jax.Array, index: jax.Array, inverse: jax.Array) -> jax.Array:
  """Gathers x[a, index[a]], with 0 where the index is out of range.

  The gradient gathers with `inverse`, the inverse of `index`. JAX's own
  gradient would be a scatter-add.
  """
  shape = x.shape[2:]
  x = x.reshape(*x.shape[:2], math.prod(shape))
  x = jnp.take_along_axis(
    x, index[..., None], axis=1, mode='fill', fill_value=0
  )
  return x.reshape(*index.shape, *shape)


def _move_forward(
  x: jax.Array, index: jax.Array, inverse: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
  return _move(x, index, inverse), (index, inverse)


def _move_backward(
  residuals: tuple[jax.Array, jax.Array], d: jax.Array
) -> tuple[jax.Array, None, None]:
  index, inverse = residuals
  return _move(d, inverse, index), None, None


_move.defvjp(_move_forward, _move_backward)
