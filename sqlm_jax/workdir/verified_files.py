"""Reads the files of a checkpoint and verifies them against its record."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from absl import logging
from etils import epath

from sqlm_jax.distributed import processes
from sqlm_jax.workdir import manifest, save_errors, tree_paths

Path = tree_paths.Path


class Where(NamedTuple):
  """The directory of a checkpoint.

  Attributes:
    path: Path for orbax, see `directory_entries.alias`.
    shown: Path for messages, as the user gave it.
  """

  path: epath.Path
  shown: str


def read_record(where: Where) -> manifest.Record:
  """Reads the record of a checkpoint. Every process must call this function.

  Raises:
    DamagedError: If the record is missing or damaged.
    ValueError: If another version saved the checkpoint.
  """
  with save_errors.reading(where.shown):
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
  """Reads arrays onto their shards. Every process must call this function.

  Args:
    where: Directory of the checkpoint.
    wanted: `jax.ShapeDtypeStruct` of each array with its sharding, by path.
    stored: Entry of each array in the record, by path.

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
  with save_errors.reading(where.shown):
    states = _read_alone(
      where.path / 'states', ocp.PyTreeCheckpointHandler, args
    )
    arrays = tree_paths.paths(states)
  if altered := manifest.altered(arrays, stored):
    why = f'not as it was: {", ".join(altered[:3])}'
    raise save_errors.damage(where.shown, why)
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
      logging.warning('%s is damaged: this checkpoint lost its score.', path)
      path.parent.rmtree()


def _read_alone(path: epath.Path, handler, args) -> Any:
  """Reads an item without waiting for other processes, which may fail."""
  if not path.exists():
    raise FileNotFoundError(f'{path}: missing')
  own = ocp.options.MultiprocessingOptions(
    primary_host=processes.index(),
    active_processes={processes.index()},
    barrier_sync_key_prefix=f'process_{processes.index()}',
  )
  handler = handler(multiprocessing_options=own)
  with ocp.Checkpointer(handler, multiprocessing_options=own) as reader:
    return reader.restore(path, args=args)
