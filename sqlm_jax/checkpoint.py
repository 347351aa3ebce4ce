"""Checkpoints: orbax, told to save and restore train states by name.

A checkpoint of step n holds what a run needs to go on with step n: its train
states (any NamedTuples and dicts of arrays) and a little host state as JSON.
Arrays are stored under their paths, 'policy/params/final_norm/scale', so that
a checkpoint is read without the code that wrote it, and that one which does
not fit is refused by the names of what does not.
"""

import contextlib
import logging
from collections.abc import Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint.checkpoint_managers import preservation_policy as policies

Tree = Any  # a pytree of arrays, or of jax.ShapeDtypeStruct with shardings
Path = tuple[str, ...]  # names from the root to a leaf


def open_checkpoints(
  directory: epath.PathLike,
  *,
  keep: int = 1,
  every: int = 0,
  read_only: bool = False,
) -> ocp.CheckpointManager:
  """Opens a directory of checkpoints; to be closed, or used in a `with`.

  What a killed run left half-saved is removed, unless it is opened to read.

  Args:
    directory: made if it does not exist, unless it is opened to read.
    keep: how many of the newest checkpoints stay, beside the best one.
    every: `save` keeps each step that this divides; 0 only forced ones.
    read_only: changes nothing, so that a run may be training there.
  """
  logging.getLogger('absl').addFilter(_not_orbax_chatter)
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
    )
  return ocp.CheckpointManager(
    epath.Path(directory).absolute(),
    options=options,
    item_handlers={
      'states': ocp.PyTreeCheckpointHandler(),
      'host': ocp.JsonCheckpointHandler(),
    },
  )


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
    score: how good it is, the best one is kept; None if nobody knows.
    force: whether it is time or not; `manager.wait_until_finished()` makes
      sure that it is on disk.

  Returns:
    Whether this step is saved, or was before.
  """
  if step in manager.all_steps():
    return True
  return manager.save(
    step,
    args=ocp.args.Composite(
      states=ocp.args.PyTreeSave(_nest(_paths(states))),
      host=ocp.args.JsonSave(dict(host_state)),
    ),
    metrics=None if score is None else {'score': score},
    force=force,
  )


def restore(
  manager: ocp.CheckpointManager,
  abstract_states: Mapping[str, Tree],
  *,
  step: int | None = None,
) -> tuple[int, dict[str, Tree], dict[str, Any]]:
  """Restores a run, each array straight onto its shards.

  Args:
    manager: from `open_checkpoints`.
    abstract_states: train states by name; `jax.ShapeDtypeStruct` with their
      shardings instead of arrays.
    step: of the checkpoint; default, the newest.

  Returns:
    The step, the states and the host state.

  Raises:
    FileNotFoundError: if there is no such checkpoint.
    ValueError: if its arrays have other names, shapes or types, or if it is
      damaged.
  """
  step = _existing(manager, step)
  wanted = _paths(abstract_states)
  _check(wanted, _stored(manager, step), _where(manager, step))
  arrays = _read(manager, step, wanted)
  with _damage_named(manager, step):
    args = ocp.args.Composite(host=ocp.args.JsonRestore())
    host = manager.restore(step, args=args).host
  return step, _fill(abstract_states, arrays), host


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
    ValueError: if its parameters have other names, shapes or types, or if it
      is damaged.
  """
  step = _existing(manager, step)
  trees = {name: {'params': tree} for name, tree in abstract_params.items()}
  wanted = _paths(trees)
  stored = {
    path: x
    for path, x in _stored(manager, step).items()
    if path[0] in abstract_params and path[1:2] == ('params',)
  }
  _check(wanted, stored, _where(manager, step))
  filled = _fill(trees, _read(manager, step, wanted))
  return step, {name: tree['params'] for name, tree in filled.items()}


def _existing(manager: ocp.CheckpointManager, step: int | None) -> int:
  manager.wait_until_finished()  # else the newest is listed, but not there
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


@contextlib.contextmanager
def _damage_named(manager, step: int):
  """Orbax and its backends raise anything when files are missing or cut."""
  try:
    yield
  except Exception as error:
    raise ValueError(
      f'{_where(manager, step)}: a damaged checkpoint, remove it to go on '
      f'from an earlier one ({str(error)[:200]})'
    ) from error


def _stored(manager, step: int) -> dict[Path, Any]:
  """Shape and dtype of what a checkpoint holds."""
  with _damage_named(manager, step):
    return _paths(manager.item_metadata(step)['states'].tree)


def _read(manager, step: int, wanted: Mapping[Path, Any]):
  restore_args = {
    path: ocp.ArrayRestoreArgs(sharding=x.sharding, dtype=x.dtype)
    for path, x in wanted.items()
  }
  args = ocp.args.PyTreeRestore(
    item=_nest(wanted), restore_args=_nest(restore_args), partial_restore=True
  )
  with _damage_named(manager, step):
    found = manager.restore(step, args=ocp.args.Composite(states=args))
  return _paths(found.states)


def _check(wanted: Mapping, stored: Mapping, where: str, most: int = 5):
  """Refuses a checkpoint of something else, by what differs."""
  show = lambda x: f'{x.dtype}{list(x.shape)}'
  differing = []
  for path in sorted(wanted.keys() | stored.keys()):
    found = show(stored[path]) if path in stored else 'nothing'
    expected = show(wanted[path]) if path in wanted else 'nothing'
    if found != expected:
      differing.append(
        f'  {"/".join(path)}: found {found}, expected {expected}'
      )
  if differing:
    rest = len(differing) - most
    raise ValueError(
      f'{where}: a checkpoint of another architecture or optimizer\n'
      + '\n'.join(differing[:most])
      + (f'\n  and {rest} more' if rest > 0 else '')
    )


def _paths(tree: Tree) -> dict[Path, Any]:
  """Leaves by path; the names are those of keys, fields and positions."""
  return {
    tuple(jax.tree_util.keystr((key,), simple=True) for key in path): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def _nest(leaves: Mapping[Path, Any]) -> dict:
  nested = {}
  for path, leaf in leaves.items():
    *parents, name = path
    place = nested
    for parent in parents:
      place = place.setdefault(parent, {})
    place[name] = leaf
  return nested


def _fill(like: Tree, leaves: Mapping[Path, Any]) -> Tree:
  """A tree of the same kind with other leaves, found by their paths."""
  return jax.tree.unflatten(
    jax.tree.structure(like), [leaves[path] for path in _paths(like)]
  )


def _not_orbax_chatter(record: logging.LogRecord) -> bool:
  """Orbax tells a page a save through absl's logger: keep the errors.

  Its warnings say that a directory that was opened to read is read-only.
  """
  return record.levelno >= logging.ERROR or 'orbax' not in record.pathname
