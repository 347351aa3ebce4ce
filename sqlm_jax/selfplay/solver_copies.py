"""Copies of the solver that are not trained: earlier solvers and averages."""

import functools

import jax
import jax.numpy as jnp

from sqlm_jax.engine import learner
from sqlm_jax.selfplay import step_types


def earlier_solver(
  states: step_types.States, state_names: dict[str, str]
) -> learner.TrainState:
  """Returns a copy of the current solver, for votes in later steps."""
  solver = states[state_names['solver']]._replace(opt_state=())
  # Copied because the next update donates the solver's buffers.
  return jax.tree.map(jnp.copy, solver)


@functools.partial(jax.jit, donate_argnums=0)
def move_average(
  average: learner.TrainState, solver: learner.TrainState, decay: float
) -> learner.TrainState:
  """Moves an exponential moving average towards the solver.

  Args:
    average: the average, with parameters in float32; donated.
    solver: the solver after a step.
    decay: `policy.average_decay`.
  """
  params = jax.tree.map(
    lambda mean, x: mean + (1 - decay) * (x.astype(mean.dtype) - mean),
    average.params,
    solver.params,
  )
  return average._replace(step=solver.step + 0, params=params)
