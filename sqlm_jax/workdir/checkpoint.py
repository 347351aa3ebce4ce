"""Checkpoints: saves and restores train states by name, with orbax.

A checkpoint of step n holds what a run needs to go on with step n: its train
states (any NamedTuples and dicts of arrays) and a little host state as JSON.
Arrays are stored under their paths, 'policy/params/final_norm/scale', so that
a checkpoint can be read without the code that wrote it, and a checkpoint that
does not fit is refused with the names of the arrays that differ.

A record (`manifest`) says what the arrays were in memory. If an array is
missing or comes back different, the checkpoint is damaged, and the one before
it is restored.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orbax.checkpoint as ocp
from absl import logging
from etils import epath

from sqlm_jax import chatter
from sqlm_jax.distributed import hosts
from sqlm_jax.workdir import (
  checkpoint_directory,
  checkpoint_files,
  checkpoint_manager,
  manifest,
  storage,
  tree_paths,
)
from sqlm_jax.workdir import checkpoint_errors as errors

Tree = Any  # a pytree of arrays, or of jax.ShapeDtypeStruct with shardings
Manager = checkpoint_manager.Manager

# The score of a checkpoint that cannot be the best, below every real one.
NOT_ELIGIBLE = -1.0


@contextlib.contextmanager
def open_checkpoints(
  directory: epath.PathLike,
  *,
  keep: int = 1,
  every: int = 0,
  read_only: bool = False,
) -> Iterator[Manager]:
  """Opens a directory of checkpoints, for a `with`.

  Unless it is opened to read, half-saved checkpoints of a killed run are
  removed, and entries that are no checkpoints of the run are set aside. At
  the end it waits for what is being saved. All processes have to call it.

  Args:
    directory: made if it does not exist, unless it is opened to read.
    keep: how many of the newest checkpoints stay, in addition to the best.
    every: `save` keeps each step that this divides; 0 only forced ones.
    read_only: changes nothing, so that a run may be training there.

  Raises:
    OSError: if the directory cannot be made, or a save has failed.
    ValueError: if it has checkpoints, but none of the run.
  """
  chatter.hush_orbax()
  directory = storage.absolute(directory)
  with contextlib.ExitStack() as stack:
    manager = checkpoint_manager.open_manager(
      directory, stack, keep=keep, every=every, read_only=read_only
    )
    try:
      yield manager
    except BaseException:
      with contextlib.suppress(Exception):  # the first error is reported
        manager.close()
      raise
    with errors.saving(directory):
      manager.close()


def all_steps(manager: Manager) -> list[int]:
  """Returns the steps of the run's complete checkpoints, oldest first."""
  return sorted(set(manager.all_steps()) - manager.strange)


def latest_step(manager: Manager) -> int | None:
  """Returns the step of the newest complete checkpoint, None without any."""
  return max(all_steps(manager), default=None)


def best_step(manager: Manager) -> int | None:
  """Returns the step with the highest score, None without scores.

  It is 0 if no checkpoint has a higher score than the start of the run, whose
  weights are the initial model's. Of equal checkpoints it is the newest. All
  processes have to call it.
  """
  wait(manager)  # otherwise the newest has no score yet
  metrics = {step: manager.metrics(step) for step in all_steps(manager)}
  scores = {step: x['score'] for step, x in metrics.items() if x}
  # Checkpoints of earlier versions have no score of the start.
  start = max(
    (x['start'] for x in metrics.values() if x and 'start' in x),
    default=NOT_ELIGIBLE,
  )
  ranked = sorted(scores, key=lambda step: (scores[step], step))
  while ranked and _without_record(manager, ranked[-1:]):
    ranked.pop()  # copied in part, say
  if not ranked:
    return None
  if scores[ranked[-1]] > start:
    return ranked[-1]
  return None if start == NOT_ELIGIBLE else 0


def save(
  manager: Manager,
  step: int,
  states: Mapping[str, Tree],
  host_state: Mapping[str, Any],
  *,
  score: float | None = None,
  start_score: float | None = None,
  force: bool = False,
) -> bool:
  """Saves if the step is due, in the background once the arrays are copied.

  Args:
    manager: from `open_checkpoints`.
    step: the next step of the run.
    states: train states by name; may be donated as soon as this returns.
    host_state: what JSON can hold.
    score: score of the step; the checkpoint with the highest score is kept.
      None if unknown: it may be added by another call, for a saved step.
    start_score: score before the first step of the run, to which `score` is
      compared; None if unknown.
    force: saves even if the step is not due.

  Returns:
    True if this step is saved now, or was before.

  Raises:
    OSError: if it cannot be saved, or the one before could not.
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
  record = manifest.seal(arrays, host_state, step=step, run_id=manager.run_id)
  with errors.saving(manager.place):
    return manager.save(
      step,
      args=ocp.args.Composite(
        states=ocp.args.PyTreeSave(tree_paths.nest(arrays)),
        host=ocp.args.JsonSave(record),
      ),
      metrics=metrics,
      force=force,
    )


def _add_metrics(
  manager: Manager, step: int, metrics: Mapping[str, float]
) -> None:
  """Adds the score of a saved checkpoint, as orbax writes it.

  Then it removes an earlier best checkpoint that this one beats.
  """
  wait(manager)
  directory = manager.directory / str(step) / 'metrics'

  def write():
    if not (directory / 'metrics').exists():
      directory.mkdir(exist_ok=True)
      storage.write_text(directory / 'metrics', json.dumps(metrics))

  hosts.from_first(write)
  manager.reload()

  def beaten():
    steps = all_steps(manager)
    kept = {*steps[-manager.keep :], manager.best_step()}
    return sorted(set(steps) - kept)

  # Deleting is collective, and a shared disk may show a new score late to some.
  for other in hosts.from_first(beaten):
    manager.delete(other)


def wait(manager: Manager) -> None:
  """Returns when everything is on disk; raises OSError if it cannot be."""
  with errors.saving(manager.place):
    manager.wait_until_finished()


def restore(
  manager: Manager,
  abstract_states: Mapping[str, Tree],
  *,
  step: int | None = None,
) -> tuple[int, dict[str, Tree], dict[str, Any]]:
  """Restores a run, each array straight onto its shards.

  A damaged checkpoint is moved away, with a warning, and the one before it
  is restored.

  Args:
    manager: from `open_checkpoints`.
    abstract_states: train states by name; `jax.ShapeDtypeStruct` with their
      shardings instead of arrays.
    step: of the checkpoint, and of no other; default, the newest.

  Returns:
    The step, the states and the host state.

  Raises:
    FileNotFoundError: if there is no such checkpoint.
    ValueError: if its arrays have other names, shapes or types, if a newer
      version has saved it, or if it is damaged and none is left.
  """
  wait(manager)  # otherwise the newest is listed, but not on disk
  steps = [_existing(manager, step)]
  if step is None:
    steps = all_steps(manager)[::-1]
  wanted = tree_paths.paths(abstract_states)
  damaged: dict[int, errors.DamagedError] = {}
  for index, at in enumerate(steps):
    where = _where(manager, at)
    try:
      record = checkpoint_files.read_record(where)
      manifest.check(wanted, record.arrays, where.shown)
      arrays = checkpoint_files.read_arrays(where, wanted, record.arrays)
    except errors.DamagedError as error:
      damaged[at] = error
      continue
    damaged |= _without_record(manager, steps[index + 1 :])
    _move_away(manager, damaged, instead=at)
    return at, tree_paths.fill(abstract_states, arrays), record.host
  raise ValueError(
    '\n'.join(map(str, damaged.values()))
    + f'\nNo other is left in {manager.place}. Remove that directory to '
    'start from the beginning.'
  )


def restore_params(
  manager: Manager,
  abstract_params: Mapping[str, Tree],
  *,
  step: int | None = None,
) -> tuple[int, dict[str, Tree]]:
  """Restores parameters alone; the optimizer's state is not even read.

  Args:
    manager: from `open_checkpoints`.
    abstract_params: name of a train state -> its `params`, abstract; other
      states of the checkpoint are left alone.
    step: of the checkpoint; default, the newest.

  Returns:
    The step, and the parameters by name of their train state.

  Raises:
    FileNotFoundError: if there is no such checkpoint.
    ValueError: if its parameters have other names, shapes or types, if a
      newer version has saved it, or if it is damaged.
  """
  wait(manager)  # otherwise the newest is listed, but not on disk
  step = _existing(manager, step)
  where = _where(manager, step)
  trees = {name: {'params': tree} for name, tree in abstract_params.items()}
  wanted = tree_paths.paths(trees)
  stored = {
    path: x
    for path, x in checkpoint_files.read_record(where).arrays.items()
    if path[0] in abstract_params and path[1:2] == ('params',)
  }
  manifest.check(wanted, stored, where.shown)
  arrays = checkpoint_files.read_arrays(where, wanted, stored)
  filled = tree_paths.fill(trees, arrays)
  return step, {name: tree['params'] for name, tree in filled.items()}


def newest_readable(manager: Manager) -> int | None:
  """Returns the newest step whose record can be read, None without any.

  Checkpoints without a record, such as one that was copied in part, are left
  out with a warning.
  """
  steps = all_steps(manager)[::-1]
  for index, step in enumerate(steps):
    damaged = _without_record(manager, [step])
    if not damaged:
      return step
    instead = 'trying the one before it' if steps[index + 1 :] else 'none left'
    logging.warning('%s; %s.', damaged[step], instead)
  return None


def _existing(manager: Manager, step: int | None) -> int:
  steps = all_steps(manager)
  if steps and step is None:
    return steps[-1]
  if step not in steps:
    raise FileNotFoundError(
      f'{manager.place}: expected a checkpoint'
      + (f' of step {step}, found {steps}' if steps else ', found none')
    )
  return step


def _where(manager: Manager, step: int) -> checkpoint_files.Where:
  return checkpoint_files.Where(
    manager.directory / str(step), f'{manager.place / str(step)}'
  )


def _without_record(
  manager: Manager, steps: Sequence[int]
) -> dict[int, errors.DamagedError]:
  """Returns the steps among `steps` whose record cannot be read, and why."""
  damaged = {}
  for step in steps:
    try:
      checkpoint_files.read_record(_where(manager, step))
    except errors.DamagedError as error:
      damaged[step] = error
    except ValueError:
      pass  # of another format
  return damaged


def _move_away(
  manager: Manager, damaged: Mapping[int, Exception], *, instead: int
) -> None:
  """Moves damaged checkpoints away, since their steps are saved again."""
  for step, error in damaged.items():
    away = manager.place.parent / 'damaged_checkpoints' / str(step)
    logging.warning(
      '%s; moved to %s, going on from step %d.', error, away, instead
    )

  def move():
    for step in damaged:
      checkpoint_directory.set_aside(manager.place, str(step))

  if damaged:
    hosts.from_first(move)
    manager.reload()
