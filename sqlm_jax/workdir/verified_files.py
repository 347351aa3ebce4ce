"""Reads the files of a checkpoint and verifies them against its manifest."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import jax
import orbax.checkpoint as ocp
from absl import logging
from etils import epath

from sqlm_jax.distributed import processes
from sqlm_jax.workdir import checkpoint_errors, manifest, tree_paths

Path = tree_paths.Path


class Location(NamedTuple):
  """The directory of a checkpoint.

  Attributes:
    path: Path for orbax, see `directory_entries.alias`.
    shown: Path for messages, as the user gave it.
  """

  path: epath.Path
  shown: str


def read_manifest(location: Location) -> manifest.Manifest:
  """Reads the manifest of a checkpoint. Every process must call this function.

  Raises:
    DamagedError: If the manifest is missing or damaged.
    ValueError: If another version saved the checkpoint.
  """
  with checkpoint_errors.reading(location.shown):
    sealed = _read_alone(
      location.path / 'host', ocp.JsonCheckpointHandler, ocp.args.JsonRestore()
    )
    try:
      return manifest.unseal(sealed)
    except NotImplementedError as error:
      other_format = error
  raise ValueError(
    f'{location.shown}: saved by another version of sqlm_jax, in format '
    f'{other_format}. This version reads format {manifest.FORMAT}; a newer '
    'version may read both'
  )


def read_arrays(
  location: Location,
  wanted: Mapping[Path, Any],
  stored: Mapping[Path, manifest.Stored],
) -> dict[Path, jax.Array]:
  """Reads arrays onto their shards. Every process must call this function.

  Args:
    location: Directory of the checkpoint.
    wanted: `jax.ShapeDtypeStruct` of each array with its sharding, by path.
    stored: Entry of each array in the manifest, by path.

  Raises:
    DamagedError: If an array is missing or differs from what was saved.
  """
  restore_args = {
    path: ocp.ArrayRestoreArgs(sharding=x.sharding, dtype=x.dtype)
    for path, x in wanted.items()
  }
  args = ocp.args.PyTreeRestore(
    item=tree_paths.nest(wanted),
    restore_args=tree_paths.nest(restore_args),
    partial_restore=True,
  )
  with checkpoint_errors.reading(location.shown):
    states = _read_alone(
      location.path / 'states', ocp.PyTreeCheckpointHandler, args
    )
    arrays = tree_paths.paths(states)
  if altered := manifest.altered(arrays, stored):
    reason = f'changed arrays: {", ".join(altered[:3])}'
    raise checkpoint_errors.damage(location.shown, reason)
  return arrays


def drop_damaged_scores(directory: epath.Path) -> None:
  """Removes unreadable scores, because orbax could not open the directory."""
  for checkpoint in directory.iterdir():
    path = checkpoint / 'metrics' / 'metrics'
    if not path.exists():
      continue
    try:
      float(json.loads(path.read_bytes())['score'])
    except (ValueError, KeyError, TypeError):
      logging.warning('%s is damaged; the score is removed.', path)
      path.parent.rmtree()


class _MakeHandler(Protocol):
  """A class of orbax that reads one kind of item."""

  def __call__(
    self, *, multiprocessing_options: ocp.options.MultiprocessingOptions
  ) -> ocp.CheckpointHandler: ...


def _read_alone(
  path: epath.Path,
  handler: _MakeHandler,
  args: ocp.args.CheckpointArgs,
) -> Any:
  """Reads an item without waiting for other processes, which may fail."""
  if not path.exists():
    raise FileNotFoundError(f'{path}: missing')
  only_this_process = ocp.options.MultiprocessingOptions(
    primary_host=processes.index(),
    active_processes={processes.index()},
    barrier_sync_key_prefix=f'process_{processes.index()}',
  )
  with ocp.Checkpointer(
    handler(multiprocessing_options=only_this_process),
    multiprocessing_options=only_this_process,
  ) as reader:
    return reader.restore(path, args=args)
