"""Device mesh, and the sharding of parameters, rows, logits and caches."""

import math
import re
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

Tree = Any  # a tree of arrays, of their shapes or of their shardings

AXES = ('data', 'fsdp', 'tensor')
ROW_AXES = ('data', 'fsdp')  # the rows of a batch are sharded over both
VOCABULARY_AXES = ('tensor', 'fsdp')  # axes for logits, see `split_logits`

# Patterns of parameter paths, and the PartitionSpec of their dimensions. The
# first match applies. Layer parameters have a leading L, which is not sharded.
PARAMETER_RULES = (
  (r'embedding', P('tensor', 'fsdp')),
  (r'unembed/kernel', P('fsdp', 'tensor')),
  (r'layers/attention/(query|key|value)/kernel', P(None, 'fsdp', 'tensor')),
  (r'layers/attention/output/kernel', P(None, 'tensor', None, 'fsdp')),
  (r'layers/mlp/(gate|up)/kernel', P(None, 'fsdp', 'tensor')),
  (r'layers/mlp/down/kernel', P(None, 'tensor', 'fsdp')),
  (r'layers/attention/(query|key|value)/bias', P(None, 'tensor')),
  (r'layers/mlp/(gate|up)/bias', P(None, 'tensor')),
  (r'layers/(attention/output|mlp/down)/bias', P(None, 'fsdp')),
  (r'(layers/(attention/)?\w+|final)_norm/scale', P()),
  (r'value_head/kernel', P()),  # [D], too small for sharding to pay off
  # Adapters are sharded like the inputs and outputs of their linear map, and
  # never along the rank.
  (r'layers/attention/(query|key|value)/lora_a', P(None, 'fsdp')),
  (r'layers/attention/(query|key|value)/lora_b', P(None, None, 'tensor')),
  (r'layers/attention/output/lora_a', P(None, 'tensor')),
  (r'layers/attention/output/lora_b', P(None, None, 'fsdp')),
  (r'layers/mlp/(gate|up)/lora_a', P(None, 'fsdp')),
  (r'layers/mlp/(gate|up)/lora_b', P(None, None, 'tensor')),
  (r'layers/mlp/down/lora_a', P(None, 'tensor')),
  (r'layers/mlp/down/lora_b', P(None, None, 'fsdp')),
)


def make_mesh(
  shape: dict[str, int], devices: list[jax.Device] | None = None
) -> Mesh:
  """Creates the device mesh.

  Args:
    shape: size of each axis of `AXES`. At most one size may be -1, which takes
      all remaining devices. Without a -1, a single process may use fewer
      devices than there are.
    devices: devices of the mesh; defaults to all devices.

  Returns:
    The mesh with axes `AXES`.

  Raises:
    ValueError: if there are not enough devices, if the size -1 cannot be
      resolved, or if several processes do not use all devices.
  """
  devices = jax.devices() if devices is None else devices
  sizes = [shape[axis] for axis in AXES]
  fixed = math.prod(size for size in sizes if size != -1)
  if sizes.count(-1) == 1 and fixed > 0 and len(devices) % fixed == 0:
    sizes[sizes.index(-1)] = len(devices) // fixed
  count = math.prod(sizes)
  if min(sizes) < 1 or count > len(devices):
    raise ValueError(
      f'mesh={dict(shape)!r}: expected sizes for {len(devices)} devices, '
      'with -1 for at most one'
    )
  if jax.process_count() > 1 and count < len(devices):
    raise ValueError(
      f'mesh={dict(shape)!r}: expected all {len(devices)} devices, as several '
      'processes have them'
    )
  devices = devices[:count]
  arrange = across_slices if len(_slices(devices)) > 1 else within_slice
  axis_types = (jax.sharding.AxisType.Auto,) * len(AXES)
  return Mesh(arrange(sizes, devices), AXES, axis_types=axis_types)


def is_on_cpu(mesh: Mesh) -> bool:
  """Returns True if the devices of a mesh are CPUs."""
  return mesh.devices.flat[0].platform == 'cpu'


def is_one_cpu(mesh: Mesh) -> bool:
  """Returns True if a mesh consists of a single CPU device."""
  return mesh.size == 1 and is_on_cpu(mesh)


def are_tpus(mesh: Mesh) -> bool:
  """Returns True if the devices of a mesh are TPUs."""
  return mesh.devices.flat[0].platform == 'tpu'


def are_gpus(mesh: Mesh) -> bool:
  """Returns True if the devices of a mesh are NVIDIA GPUs, Ampere or newer."""
  device = mesh.devices.flat[0]
  if not device.device_kind.startswith('NVIDIA'):
    return False
  # An abstract device of a topology has no compute capability.
  capability = getattr(device, 'compute_capability', '8.0')
  return float(capability) >= 8.0


def _slices(devices: list[jax.Device]) -> set[int]:
  """Returns the indices of the TPU slices of devices, {0} for other devices."""
  on_tpu = devices[0].platform == 'tpu'
  return {getattr(d, 'slice_index', 0) if on_tpu else 0 for d in devices}


def within_slice(sizes: list[int], devices: list[jax.Device]) -> np.ndarray:
  """Arranges the devices of one TPU slice, or other devices, in mesh order.

  A mesh axis may use a part of a torus axis, which `jax.make_mesh` refuses on
  most chips. For example, a 4x4x4 torus can be arranged as a 32x2 mesh only by
  splitting a torus axis.

  Returns:
    The devices [data, fsdp, tensor].
  """
  return mesh_utils.create_device_mesh(
    sizes, devices, allow_split_physical_axes=True
  )


def across_slices(sizes: list[int], devices: list[jax.Device]) -> np.ndarray:
  """Arranges the devices of several TPU slices in mesh order.

  The network between slices is slow. Only the `data` axis crosses it, once per
  update, or the `fsdp` axis if the size of `data` is not a multiple of the
  number of slices.

  Returns:
    The devices [data, fsdp, tensor].

  Raises:
    ValueError: if neither axis size is a multiple of the number of slices.
  """
  slices = len(_slices(devices))
  for axis in (AXES.index(name) for name in ROW_AXES):
    if sizes[axis] % slices == 0:
      outer = [slices if i == axis else 1 for i in range(len(sizes))]
      inner = [size // n for size, n in zip(sizes, outer, strict=True)]
      return mesh_utils.create_hybrid_device_mesh(
        inner, outer, devices, allow_split_physical_axes=True
      )
  raise ValueError(
    f'mesh.data={sizes[0]}: expected a multiple of the {slices} slices'
  )


def parameter_spec(path: str, shape: tuple[int, ...], mesh: Mesh) -> P:
  """Returns the PartitionSpec of one parameter.

  Args:
    path: names from the root of the tree, joined by '/'.
    shape: shape of the parameter. A dimension that is not divisible by the size
      of its mesh axis is replicated, so that a small number of heads (such as
      K = 3) is not an error.
    mesh: the device mesh.

  Raises:
    ValueError: if no rule matches the parameter, if the rule has more
      dimensions than the parameter, or if the rule uses an axis twice.
  """
  for pattern, spec in PARAMETER_RULES:
    if not re.fullmatch(pattern, path):
      continue
    axes = [axis for axis in spec if axis is not None]
    if len(axes) != len(set(axes)):
      raise ValueError(f'{path}: rule {pattern!r} uses an axis twice: {spec}')
    if len(spec) > len(shape):
      raise ValueError(f'{path}: rule {pattern!r} has more dimensions: {spec}')
    return P(
      *(
        axis if axis and size % mesh.shape[axis] == 0 else None
        for axis, size in zip(spec, shape, strict=False)
      )
    )
  raise ValueError(f'{path}: no sharding rule, add one to PARAMETER_RULES')


def _path_name(path: tuple[Any, ...]) -> str:
  """Returns the names of a path, joined by '/'."""
  return '/'.join(str(getattr(k, 'key', getattr(k, 'name', k))) for k in path)


def parameter_sharding(
  path: str, shape: tuple[int, ...], mesh: Mesh
) -> NamedSharding:
  """Returns the NamedSharding of one parameter, see `parameter_spec`."""
  return NamedSharding(mesh, parameter_spec(path, shape, mesh))


def shard_parameters(tree: Tree, mesh: Mesh) -> Tree:
  """Returns the NamedSharding of each parameter of a tree.

  The leaves of the tree are arrays or abstract arrays.
  """
  return jax.tree_util.tree_map_with_path(
    lambda path, x: parameter_sharding(_path_name(path), x.shape, mesh), tree
  )


def shard_gathered(tree: Tree, mesh: Mesh) -> Tree:
  """Returns the shardings of `shard_parameters`, but replicated over `fsdp`."""
  return jax.tree.map(
    lambda split: NamedSharding(
      mesh, P(*(None if axis == 'fsdp' else axis for axis in split.spec))
    ),
    shard_parameters(tree, mesh),
  )


def shard_like_parameters(tree: Tree, params: Tree, mesh: Mesh) -> Tree:
  """Returns shardings for a tree that contains copies of the parameters.

  The path of an optimizer moment ends with the path of its parameter. A leaf
  with such a path and the shape of that parameter is sharded like the
  parameter. All other leaves are replicated.
  """
  shapes = {
    _path_name(path): x.shape
    for path, x in jax.tree_util.tree_leaves_with_path(params)
  }

  def sharding_of(path: tuple[Any, ...], x: jax.Array) -> NamedSharding:
    for start in range(len(path)):
      name = _path_name(path[start:])
      if shapes.get(name) == x.shape:
        return parameter_sharding(name, x.shape, mesh)
    return replicated(mesh)

  return jax.tree_util.tree_map_with_path(sharding_of, tree)


def constrain_like_parameters(tree: Tree, params: Tree, mesh: Mesh) -> Tree:
  """Constrains arrays to `shard_like_parameters` inside jit."""
  return jax.lax.with_sharding_constraint(
    tree, shard_like_parameters(tree, params, mesh)
  )


def row_shards(mesh: Mesh) -> int:
  """Returns the number of shards of the rows of a batch."""
  return math.prod(mesh.shape[name] for name in ROW_AXES)


def replicated(mesh: Mesh | jax.sharding.AbstractMesh) -> NamedSharding:
  """Returns the sharding of an array that every device holds."""
  return NamedSharding(mesh, P())


def rows_spec(size: int, mesh: Mesh, axis: int = 0) -> NamedSharding:
  """Returns the sharding of rows over the batch axes.

  Args:
    size: number of rows. Rows are replicated if it is not divisible by the
      number of shards.
    mesh: the device mesh.
    axis: the dimension of the rows.
  """
  if size % row_shards(mesh):
    return replicated(mesh)
  return NamedSharding(mesh, P(*(None,) * axis, ROW_AXES))


def constrain_rows(tree: Tree, mesh: Mesh, axis: int = 0) -> Tree:
  """Constrains dimension `axis` of every array to the batch axes inside jit."""
  return jax.tree.map(
    lambda x: jax.lax.with_sharding_constraint(
      x, rows_spec(x.shape[axis], mesh, axis)
    ),
    tree,
  )


def keep_rows(array: jax.Array, mesh: Mesh) -> jax.Array:
  """Constrains the first dimension to the batch axes, if divisible, inside jit.

  With this constraint on activations, XLA gathers the parameters of one layer
  at a time. Without it, XLA may shard the width of activations like that of the
  parameters, and then every product of a layer communicates activations.
  """
  spec = rows_spec(array.shape[0], mesh)
  if not spec.spec:
    return array
  return jax.lax.with_sharding_constraint(array, spec)


def splits_outputs(mesh: Mesh) -> bool:
  """Returns True if the outputs of a layer's products are sharded."""
  return mesh.shape['tensor'] > 1


def splits_vocabulary(size: int, mesh: Mesh) -> bool:
  """Returns True if the vocabulary can be sharded over `VOCABULARY_AXES`.

  This requires that parameters are sharded over `fsdp` and that the vocabulary
  size is divisible by the number of shards.
  """
  parts = math.prod(mesh.shape[name] for name in VOCABULARY_AXES)
  return mesh.shape['fsdp'] > 1 and size % parts == 0


def split_vocabulary(array: jax.Array, mesh: Mesh, axis: int) -> jax.Array:
  """Shards a parameter along the vocabulary, dimension `axis`, inside jit."""
  return _constrain(array, mesh, *(None,) * axis, VOCABULARY_AXES)


def share_rows(hidden_MD: jax.Array, mesh: Mesh) -> jax.Array:
  """Replicates rows over the devices that share a vocabulary, inside jit."""
  return _constrain(hidden_MD, mesh, _data(len(hidden_MD), mesh))


def split_logits(logits_MV: jax.Array, mesh: Mesh) -> jax.Array:
  """Shards the logits of `share_rows` along the vocabulary inside jit."""
  rows = _data(len(logits_MV), mesh)
  return _constrain(logits_MV, mesh, rows, VOCABULARY_AXES)


def logits_by_row(logits_MV: jax.Array, mesh: Mesh) -> jax.Array:
  """Reshards the logits of `split_logits` by row inside jit.

  Each device gets the logits of its own rows, split over `tensor` only.
  """
  rows = rows_spec(len(logits_MV), mesh).spec or (None,)
  return _constrain(logits_MV, mesh, *rows, 'tensor')


def _data(rows: int, mesh: Mesh) -> str | None:
  """Returns 'data' if its size divides the number of rows, otherwise None."""
  return 'data' if rows % mesh.shape['data'] == 0 else None


def _constrain(
  array: jax.Array, mesh: Mesh, *spec: str | tuple[str, ...] | None
) -> jax.Array:
  return jax.lax.with_sharding_constraint(array, NamedSharding(mesh, P(*spec)))


def cache_sharding(shape: tuple[int, ...], mesh: Mesh) -> NamedSharding:
  """Returns the sharding of keys or values [L, A, K, S, H] by row and head."""
  rows = rows_spec(shape[1], mesh).spec
  heads = 'tensor' if shape[2] % mesh.shape['tensor'] == 0 else None
  return NamedSharding(mesh, P(None, *(rows or (None,)), heads))


def constrain_cache(array: jax.Array, mesh: Mesh) -> jax.Array:
  """Constrains keys or values to `cache_sharding` inside jit."""
  return jax.lax.with_sharding_constraint(
    array, cache_sharding(array.shape, mesh)
  )


def constrain_replicated(tree: Tree, mesh: Mesh) -> Tree:
  """Replicates arrays on every device, and so in every process, inside jit."""
  return jax.lax.with_sharding_constraint(tree, replicated(mesh))
