"""Transfers of arrays between host memory and the devices of a mesh."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from sqlm_jax.distributed import sharding


def place_parameter(
  path: str,
  shape: tuple[int, ...],
  pieces: Iterator[tuple[tuple[int, ...], np.ndarray]],
  *,
  dtype: jnp.dtype,
  mesh: Mesh,
) -> jax.Array:
  """Creates a sharded parameter from pieces that are read one at a time.

  Only one piece is in memory in addition to the shards: each piece is split,
  converted and written to its shards before the next one is requested.

  Args:
    path: path of the parameter, names joined by '/'.
    shape: shape of the whole parameter.
    pieces: pairs of an index and an array. The index is `(layer,)` for the
      parameter of one layer, or `()` for the whole parameter.
    dtype: dtype of the parameter.
    mesh: the device mesh.

  Returns:
    The sharded parameter.
  """
  split = sharding.parameter_sharding(path, shape, mesh)
  slices = split.addressable_devices_indices_map(shape)
  shards = {}
  for layer, piece in pieces:
    for device, index in slices.items():
      assert index is not None  # every device has a part of the parameter
      part = np.asarray(piece[index[len(layer) :]], dtype)
      if not layer:
        shards[device] = jax.device_put(part, device)
        continue
      if device not in shards:
        size = (shape[0], *part.shape)
        shards[device] = jnp.zeros(size, dtype, device=device)
      part = jax.device_put(part, device)
      shards[device] = _write_layer(shards[device], part, layer[0])
    jax.block_until_ready(list(shards.values()))  # pieces must not queue up
  return jax.make_array_from_single_device_arrays(
    shape, split, list(shards.values())
  )


@functools.partial(jax.jit, donate_argnums=0)
def _write_layer(layers: jax.Array, part: jax.Array, layer: int) -> jax.Array:
  return jax.lax.dynamic_update_index_in_dim(layers, part, layer, 0)


def put_replicated(tree: Any, mesh: Mesh) -> Any:
  """Copies host arrays to every device."""
  return jax.tree.map(lambda x: _put(x, sharding.replicated(mesh)), tree)


def put_rows(tree: Any, mesh: Mesh) -> Any:
  """Copies host arrays to the mesh, sharded by row (`sharding.rows_spec`)."""

  def put(x: np.ndarray) -> jax.Array:
    if not x.ndim:
      return _put(x, sharding.replicated(mesh))
    return _put(x, sharding.rows_spec(x.shape[0], mesh))

  return jax.tree.map(put, tree)


def _put(x: np.ndarray, split: NamedSharding) -> jax.Array:
  """Copies `x`, which every process has, to the devices of this process."""
  if split.is_fully_addressable:
    return jax.device_put(x, split)
  # device_put would first check that all processes have the same array.
  return jax.make_array_from_callback(x.shape, split, lambda index: x[index])


def fetch(array: jax.Array) -> np.ndarray:
  """Returns an array in host memory, whichever processes hold its shards.

  All processes have to call this function for an array that several processes
  share.
  """
  if isinstance(array, jax.Array) and not array.is_fully_addressable:
    assert isinstance(array.sharding, NamedSharding)  # it is on a mesh
    everywhere = sharding.replicated(array.sharding.mesh)
    array = jax.jit(lambda x: x, out_shardings=everywhere)(array)
  return np.asarray(array)
