"""Reads the files of a checkpoint and compares them with its record."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from absl import logging
from etils import epath

from sqlm_jax.distributed import hosts
from sqlm_jax.workdir import checkpoint_errors as errors
from sqlm_jax.workdir import manifest, tree_paths

Path = tree_paths.Path


class Where(NamedTuple):
  """The directory of a checkpoint.

  Attributes:
    path: as orbax reads it.
    shown: as the user names it.
  """

  path: epath.Path
  shown: str


def read_record(where: Where) -> manifest.Record:
  """Reads the record of a checkpoint. All processes have to call it.

  Raises:
    DamagedError: if the record is missing or damaged.
    ValueError: if another version has saved the checkpoint.
  """
  with errors.reading(where.shown):
    record = _read_alone(
      where.path / 'host', ocp.JsonCheckpointHandler, ocp.args.JsonRestore()
    )
    try:
      return manifest.unseal(record)
    except NotImplementedError as error:
      other_format = error
  raise ValueError(
    f'{where.shown}: a checkpoint of format {other_format}, saved by another '
    'version of sqlm_jax: this version reads format '
    f'{manifest.FORMAT}, a newer one may read both'
  )


def read_arrays(
  where: Where,
  wanted: Mapping[Path, Any],
  stored: Mapping[Path, manifest.Stored],
) -> dict[Path, jax.Array]:
  """Reads arrays onto their shards. All processes have to call it.

  Args:
    where: directory of the checkpoint.
    wanted: path -> `jax.ShapeDtypeStruct` with its sharding.
    stored: path -> what the record says of the array.

  Raises:
    DamagedError: if an array is missing, or is not what was saved.
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
  with errors.reading(where.shown):
    states = _read_alone(
      where.path / 'states', ocp.PyTreeCheckpointHandler, args
    )
    arrays = tree_paths.paths(states)
  if altered := manifest.altered(arrays, stored):
    why = f'not as it was: {", ".join(altered[:3])}'
    raise errors.damage(where.shown, why)
  return arrays


def drop_damaged_scores(directory: epath.Path) -> None:
  """Removes scores that cannot be read: orbax would not open the directory."""
  for checkpoint in directory.iterdir():
    path = checkpoint / 'metrics' / 'metrics'
    if not path.exists():
      continue
    try:
      float(json.loads(path.read_bytes())['score'])
    except (ValueError, KeyError, TypeError):
      logging.warning('%s is damaged: this checkpoint lost its score.', path)
      path.parent.rmtree()


def _read_alone(path: epath.Path, handler, args) -> Any:
  """Reads without waiting for other processes, which may have failed."""
  if not path.exists():
    raise FileNotFoundError(f'{path}: missing')
  own = ocp.options.MultiprocessingOptions(
    primary_host=hosts.index(),
    active_processes={hosts.index()},
    barrier_sync_key_prefix=f'process_{hosts.index()}',
  )
  handler = handler(multiprocessing_options=own)
  with ocp.Checkpointer(handler, multiprocessing_options=own) as reader:
    return reader.restore(path, args=args)
