"""Layouts of the segments of a chain for operations on single tokens.

A layer processes all segments of a chain, see `decoder`. Only attention needs
them apart. With `Joined`, the other operations process the tokens of all
segments as one row, so that each weight takes part in one product and has one
gradient, instead of one per segment. `Separate` is the plain layout. Both
compute the same.

I here enumerates the segments.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from sqlm_jax.distributed import sharding
from sqlm_jax.models import attention

Trees = tuple[Any, ...]  # one tree of arrays [A, T, ...] per segment


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Separate:
  """Leaves the segments as they are."""

  def join(self, trees: Sequence[Any]) -> Trees:
    """Returns the trees of the segments."""
    return tuple(trees)

  def split(self, trees: Sequence[Any]) -> Trees:
    """Returns the trees of the segments."""
    return tuple(trees)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Joined:
  """Joins the tokens of all segments into one row.

  Attributes:
    shapes: the shape [A, T] of the tokens of each segment.
  """

  shapes: tuple[tuple[int, ...], ...]

  def join(self, trees: Sequence[Any]) -> Trees:
    """Joins arrays [A, T, ...], one per segment, into one array [1, M, ...].

    Args:
      trees: one tree of arrays per segment.

    Returns:
      A tuple of a single tree.
    """

    def join_arrays(*x_IAT: jax.Array) -> jax.Array:
      rows = [x_AT.reshape(1, -1, *x_AT.shape[2:]) for x_AT in x_IAT]
      return jnp.concatenate(rows, axis=1)

    return (jax.tree.map(join_arrays, *trees),)

  def split(self, trees: Sequence[Any]) -> Trees:
    """Inverts `join`."""
    (joined,) = trees
    leaves, treedef = jax.tree.flatten(joined)
    sizes = [math.prod(shape) for shape in self.shapes]

    def split_array(x_1M: jax.Array) -> list[jax.Array]:
      parts = jax.lax.split(x_1M, sizes, axis=1)
      return [
        part.reshape(*shape, *x_1M.shape[2:])
        for part, shape in zip(parts, self.shapes, strict=True)
      ]

    by_leaf = [split_array(leaf) for leaf in leaves]
    return tuple(
      treedef.unflatten(parts) for parts in zip(*by_leaf, strict=True)
    )


Layout = Separate | Joined


def choose(
  segments: Sequence[attention.Segment], mesh: jax.sharding.Mesh | None
) -> Layout:
  """Returns the faster layout: `Joined` on a single CPU or GPU.

  Several devices would have to move rows between them, and the gain on a single
  TPU was not measured.
  """
  is_alone = mesh is not None and mesh.size == 1
  if not is_alone or sharding.are_tpus(mesh) or len(segments) == 1:
    return Separate()
  return Joined(tuple(x.tokens.shape for x in segments))
