"""Saves and restores checkpoints of train states with orbax.

A checkpoint of step n contains everything that a run needs to continue with
step n: its train states (any NamedTuples and dicts of arrays) and a small host
state as JSON. Arrays are stored under their paths, such as
'policy/params/final_norm/scale', so that a checkpoint can be read without the
code that wrote it. If a checkpoint does not fit, the error names the arrays
that differ.

A manifest (`manifest`) describes the arrays as they were in memory. If an array
is missing or is restored with other values, the checkpoint is damaged, and the
checkpoint before it is restored.
"""

import contextlib
import json
from collections.abc import Generator, Mapping, Sequence
from typing import Any

import orbax.checkpoint as ocp
from absl import logging
from etils import epath

from sqlm_jax.distributed import processes
from sqlm_jax.workdir import (
  checkpoint_errors,
  directory_entries,
  log_filters,
  manifest,
  orbax_manager,
  storage,
  tree_paths,
  verified_files,
)

Tree = Any  # a pytree of arrays, or of jax.ShapeDtypeStruct with shardings
Manager = orbax_manager.Manager

# Score of a checkpoint that cannot be the best, lower than any valid score.
NOT_ELIGIBLE = -1.0


@contextlib.contextmanager
def open_checkpoints(
  directory: epath.PathLike,
  *,
  keep: int = 1,
  every: int = 0,
  read_only: bool = False,
) -> Generator[Manager]:
  """Context manager that opens a directory of checkpoints.

  Unless `read_only` is set, incomplete checkpoints of a killed run are removed,
  and entries that are not checkpoints of the run are moved away. On exit it
  waits until all checkpoints are saved. Every process must call this function.

  Args:
    directory: Directory of the checkpoints, created if it does not exist,
      unless `read_only` is set.
    keep: Number of newest checkpoints to keep, in addition to the best.
    every: `save` saves each step that is a multiple of this number; with 0 it
      saves only steps with `force`.
    read_only: Changes nothing, so that a run can train in the same directory.

  Raises:
    OSError: If the directory cannot be created, or a save has failed.
    ValueError: If the directory has checkpoints, but none of this run.
  """
  log_filters.silence_orbax()
  directory = storage.absolute(directory)
  with contextlib.ExitStack() as stack:
    manager = orbax_manager.open_manager(
      directory, stack, keep=keep, every=every, read_only=read_only
    )
    try:
      yield manager
    except BaseException:
      with contextlib.suppress(Exception):  # only the first error is reported
        manager.close()
      raise
    with checkpoint_errors.saving(directory):
      manager.close()


def open_run(
  workdir: epath.Path, *, keep: int, every: int
) -> contextlib.AbstractContextManager[Manager]:
  """Opens the checkpoints of a run to train it, see `open_checkpoints`.

  Raises:
    ValueError: If the directory is missing although metrics.jsonl exists, for
      example because a disk is not mounted; otherwise the run would start from
      the beginning. The directory is always created before metrics.jsonl. A
      bucket has no directories, so there the check is skipped.
  """
  path = workdir / 'checkpoints'
  if (
    (workdir / 'metrics.jsonl').exists()
    and not storage.is_remote(workdir)
    and not path.exists()
  ):
    raise ValueError(
      f'{path}: this directory is missing, but metrics.jsonl of a run exists. '
      'Restore the directory, or use another --workdir'
    )
  return open_checkpoints(path, keep=keep, every=every)


def all_steps(manager: Manager) -> list[int]:
  """Returns the steps of the run's complete checkpoints in ascending order."""
  return sorted(set(manager.all_steps()) - manager.foreign_steps)


def latest_step(manager: Manager) -> int | None:
  """Returns the step of the newest complete checkpoint, or None."""
  return max(all_steps(manager), default=None)


def best_step(manager: Manager) -> int | None:
  """Returns the step with the highest score, None without scores.

  Returns 0 if no checkpoint has a higher score than the initial model. If
  several checkpoints have the highest score, returns the newest. Every process
  must call this function.
  """
  wait(manager)  # otherwise the newest checkpoint has no score yet
  metrics = {step: manager.metrics(step) for step in all_steps(manager)}
  scores = {step: x['score'] for step, x in metrics.items() if x}
  # Checkpoints of earlier versions do not have the score of the initial model.
  start = max(
    (x['start'] for x in metrics.values() if x and 'start' in x),
    default=NOT_ELIGIBLE,
  )
  ranked = sorted(scores, key=lambda step: (scores[step], step))
  while ranked and _unreadable(manager, ranked[-1:]):
    ranked.pop()  # such as a checkpoint that was copied incompletely
  if not ranked:
    return None
  if scores[ranked[-1]] > start:
    return ranked[-1]
  return None if start == NOT_ELIGIBLE else 0


def save(
  manager: Manager,
  step: int,
  states: Mapping[str, Tree],
  *,
  host_state: Mapping[str, Any],
  score: float | None = None,
  start_score: float | None = None,
  force: bool = False,
) -> bool:
  """Saves a checkpoint if the step is due.

  Returns when the arrays are copied; files are written in the background.

  Args:
    manager: Manager from `open_checkpoints`.
    step: The next step of the run.
    states: Train states by name; may be donated as soon as this returns.
    host_state: JSON-serializable values.
    score: Score of the step; the checkpoint with the highest score is kept.
      None if unknown; a later call for the same step can add the score.
    start_score: Score before the first step of the run, to which `score` is
      compared; None if unknown.
    force: Saves even if the step is not due.

  Returns:
    True if the step is saved by this call or was saved before.

  Raises:
    OSError: If this checkpoint or the checkpoint before it cannot be saved.
  """
  metrics = None if score is None else {'score': score}
  if metrics and start_score is not None:
    metrics['start'] = start_score
  if step in manager.all_steps():
    if metrics:
      _add_metrics(manager, step, metrics)
    return True
  if not force and not manager.should_save(step):
    return False
  arrays = tree_paths.paths(states)
  sealed = manifest.seal(arrays, host_state, step=step, run_id=manager.run_id)
  with checkpoint_errors.saving(manager.place):
    return manager.save(
      step,
      args=ocp.args.Composite(
        states=ocp.args.PyTreeSave(tree_paths.nest(arrays)),
        host=ocp.args.JsonSave(sealed),
      ),
      metrics=metrics,
      force=force,
    )


def _add_metrics(
  manager: Manager, step: int, metrics: Mapping[str, float]
) -> None:
  """Adds the score of a saved checkpoint in orbax's file format.

  Deletes an earlier best checkpoint if this checkpoint has a higher score.
  """
  wait(manager)
  directory = manager.directory / str(step) / 'metrics'

  def write() -> None:
    if not (directory / 'metrics').exists():
      directory.mkdir(exist_ok=True)
      storage.write_text(directory / 'metrics', json.dumps(metrics))

  processes.broadcast_from_first(write)
  manager.reload()

  def outdated() -> list[int]:
    steps = all_steps(manager)
    kept = {*steps[-manager.keep :], manager.best_step()}
    return sorted(set(steps) - kept)

  # Deleting is collective, and on a shared disk some processes may see the new
  # score late, so process 0 decides.
  for old_step in processes.broadcast_from_first(outdated):
    manager.delete(old_step)


def withdraw_scores(manager: Manager, since: int) -> None:
  """Keeps the checkpoints of step `since` and later from being the best.

  Every process must call this function.
  """
  wait(manager)

  def write() -> None:
    for step in all_steps(manager):
      metrics = manager.metrics(step) if step >= since else None
      if metrics:
        file = manager.directory / str(step) / 'metrics' / 'metrics'
        withdrawn = dict(metrics) | {'score': NOT_ELIGIBLE}
        storage.write_text(file, json.dumps(withdrawn))

  processes.broadcast_from_first(write)
  manager.reload()


def wait(manager: Manager) -> None:
  """Waits until all checkpoints are on disk.

  Raises:
    OSError: If a checkpoint cannot be saved.
  """
  with checkpoint_errors.saving(manager.place):
    manager.wait_until_finished()


def restore(
  manager: Manager,
  abstract_states: Mapping[str, Tree],
  *,
  step: int | None = None,
) -> tuple[int, dict[str, Tree], dict[str, Any]]:
  """Restores train states, each array directly onto its shards.

  A damaged checkpoint is moved away with a warning, and the checkpoint before
  it is restored.

  Args:
    manager: Manager from `open_checkpoints`.
    abstract_states: Train states by name, with `jax.ShapeDtypeStruct`s and
      their shardings instead of arrays.
    step: Step of the only checkpoint to try; all checkpoints, starting with the
      newest, by default.

  Returns:
    The step, the states and the host state.

  Raises:
    FileNotFoundError: If there is no such checkpoint.
    ValueError: If its arrays have other names, shapes or types, if another
      version saved it, or if it is damaged and no other checkpoint is left.
  """
  wait(manager)  # otherwise the newest checkpoint may not be on disk yet
  steps = [_existing(manager, step)]
  if step is None:
    steps = all_steps(manager)[::-1]
  wanted = tree_paths.paths(abstract_states)
  damaged: dict[int, checkpoint_errors.DamagedError] = {}
  for index, candidate in enumerate(steps):
    location = _location(manager, candidate)
    try:
      stored = verified_files.read_manifest(location)
      manifest.check(wanted, stored.arrays, location.shown)
      arrays = verified_files.read_arrays(location, wanted, stored.arrays)
    except checkpoint_errors.DamagedError as error:
      damaged[candidate] = error
      continue
    damaged |= _unreadable(manager, steps[index + 1 :])
    _move_away(manager, damaged, instead=candidate)
    return candidate, tree_paths.fill(abstract_states, arrays), stored.host
  raise ValueError(
    '\n'.join(map(str, damaged.values()))
    + f'\nNo other checkpoint is left in {manager.place}. Remove this '
    'directory to start from the beginning.'
  )


def restore_params(
  manager: Manager,
  abstract_params: Mapping[str, Tree],
  *,
  step: int | None = None,
) -> tuple[int, dict[str, Tree]]:
  """Restores parameters without reading the optimizer state.

  Args:
    manager: Manager from `open_checkpoints`.
    abstract_params: Abstract `params` by the name of their train state. Other
      states of the checkpoint are not read.
    step: Step of the checkpoint; the newest by default.

  Returns:
    The step, and the parameters by the name of their train state.

  Raises:
    FileNotFoundError: If there is no such checkpoint.
    ValueError: If its parameters have other names, shapes or types, if another
      version saved it, or if it is damaged.
  """
  wait(manager)  # otherwise the newest checkpoint may not be on disk yet
  step = _existing(manager, step)
  location = _location(manager, step)
  trees = {name: {'params': tree} for name, tree in abstract_params.items()}
  wanted = tree_paths.paths(trees)
  stored = {
    path: x
    for path, x in verified_files.read_manifest(location).arrays.items()
    if path[0] in abstract_params and path[1:2] == ('params',)
  }
  manifest.check(wanted, stored, location.shown)
  arrays = verified_files.read_arrays(location, wanted, stored)
  filled = tree_paths.fill(trees, arrays)
  return step, {name: tree['params'] for name, tree in filled.items()}


def newest_readable(manager: Manager) -> int | None:
  """Returns the newest step whose manifest can be read, None if there is none.

  Checkpoints without a readable manifest, such as incomplete copies, are
  skipped with a warning.
  """
  steps = all_steps(manager)[::-1]
  for index, step in enumerate(steps):
    damaged = _unreadable(manager, [step])
    if not damaged:
      return step
    action = 'no other checkpoint is left'
    if steps[index + 1 :]:
      action = 'trying the previous checkpoint'
    logging.warning('%s; %s.', damaged[step], action)
  return None


def _existing(manager: Manager, step: int | None) -> int:
  steps = all_steps(manager)
  if steps and step is None:
    return steps[-1]
  if step not in steps:
    expected = f' of step {step}, found {steps}' if steps else ', found none'
    raise FileNotFoundError(f'{manager.place}: expected a checkpoint{expected}')
  return step


def _location(manager: Manager, step: int) -> verified_files.Location:
  return verified_files.Location(
    manager.directory / str(step), f'{manager.place / str(step)}'
  )


def _unreadable(
  manager: Manager, steps: Sequence[int]
) -> dict[int, checkpoint_errors.DamagedError]:
  """Returns the errors of those `steps` whose manifest cannot be read."""
  damaged = {}
  for step in steps:
    try:
      verified_files.read_manifest(_location(manager, step))
    except checkpoint_errors.DamagedError as error:
      damaged[step] = error
    except ValueError:
      pass  # saved by another version, but not damaged
  return damaged


def _move_away(
  manager: Manager, damaged: Mapping[int, Exception], *, instead: int
) -> None:
  """Moves damaged checkpoints away, because their steps are saved again."""
  for step, error in damaged.items():
    away = manager.place.parent / 'damaged_checkpoints' / str(step)
    logging.warning(
      '%s; moved to %s, resuming from step %d.', error, away, instead
    )

  def move() -> None:
    for step in damaged:
      directory_entries.set_aside(manager.place, str(step))

  if damaged:
    processes.broadcast_from_first(move)
    manager.reload()
