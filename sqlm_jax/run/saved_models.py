"""Finds and loads the models that a run has saved."""

import re
from typing import NamedTuple, Protocol

from etils import epath

from sqlm_jax.models import policy as policy_lib
from sqlm_jax.run import build, train_states
from sqlm_jax.selfplay import step_types
from sqlm_jax.workdir import checkpoints

LATEST, BEST = 'latest', 'best'

_HOW_BEST = (
  '. The best checkpoint is chosen on a validation set (task.validation or '
  'evaluation.validation) every evaluation.every steps, or by the probe with '
  'evaluation.best_by=probe'
)


class Load(Protocol):
  """Loads the parameters of a role."""

  def __call__(self, role: str) -> policy_lib.Params: ...


class SavedModel(NamedTuple):
  """A model after some steps of a run.

  Attributes:
    step: Number of self-play steps that the model has been trained for.
    about: Human-readable description of the model's origin.
    load: Loads the parameters of a role.
  """

  step: int
  about: str
  load: Load


def find(
  parts: build.Parts, workdir: epath.PathLike | None, which: str = LATEST
) -> SavedModel:
  """Finds a checkpoint without loading it.

  Args:
    parts: Parts of the run.
    workdir: Directory of the run, or None. Without checkpoints, 'latest' is the
      model before any training.
    which: 'latest', 'best' by the validation score, or a number of steps. 0 is
      the model before any training; so is 'best' if no checkpoint has a higher
      validation score.

  Raises:
    ValueError: If there is no such checkpoint. The message lists the
      checkpoints that exist.
  """
  build.check(parts)
  if which not in (LATEST, BEST) and not re.fullmatch(r'[0-9]{1,18}', which):
    raise ValueError(
      f'checkpoint={which!r}: expected latest, best or a number of steps'
    )
  directory = epath.Path(workdir or '') / 'checkpoints'
  steps, best, latest = [], None, None
  if workdir and directory.exists():
    # Opened read-only, because a run may be training in the same workdir.
    with checkpoints.open_checkpoints(directory, read_only=True) as manager:
      steps = checkpoints.all_steps(manager)
      best = checkpoints.best_step(manager)
      if which == LATEST:
        latest = checkpoints.newest_readable(manager)
  if which == LATEST:
    step = latest if steps else 0
  else:
    step = best if which == BEST else int(which)
  if step is None or (step and step not in steps):
    raise ValueError(
      f'checkpoint={which!r}: expected a checkpoint in {directory}, which has '
      f'{", ".join(map(str, steps)) or "none"}'
      + ('' if best is None else f'; the best one is {best}')
      + (_HOW_BEST if which == BEST else '')
    )
  if step not in steps:
    return _initial_model(parts, is_best=which == BEST)

  def load(role: str) -> policy_lib.Params:
    name = step_types.evaluated_state(
      role, parts.state_names, parts.config.policy.average_decay
    )
    abstract = train_states.abstract_states(parts)[name].params
    with checkpoints.open_checkpoints(directory, read_only=True) as manager:
      _, params = checkpoints.restore_params(
        manager, {name: abstract}, step=step
      )
    return train_states.whole_params(parts, params[name])

  return SavedModel(step, f'after {step} steps, from {workdir}', load)


def _initial_model(parts: build.Parts, *, is_best: bool) -> SavedModel:
  def load(role: str) -> policy_lib.Params:
    del role  # both roles start from the same model
    return parts.load_params(parts.config.model.param_dtype)

  about = 'before training'
  if is_best:
    about += ': no checkpoint has a higher validation score'
  return SavedModel(0, about, load)
