"""Packing of rows without padding, and joining of segments into one row.

The cost of per-token operations is then proportional to the number of real
tokens. Attention operates on rows: its inputs are unpacked before it, and its
output is packed after it. Packing, unpacking and their gradients are gathers,
never scatters.
"""

import dataclasses
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
  nowhere = slots.shape[1]
  places = jnp.pad(places, ((0, 0), (0, 0), (0, 1)), constant_values=nowhere)
  return Packing(slots, places)


@jax.custom_vjp
def _move(x, index, back):
  """Gathers x[a, index[a]], with 0 where the index is out of range.

  The gradient gathers with `back`, the inverse of `index`. JAX's own gradient
  would be a scatter-add.
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
  """Joins the tokens of all segments into one row for per-token operations.

  Each weight then takes part in one product and one gradient, instead of one
  per segment. Some segments are short.

  Attributes:
    shapes: the shape [A, S] of the tokens of each segment.
  """

  shapes: tuple[tuple[int, int], ...]

  def join(self, x_IAS):
    """Joins arrays [A, S, ...], one per segment, into [1, M, ...]."""
    rows = [x_AS.reshape(1, -1, *x_AS.shape[2:]) for x_AS in x_IAS]
    return jnp.concatenate(rows, axis=1)

  def split(self, x_1M):
    """Splits [1, M, ...] into one array [A, S, ...] per segment."""
    sizes = [math.prod(shape) for shape in self.shapes]
    parts = jax.lax.split(x_1M, sizes, axis=1)
    return tuple(
      part.reshape(*shape, *x_1M.shape[2:])
      for part, shape in zip(parts, self.shapes, strict=True)
    )
