"""Trees of arrays as flat dicts, by the names that lead to a leaf."""

from collections.abc import Mapping
from typing import Any

import jax

Path = tuple[str, ...]  # names from the root to a leaf


def paths(tree: Any) -> dict[Path, Any]:
  """Leaves by path; the names are those of keys, fields and positions."""
  return {
    tuple(jax.tree_util.keystr((key,), simple=True) for key in path): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def nest(leaves: Mapping[Path, Any]) -> dict:
  """Dicts in dicts, by the names of the paths."""
  nested = {}
  for path, leaf in leaves.items():
    *parents, name = path
    place = nested
    for parent in parents:
      place = place.setdefault(parent, {})
    place[name] = leaf
  return nested


def fill(like: Any, leaves: Mapping[Path, Any]) -> Any:
  """A tree of the same kind with other leaves, found by their paths."""
  return jax.tree.unflatten(
    jax.tree.structure(like), [leaves[path] for path in paths(like)]
  )
