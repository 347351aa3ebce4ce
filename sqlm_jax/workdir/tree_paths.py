"""Conversion between pytrees and flat dicts that are keyed by paths."""

from collections.abc import Mapping
from typing import Any

import jax

Path = tuple[str, ...]  # names from the root to a leaf


def paths(tree: Any) -> dict[Path, Any]:
  """Returns the leaves by path, made of keys, field names and indices."""
  return {
    tuple(jax.tree_util.keystr((key,), simple=True) for key in path): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def nest(leaves: Mapping[Path, Any]) -> dict:
  """Returns nested dicts whose keys are the names in the paths."""
  nested = {}
  for path, leaf in leaves.items():
    *parents, name = path
    place = nested
    for parent in parents:
      place = place.setdefault(parent, {})
    place[name] = leaf
  return nested


def fill(like: Any, leaves: Mapping[Path, Any]) -> Any:
  """Returns a tree with the structure of `like` and the given leaves."""
  return jax.tree.unflatten(
    jax.tree.structure(like), [leaves[path] for path in paths(like)]
  )
