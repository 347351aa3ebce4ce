"""Rows side by side: without the padding between them, or of many segments.

What a model does to each token alone then costs what there is of tokens. What
looks from token to token, the attention, goes by rows: they are unpacked before
and packed behind. Both only read, and so do their gradients.
"""

import dataclasses
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


def lengthen(packing: Packing) -> Packing:
  """The same for rows of T + 1, whose last token is padding."""
  slots, places = packing
  width = places.shape[2]
  # Each row before a token moves it by one; what is nowhere stays so.
  slots = slots + slots // width
  nowhere = slots.shape[1]
  places = jnp.pad(places, ((0, 0), (0, 0), (0, 1)), constant_values=nowhere)
  return Packing(slots, places)


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


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class OneRow:
  """The tokens of all segments in one row, for what looks at each alone.

  There is then one product with a weight, and one gradient of it, instead of
  as many as segments, some of which are short.
  """

  shapes: tuple[tuple[int, int], ...]  # [A, S] of the segments' tokens

  def join(self, x_IAS):
    """[A, S, ...] of every segment to [1, M, ...]."""
    rows = [x_AS.reshape(1, -1, *x_AS.shape[2:]) for x_AS in x_IAS]
    return jnp.concatenate(rows, axis=1)

  def split(self, x_1M):
    """The way back."""
    sizes = [math.prod(shape) for shape in self.shapes]
    parts = jax.lax.split(x_1M, sizes, axis=1)
    return tuple(
      part.reshape(*shape, *x_1M.shape[2:])
      for part, shape in zip(parts, self.shapes, strict=True)
    )
