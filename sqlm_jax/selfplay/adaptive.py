"""Coefficients of the loss that adapt to a target.

After the updates of a role in a step, each coefficient c with a target becomes

  c (1 + rate clip(e, -1, 1)),   e = (KL - target) / target       (KL)
                                 e = (target - H) / target        (entropy H)

within a factor of `_MAX_CHANGE` of its initial value. Each role has its own
coefficients. They are arrays of a `TrainState`, so that checkpoints store them.
"""

import math
from collections.abc import Mapping

import jax
import numpy as np

from sqlm_jax.config import training_schema
from sqlm_jax.distributed import transfers
from sqlm_jax.engine import learner
from sqlm_jax.selfplay import step_types

# Bounds a coefficient whose target cannot be reached.
_MAX_CHANGE = 1000.0


def initial_state(
  loss: training_schema.Loss, mesh: jax.sharding.Mesh
) -> learner.TrainState | None:
  """Returns the coefficients before training, None if none has a target."""
  initial = {}
  if loss.kl_target:
    initial['kl_coef'] = np.float32(loss.kl_coef)
  if loss.entropy_target:
    initial['entropy_coef'] = np.float32(loss.entropy_coef)
  if not initial:
    return None
  params = {role: dict(initial) for role in step_types.ROLES}
  step, params = transfers.put_replicated(
    (np.zeros((), np.int32), params), mesh
  )
  return learner.TrainState(step, params, opt_state=())


def coefficients(
  role: str, states: step_types.States
) -> dict[str, jax.Array] | None:
  """Returns the coefficients of a role by name, None if none has a target."""
  state = states.get(step_types.COEFFICIENTS)
  return None if state is None else state.params[role]


def kl_coef(
  role: str, states: step_types.States, loss: training_schema.Loss
) -> float:
  """Returns the coefficient of the KL of a role."""
  adapted = coefficients(role, states) or {}
  if 'kl_coef' not in adapted:
    return loss.kl_coef
  return float(transfers.fetch(adapted['kl_coef']))


def after_updates(
  role: str,
  states: step_types.States,
  metrics: Mapping[str, float],
  game: step_types.GameSetup,
) -> tuple[step_types.States, dict[str, float]]:
  """Adapts the coefficients of a role after its updates in a step.

  Args:
    role: the role that was updated.
    states: the states after the updates.
    metrics: metrics of the updates.
    game: the constant parts of self-play.

  Returns:
    The states, and the coefficients of these updates as metrics.
  """
  used = coefficients(role, states)
  if used is None:
    return states, {}
  loss = game.config.loss
  values = {name: float(transfers.fetch(x)) for name, x in used.items()}
  adapted, shown = {}, {}
  if 'kl_coef' in values:
    kl = metrics.get(f'train/{role}/kl', loss.kl_target)
    adapted['kl_coef'] = adapt(
      values['kl_coef'],
      (kl - loss.kl_target) / loss.kl_target,
      initial=loss.kl_coef,
      rate=loss.adapt_rate,
    )
    shown[f'train/{role}/kl_coef'] = values['kl_coef']
  if 'entropy_coef' in values:
    entropy = metrics.get(f'train/{role}/entropy', loss.entropy_target)
    adapted['entropy_coef'] = adapt(
      values['entropy_coef'],
      (loss.entropy_target - entropy) / loss.entropy_target,
      initial=loss.entropy_coef,
      rate=loss.adapt_rate,
    )
    shown[f'train/{role}/entropy_coef'] = values['entropy_coef']
  placed = transfers.put_replicated(
    {name: np.float32(value) for name, value in adapted.items()}, game.mesh
  )
  state = states[step_types.COEFFICIENTS]
  state = state._replace(params=state.params | {role: placed})
  return states | {step_types.COEFFICIENTS: state}, shown


def adapt(
  coefficient: float, error: float, *, initial: float, rate: float
) -> float:
  """Returns the next value of a coefficient.

  Args:
    coefficient: its current value.
    error: relative distance from the target, positive if the coefficient is too
      small. It has no effect if it is not finite.
    initial: the value before training.
    rate: the largest relative change.
  """
  if not math.isfinite(error):
    return coefficient
  adapted = coefficient * (1 + rate * min(max(error, -1.0), 1.0))
  return min(max(adapted, initial / _MAX_CHANGE), initial * _MAX_CHANGE)
