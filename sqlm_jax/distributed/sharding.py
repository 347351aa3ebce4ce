"""The mesh, and the one table that says where every array lives."""

import functools
import math
import re
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

AXES = ('data', 'fsdp', 'tensor')
ROW_AXES = ('data', 'fsdp')  # a batch is split over both
VOCABULARY_AXES = ('tensor', 'fsdp')  # logits are, where rows are shared

# Parameter path -> how its dimensions are split. The first match counts.
# Layer parameters have a leading L, which is never split.
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
  (r'value_head/kernel', P()),  # [D]: smaller than a message
  # Adapters: split where their map's inputs and outputs are, never by rank.
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
  """Builds the mesh; a size of -1 takes the devices that are left.

  Sizes without a -1 may ask for fewer devices than there are.

  Args:
    shape: axis name to size, for each of `AXES`.
    devices: default, all of them.

  Raises:
    ValueError: if there are not enough devices, or -1 cannot be filled.
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
  """Whether the devices of a mesh are processors."""
  return mesh.devices.flat[0].platform == 'cpu'


def is_one_cpu(mesh: Mesh) -> bool:
  """Whether there is a single device, and it is a processor."""
  return mesh.size == 1 and is_on_cpu(mesh)


def are_tpus(mesh: Mesh) -> bool:
  """Whether the devices of a mesh are TPUs."""
  return mesh.devices.flat[0].platform == 'tpu'


def are_gpus(mesh: Mesh) -> bool:
  """Whether the devices of a mesh are GPUs of NVIDIA, Ampere or newer."""
  device = mesh.devices.flat[0]
  if not device.device_kind.startswith('NVIDIA'):
    return False
  # A device that need not exist, of a topology, has none.
  capability = getattr(device, 'compute_capability', '8.0')
  return float(capability) >= 8.0


def _slices(devices: list[jax.Device]) -> set[int]:
  """The TPU slices that devices lie on; one for anything else."""
  on_tpu = devices[0].platform == 'tpu'
  return {getattr(d, 'slice_index', 0) if on_tpu else 0 for d in devices}


def within_slice(sizes: list[int], devices: list[jax.Device]) -> np.ndarray:
  """Arranges the devices of one slice, or of no TPU, [data, fsdp, tensor].

  An axis of the mesh may take a part of one of the torus, which
  `jax.make_mesh` refuses on most chips: 4x4x4 of them are 32 times 2 only so.
  """
  return mesh_utils.create_device_mesh(
    sizes, devices, allow_split_physical_axes=True
  )


def across_slices(sizes: list[int], devices: list[jax.Device]) -> np.ndarray:
  """Arranges the devices of several TPU slices, [data, fsdp, tensor].

  The network between slices is slow: `data` crosses it, once an update, or
  `fsdp` where `data` cannot.

  Raises:
    ValueError: if neither is a multiple of the number of slices.
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
  """The PartitionSpec of one parameter.

  Args:
    path: names from the root, joined by '/'.
    shape: a dimension that an axis does not divide stays whole: small heads
      (K = 3, say) are rather repeated than refused.
    mesh: whose axis sizes count.

  Raises:
    ValueError: for a parameter without a rule, a rule with more dimensions
      than the parameter, or one that uses an axis twice.
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


def _path_name(path) -> str:
  return '/'.join(str(getattr(k, 'key', getattr(k, 'name', k))) for k in path)


def parameter_sharding(
  path: str, shape: tuple[int, ...], mesh: Mesh
) -> NamedSharding:
  """`parameter_spec` on its mesh."""
  return NamedSharding(mesh, parameter_spec(path, shape, mesh))


def shard_parameters(tree, mesh: Mesh):
  """A tree of NamedShardings for a tree of parameters, arrays or abstract."""
  return jax.tree_util.tree_map_with_path(
    lambda path, x: parameter_sharding(_path_name(path), x.shape, mesh), tree
  )


def shard_gathered(tree, mesh: Mesh):
  """`shard_parameters`, but whole along `fsdp`."""
  return jax.tree.map(
    lambda split: NamedSharding(
      mesh, P(*(None if axis == 'fsdp' else axis for axis in split.spec))
    ),
    shard_parameters(tree, mesh),
  )


def place_parameter(
  path: str,
  shape: tuple[int, ...],
  pieces: Iterator[tuple[tuple[int, ...], np.ndarray]],
  *,
  dtype: jnp.dtype,
  mesh: Mesh,
) -> jax.Array:
  """Puts a parameter onto its shards while it is read.

  Beside the shards one piece is in memory: each is cut, converted and written
  into its place before the next is asked for.

  Args:
    path: of the parameter, names joined by '/'.
    shape: of the whole.
    pieces: (layer,) and its part, one after the other; or () and the whole.
    dtype: of the parameter.
    mesh: the devices.
  """
  sharding = parameter_sharding(path, shape, mesh)
  cuts = sharding.addressable_devices_indices_map(shape)
  shards = {}
  for at, piece in pieces:
    for device, cut in cuts.items():
      part = np.asarray(piece[cut[len(at) :]], dtype)
      if not at:
        shards[device] = jax.device_put(part, device)
        continue
      if device not in shards:
        size = (shape[0], *part.shape)
        shards[device] = jnp.zeros(size, dtype, device=device)
      part = jax.device_put(part, device)
      shards[device] = _write_layer(shards[device], part, at[0])
    jax.block_until_ready(list(shards.values()))  # else pieces queue up
  return jax.make_array_from_single_device_arrays(
    shape, sharding, list(shards.values())
  )


@functools.partial(jax.jit, donate_argnums=0)
def _write_layer(layers, part, layer):
  return jax.lax.dynamic_update_index_in_dim(layers, part, layer, 0)


def shard_like_parameters(tree, params, mesh: Mesh):
  """Shardings for anything that holds copies of the parameters.

  An optimizer's moments carry the path and the shape of their parameter at
  the end of their own path, and are split like it; all else is repeated.
  """
  known = {
    _path_name(path): x.shape
    for path, x in jax.tree_util.tree_leaves_with_path(params)
  }

  def one(path, x):
    for start in range(len(path)):
      name = _path_name(path[start:])
      if known.get(name) == x.shape:
        return parameter_sharding(name, x.shape, mesh)
    return NamedSharding(mesh, P())

  return jax.tree_util.tree_map_with_path(one, tree)


def constrain_like_parameters(tree, params, mesh: Mesh):
  """Inside jit: `shard_like_parameters`, of arrays."""
  return jax.lax.with_sharding_constraint(
    tree, shard_like_parameters(tree, params, mesh)
  )


def row_shards(mesh: Mesh) -> int:
  """Parts that rows are split into."""
  return math.prod(mesh.shape[name] for name in ROW_AXES)


def rows_spec(size: int, mesh: Mesh, axis: int = 0) -> NamedSharding:
  """Rows split over the batch axes; repeated if they do not divide evenly."""
  if size % row_shards(mesh):
    return NamedSharding(mesh, P())
  return NamedSharding(mesh, P(*(None,) * axis, ROW_AXES))


def constrain_rows(tree, mesh: Mesh, axis: int = 0):
  """Inside jit: splits dimension `axis` of every array over the batch axes."""
  return jax.tree.map(
    lambda x: jax.lax.with_sharding_constraint(
      x, rows_spec(x.shape[axis], mesh, axis)
    ),
    tree,
  )


def keep_rows(array: jax.Array, mesh: Mesh) -> jax.Array:
  """Inside jit: splits the first dimension, where it divides evenly.

  Said of activations it makes the compiler bring parameters to the rows, a
  layer at a time. Left alone it may split the width instead, as parameters
  are, and then every product of a layer moves activations.
  """
  spec = rows_spec(array.shape[0], mesh)
  if not spec.spec:
    return array
  return jax.lax.with_sharding_constraint(array, spec)


def shares_outputs(mesh: Mesh) -> bool:
  """Whether devices share the outputs of a layer's products."""
  return mesh.shape['tensor'] > 1


def splits_vocabulary(size: int, mesh: Mesh) -> bool:
  """Whether devices that share parameters can share the vocabulary as well."""
  parts = math.prod(mesh.shape[name] for name in VOCABULARY_AXES)
  return mesh.shape['fsdp'] > 1 and size % parts == 0


def split_vocabulary(array: jax.Array, mesh: Mesh, axis: int) -> jax.Array:
  """Inside jit: splits a parameter by entries of the vocabulary alone."""
  return _constrain(array, mesh, *(None,) * axis, VOCABULARY_AXES)


def share_rows(hidden_MD: jax.Array, mesh: Mesh) -> jax.Array:
  """Inside jit: rows go to all devices that share a vocabulary."""
  return _constrain(hidden_MD, mesh, _data(len(hidden_MD), mesh))


def split_logits(logits_MV: jax.Array, mesh: Mesh) -> jax.Array:
  """Inside jit: splits logits of shared rows by entries of the vocabulary."""
  rows = _data(len(logits_MV), mesh)
  return _constrain(logits_MV, mesh, rows, VOCABULARY_AXES)


def logits_by_row(logits_MV: jax.Array, mesh: Mesh) -> jax.Array:
  """Inside jit: of logits that were split so each device gets its rows'."""
  rows = rows_spec(len(logits_MV), mesh).spec or (None,)
  return _constrain(logits_MV, mesh, *rows, 'tensor')


def _data(rows: int, mesh: Mesh) -> str | None:
  """The axis that rows which share parameters are split over."""
  return 'data' if rows % mesh.shape['data'] == 0 else None


def _constrain(array: jax.Array, mesh: Mesh, *spec) -> jax.Array:
  return jax.lax.with_sharding_constraint(array, NamedSharding(mesh, P(*spec)))


def cache_sharding(shape: tuple[int, ...], mesh: Mesh) -> NamedSharding:
  """Keys or values [L, A, K, S, H] are split by row and by head."""
  rows = rows_spec(shape[1], mesh).spec
  heads = 'tensor' if shape[2] % mesh.shape['tensor'] == 0 else None
  return NamedSharding(mesh, P(None, *(rows or (None,)), heads))


def constrain_cache(array: jax.Array, mesh: Mesh) -> jax.Array:
  """Inside jit: splits keys or values as `cache_sharding` says."""
  return jax.lax.with_sharding_constraint(
    array, cache_sharding(array.shape, mesh)
  )


def constrain_whole(tree, mesh: Mesh):
  """Inside jit: every device, and so every process, gets all of it."""
  return jax.lax.with_sharding_constraint(tree, NamedSharding(mesh, P()))


def put_whole(tree, mesh: Mesh):
  """Sends host arrays to every device."""
  return jax.tree.map(lambda x: _put(x, NamedSharding(mesh, P())), tree)


def put_rows(tree, mesh: Mesh):
  """Sends host arrays to the mesh, rows split where they divide evenly."""
  return jax.tree.map(
    lambda x: _put(
      x, rows_spec(x.shape[0], mesh) if x.ndim else NamedSharding(mesh, P())
    ),
    tree,
  )


def _put(x: np.ndarray, sharding: NamedSharding) -> jax.Array:
  """Every process has all of `x` and sends its devices their part."""
  if sharding.is_fully_addressable:
    return jax.device_put(x, sharding)
  # device_put would first ask all processes whether they have the same.
  return jax.make_array_from_callback(x.shape, sharding, lambda cut: x[cut])


def fetch(array: jax.Array) -> np.ndarray:
  """All of an array, whoever has its parts, in host memory."""
  if isinstance(array, jax.Array) and not array.is_fully_addressable:
    whole = NamedSharding(array.sharding.mesh, P())
    array = jax.jit(lambda x: x, out_shardings=whole)(array)
  return np.asarray(array)
