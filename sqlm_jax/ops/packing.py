"""Rows of different lengths side by side, without the padding between them.

What a model does to each token alone then costs what there is of tokens. What
looks from token to token, the attention, goes by rows: they are unpacked before
and packed behind. Both only read, and so do their gradients.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Packing(NamedTuple):
  """Where the tokens of B rows of T stand in A parts of S.

  As many consecutive rows share each part, so that parts may be split over
  devices as rows are. A token has one place, and a place one token at most.
  """

  slots: jax.Array  # [A, S], row T + t in the part's rows; no such where empty
  places: jax.Array  # [A, B / A, T], which of S; no such where padding is


def pack(x: jax.Array, packing: Packing) -> jax.Array:
  """Rows [B, T, ...] to parts [A, S, ...], 0 in what is empty."""
  slots, places = packing
  x = x.reshape(len(places), -1, *x.shape[2:])
  return _move(x, slots, places.reshape(len(places), -1))


def unpack(x: jax.Array, packing: Packing) -> jax.Array:
  """Parts [A, S, ...] to rows [B, T, ...], 0 in the padding."""
  slots, places = packing
  parts, rows, width = places.shape
  x = _move(x, places.reshape(parts, -1), slots)
  return x.reshape(parts * rows, width, *x.shape[2:])


@jax.custom_vjp
def _move(x, index, back):
  """x[a, index[a]], 0 where there is no such.

  The gradient is the way back. JAX would add up what comes from each index.
  """
  shape = x.shape[2:]
  x = x.reshape(*x.shape[:2], math.prod(shape))
  x = jnp.take_along_axis(
    x, index[..., None], axis=1, mode='fill', fill_value=0
  )
  return x.reshape(*index.shape, *shape)


def _move_forward(x, index, back):
  return _move(x, index, back), (index, back)


def _move_backward(kept, d):
  index, back = kept
  return _move(d, back, index), None, None


_move.defvjp(_move_forward, _move_backward)
