"""Checkpoints: orbax, told to save and restore train states by name.

A checkpoint of step n holds what a run needs to go on with step n: its train
states (any NamedTuples and dicts of arrays) and a little host state as JSON.
Arrays are stored under their paths, 'policy/params/final_norm/scale', so that
a checkpoint is read without the code that wrote it, and that one which does
not fit is refused by the names of what does not.

Beside them stands a record of what they were in memory (`manifest`). What
comes back otherwise, or not at all, is damaged, and the checkpoint before it
is taken.
"""

import contextlib
import json
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint.checkpoint_managers import preservation_policy as policies

from sqlm_jax import chatter, hosts, manifest, storage, tree_paths
from sqlm_jax import checkpoint_errors as errors

Tree = Any  # a pytree of arrays, or of jax.ShapeDtypeStruct with shardings
Path = tree_paths.Path

_log = logging.getLogger('absl')  # which shows warnings of ours


@contextlib.contextmanager
def open_checkpoints(
  directory: epath.PathLike,
  *,
  keep: int = 1,
  every: int = 0,
  read_only: bool = False,
) -> Iterator[ocp.CheckpointManager]:
  """Opens a directory of checkpoints, for a `with`.

  What a killed run left half-saved is removed, unless it is opened to read.
  In the end it waits for what is being saved.

  Args:
    directory: made if it does not exist, unless it is opened to read.
    keep: how many of the newest checkpoints stay, beside the best one.
    every: `save` keeps each step that this divides; 0 only forced ones.
    read_only: changes nothing, so that a run may be training there.

  Raises:
    OSError: if the directory cannot be made, or a save has failed.
  """
  chatter.hush_orbax()
  if read_only:
    options = ocp.CheckpointManagerOptions(
      read_only=True, create=False, save_interval_steps=0, best_fn=_score
    )
  else:
    options = ocp.CheckpointManagerOptions(
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
      # Else threads wait for a directory that a full disk never gets, and the
      # process does not end.
      async_options=ocp.options.AsyncOptions(
        create_directories_asynchronously=False
      ),
    )
  directory = storage.absolute(directory)
  with errors.opening(directory):
    if not read_only and jax.process_index() == 0:
      _drop_damaged_scores(directory)
    manager = ocp.CheckpointManager(
      directory,
      options=options,
      item_handlers={
        'states': ocp.PyTreeCheckpointHandler(),
        'host': ocp.JsonCheckpointHandler(),
      },
    )
  try:
    yield manager
  except BaseException:
    with contextlib.suppress(Exception):  # what ended us is told
      manager.close()
    raise
  with errors.saving(manager.directory):
    manager.close()


def _score(metrics: Mapping[str, float]) -> float:
  return metrics['score']


def latest_step(manager: ocp.CheckpointManager) -> int | None:
  """The step of the newest whole checkpoint, None if there is none."""
  return manager.latest_step()


def best_step(manager: ocp.CheckpointManager) -> int | None:
  """The step of the checkpoint with the highest score, None without scores."""
  return manager.best_step()


def save(
  manager: ocp.CheckpointManager,
  step: int,
  states: Mapping[str, Tree],
  host_state: Mapping[str, Any],
  *,
  score: float | None = None,
  force: bool = False,
) -> bool:
  """Saves if it is time to, in the background once the arrays are copied.

  Args:
    manager: from `open_checkpoints`.
    step: the next step of the run.
    states: train states by name; may be donated as soon as this returns.
    host_state: what JSON can hold.
    score: how good it is, the best one is kept; None if nobody knows. It may
      be told later, of a step that is saved.
    force: whether it is time or not; `wait` makes sure that it is on disk.

  Returns:
    Whether this step is saved, or was before.

  Raises:
    OSError: if it cannot be saved, or the one before could not.
  """
  if step in manager.all_steps():
    if score is not None:
      _add_score(manager, step, score)
    return True
  if not force and not manager.should_save(step):
    return False
  arrays = tree_paths.paths(states)
  with errors.saving(manager.directory):
    return manager.save(
      step,
      args=ocp.args.Composite(
        states=ocp.args.PyTreeSave(tree_paths.nest(arrays)),
        host=ocp.args.JsonSave(manifest.seal(arrays, host_state)),
      ),
      metrics=None if score is None else {'score': score},
      force=force,
    )


def _add_score(manager, step: int, score: float) -> None:
  """As orbax writes it beside the items of a checkpoint."""
  manager.wait_until_finished()
  directory = manager.directory / str(step) / 'metrics'
  if jax.process_index() == 0 and not (directory / 'metrics').exists():
    directory.mkdir(exist_ok=True)
    storage.write_text(directory / 'metrics', json.dumps({'score': score}))
  multihost_utils.sync_global_devices('a score is told')
  manager.reload()


def wait(manager: ocp.CheckpointManager) -> None:
  """Returns when everything is on disk; raises OSError if it cannot be."""
  with errors.saving(manager.directory):
    manager.wait_until_finished()


def restore(
  manager: ocp.CheckpointManager,
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
  manager.wait_until_finished()  # else the newest is listed, but not there
  steps = [_existing(manager, step)]
  if step is None:
    steps = sorted(manager.all_steps(), reverse=True)
  wanted = tree_paths.paths(abstract_states)
  damaged: dict[int, errors.DamagedError] = {}
  for at in steps:
    try:
      stored, host = _record(manager, at)
      manifest.check(wanted, stored, _where(manager, at))
      arrays = _read(manager, at, wanted, stored)
    except errors.DamagedError as error:
      damaged[at] = error
      continue
    _move_away(manager, damaged, instead=at)
    return at, tree_paths.fill(abstract_states, arrays), host
  raise ValueError(
    '\n'.join(map(str, damaged.values()))
    + f'\nNo other is left in {manager.directory}. Remove that directory to '
    'start from the beginning.'
  )


def restore_params(
  manager: ocp.CheckpointManager,
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
  manager.wait_until_finished()  # else the newest is listed, but not there
  step = _existing(manager, step)
  trees = {name: {'params': tree} for name, tree in abstract_params.items()}
  wanted = tree_paths.paths(trees)
  stored = {
    path: x
    for path, x in _record(manager, step)[0].items()
    if path[0] in abstract_params and path[1:2] == ('params',)
  }
  manifest.check(wanted, stored, _where(manager, step))
  filled = tree_paths.fill(trees, _read(manager, step, wanted, stored))
  return step, {name: tree['params'] for name, tree in filled.items()}


def _existing(manager: ocp.CheckpointManager, step: int | None) -> int:
  steps = sorted(manager.all_steps())
  if steps and step is None:
    return steps[-1]
  if step not in steps:
    raise FileNotFoundError(
      f'{manager.directory}: expected a checkpoint'
      + (f' of step {step}, found {steps}' if steps else ', found none')
    )
  return step


def _where(manager, step: int) -> str:
  return f'{manager.directory / str(step)}'


def _drop_damaged_scores(directory: epath.Path) -> None:
  """Orbax reads all scores when it opens, and gives up if it cannot."""
  for path in directory.glob('*/metrics/metrics'):
    try:
      float(json.loads(path.read_bytes())['score'])
    except (ValueError, KeyError, TypeError):
      _log.warning('%s is damaged: this checkpoint lost its score.', path)
      path.parent.rmtree()


def _move_away(manager, damaged: Mapping[int, Exception], *, instead: int):
  """Makes room for the steps that will be saved again; loses nothing."""
  for step, error in damaged.items():
    away = manager.directory.parent / 'damaged_checkpoints' / str(step)
    _log.warning(
      '%s; moved to %s, going on from step %d.', error, away, instead
    )
    if jax.process_index() == 0:
      if away.exists():
        away.rmtree()
      away.parent.mkdir(exist_ok=True)
      (manager.directory / str(step)).rename(away)
  if damaged:
    multihost_utils.sync_global_devices('damaged checkpoints are moved')
    manager.reload()


def _read_alone(manager, step: int, item: str, handler, args) -> Any:
  """Reads without waiting for other processes, which may have failed."""
  path = manager.directory / str(step) / item
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


def _record(
  manager, step: int
) -> tuple[dict[Path, manifest.Stored], dict[str, Any]]:
  """What a checkpoint holds, and its host state."""
  with errors.reading(_where(manager, step)):
    record = _read_alone(
      manager, step, 'host', ocp.JsonCheckpointHandler, ocp.args.JsonRestore()
    )
    try:
      return manifest.unseal(record)
    except NotImplementedError as error:
      found = error
  raise ValueError(
    f'{_where(manager, step)}: a checkpoint of format {found}, saved by '
    'another version of sqlm_jax: this one reads format '
    f'{manifest.FORMAT}, a newer one may read both'
  )


def _read(
  manager,
  step: int,
  wanted: Mapping[Path, Any],
  stored: Mapping[Path, manifest.Stored],
) -> dict[Path, jax.Array]:
  restore_args = {
    path: ocp.ArrayRestoreArgs(sharding=x.sharding, dtype=x.dtype)
    for path, x in wanted.items()
  }
  args = ocp.args.PyTreeRestore(
    item=tree_paths.nest(wanted),
    restore_args=tree_paths.nest(restore_args),
    partial_restore=True,
  )
  with errors.reading(_where(manager, step)):
    states = _read_alone(
      manager, step, 'states', ocp.PyTreeCheckpointHandler, args
    )
    arrays = tree_paths.paths(states)
  if altered := manifest.altered(arrays, stored):
    why = f'not as it was: {", ".join(altered[:3])}'
    raise errors.damage(_where(manager, step), why)
  return arrays
