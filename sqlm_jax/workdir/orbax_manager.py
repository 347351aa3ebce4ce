"""Orbax checkpoint manager configured for a run."""

import contextlib
from collections.abc import Mapping

import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint.checkpoint_managers import preservation_policy as policies

from sqlm_jax.distributed import processes
from sqlm_jax.workdir import (
  checkpoint_errors,
  directory_entries,
  verified_files,
)


class Manager(ocp.CheckpointManager):
  """Orbax checkpoint manager of a run.

  Attributes:
    place: Directory as the user gave it; `directory` may be an alias.
    keep: Number of newest checkpoints to keep.
    run_id: Id of the run that the checkpoints belong to.
    foreign_steps: Steps whose checkpoint does not belong to the run.
  """

  place: epath.Path
  keep: int
  run_id: str
  foreign_steps: frozenset[int]


def open_manager(
  directory: epath.Path,
  stack: contextlib.ExitStack,
  *,
  keep: int,
  every: int,
  read_only: bool,
) -> Manager:
  """Opens a directory of checkpoints, see `checkpoints.open_checkpoints`.

  Args:
    directory: Directory of the checkpoints.
    stack: Exit stack that removes an alias of the directory when it is closed.
    keep: Number of newest checkpoints to keep.
    every: Multiples of this step are due to be saved; 0 for none.
    read_only: True if the directory must not be changed.
  """
  with checkpoint_errors.opening(directory, (OSError,)):
    if not read_only:
      directory_entries.prepare(directory)
    contents = directory_entries.inspect(directory)
  with checkpoint_errors.opening(directory):
    if not read_only:
      # Must happen before any process reads the scores.
      processes.broadcast_from_first(
        lambda: verified_files.drop_damaged_scores(directory)
      )
    manager = Manager(
      stack.enter_context(directory_entries.alias(directory)),
      options=_options(keep=keep, every=every, read_only=read_only),
      item_handlers={
        'states': ocp.PyTreeCheckpointHandler(),
        'host': ocp.JsonCheckpointHandler(),
      },
    )
  manager.place, manager.keep = directory, keep
  manager.run_id = contents.run_id
  manager.foreign_steps = frozenset(map(int, contents.foreign))
  return manager


def _options(
  *, keep: int, every: int, read_only: bool
) -> ocp.CheckpointManagerOptions:
  if read_only:
    return ocp.CheckpointManagerOptions(
      read_only=True, create=False, save_interval_steps=0, best_fn=_score
    )
  return ocp.CheckpointManagerOptions(
    best_fn=_score,
    preservation_policy=policies.AnyPreservationPolicy(
      [
        policies.LatestN(keep),
        policies.BestN(
          get_metric_fn=_score, n=1, keep_checkpoints_without_metrics=False
        ),
      ]
    ),
    should_save_fn=lambda step, _: bool(every) and step % every == 0,
    cleanup_tmp_directories=True,
    # Otherwise threads wait forever for a directory that cannot be created on a
    # full disk, and the process does not end.
    async_options=ocp.options.AsyncOptions(
      create_directories_asynchronously=False
    ),
  )


def _score(metrics: Mapping[str, float]) -> float:
  return metrics['score']
