"""Creation of train states, their shapes, and their parameters."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from sqlm_jax.config import training_schema
from sqlm_jax.distributed import sharding
from sqlm_jax.engine import critic, learner, optimizer
from sqlm_jax.models import lora
from sqlm_jax.models import policy as policy_lib
from sqlm_jax.ops import rounding
from sqlm_jax.run import build, learning_rate
from sqlm_jax.selfplay import adaptive, solver_copies, step_types


def initial_states(parts: build.Parts) -> step_types.States:
  """Creates train states from the model's parameters, or with new adapters."""
  shardings = jax.tree.map(lambda x: x.sharding, abstract_states(parts))
  make = _initial_adapters if parts.lora else _initial_weights
  states = {
    name: make(parts, spec, index=index, shardings=shardings[name])
    for index, (name, spec) in enumerate(_state_specs(parts).items())
  }
  names = parts.state_names
  if parts.config.policy.average_decay:
    solver = solver_copies.earlier_solver(states, names)
    params = jax.tree.map(lambda x: x.astype(jnp.float32), solver.params)
    states[step_types.AVERAGE] = solver._replace(params=params)
  elif 'voter' in names:
    states[names['voter']] = solver_copies.earlier_solver(states, names)
  coefficients = adaptive.initial_state(parts.config.loss, parts.mesh)
  if coefficients is not None:
    states[step_types.COEFFICIENTS] = coefficients
  return states


def _initial_weights(
  parts: build.Parts,
  spec: '_StateSpec',
  *,
  index: int,
  shardings: learner.TrainState,
) -> learner.TrainState:
  """Returns a train state of the model's loaded weights."""
  del index  # only new adapters need a random key
  params = parts.load_params(parts.config.model.param_dtype)
  is_pretrained = parts.config.model.path != 'random'
  if is_pretrained and spec.optimizer is parts.optimizer:
    learning_rate.check(parts.config.optimizer, params)
  if rounds_weights(parts.config.model):
    hold = parts.config.optimizer.small_updates == 'hold'
    params = prepare_for_small_updates(params, hold=hold)

  # Donates the parameters, so that there is only one copy in memory.
  @functools.partial(jax.jit, out_shardings=shardings, donate_argnums=0)
  def init(params: policy_lib.Params) -> learner.TrainState:
    return learner.init_state(params, spec.optimizer)

  return init(spec.prepare(params))


def _initial_adapters(
  parts: build.Parts,
  spec: '_StateSpec',
  *,
  index: int,
  shardings: learner.TrainState,
) -> learner.TrainState:
  """Returns a train state of new adapters."""

  @functools.partial(jax.jit, out_shardings=shardings)
  def init(key: jax.Array) -> learner.TrainState:
    adapters = lora.adapters(parts.policy.init(key))
    return learner.init_state(spec.prepare(adapters), spec.optimizer)

  return init(jax.random.fold_in(jax.random.key(parts.config.seed), index))


def rounds_weights(model: training_schema.Model) -> bool:
  """Returns True if float32 weights are rounded to bfloat16 in products."""
  return (model.dtype, model.param_dtype) == ('bfloat16', 'float32')


def prepare_for_small_updates(
  params: policy_lib.Params, *, hold: bool
) -> policy_lib.Params:
  """Moves each weight within the interval that rounds to its bfloat16 value.

  The model stays the same in bfloat16. How small updates affect its products
  then depends only on `hold`, and not on the positions of the loaded weights
  between two bfloat16 numbers.

  Args:
    params: Parameters to be trained in float32; donated.
    hold: If True, moves weights to the center of the interval, so that an
      update affects a product only once a weight has moved by half the distance
      between two bfloat16 numbers. If False, moves weights to a random position
      in the interval, so that every update affects products on average.
  """
  key = jax.random.key(0)  # independent of the run's seed

  def move(index: int, x: jax.Array) -> jax.Array:
    moved = functools.partial(rounding.spread, jax.random.fold_in(key, index))
    if hold:
      moved = rounding.center
    return jax.jit(moved, donate_argnums=0, out_shardings=x.sharding)(x)

  # Moves one array at a time, because the noise is as large as the array.
  leaves, tree = jax.tree.flatten(params)
  are_matrices = jax.tree.leaves(optimizer.matrices(params))
  return tree.unflatten(
    move(i, x) if is_matrix else x
    for i, (x, is_matrix) in enumerate(zip(leaves, are_matrices, strict=True))
  )


def abstract_states(parts: build.Parts) -> step_types.States:
  """Returns the shapes and shardings of the train states, without arrays."""
  model_params = jax.eval_shape(parts.policy.init, jax.random.key(0))
  if parts.lora:
    model_params = lora.adapters(model_params)

  def abstract(spec: _StateSpec) -> learner.TrainState:
    params = jax.eval_shape(spec.prepare, model_params)
    state = jax.eval_shape(
      lambda params: learner.init_state(params, spec.optimizer), params
    )
    shardings = sharding.shard_like_parameters(state, params, parts.mesh)
    return jax.tree.map(
      lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
      state,
      shardings,
    )

  states = {name: abstract(spec) for name, spec in _state_specs(parts).items()}
  names = parts.state_names
  solver = states[names['solver']]._replace(opt_state=())
  if parts.config.policy.average_decay:
    params = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, jnp.float32, sharding=x.sharding),
      solver.params,
    )
    states[step_types.AVERAGE] = solver._replace(params=params)
  elif 'voter' in names:
    states[names['voter']] = solver
  coefficients = adaptive.initial_state(parts.config.loss, parts.mesh)
  if coefficients is not None:
    states[step_types.COEFFICIENTS] = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
      coefficients,
    )
  return states


class _StateSpec(NamedTuple):
  """The initialization of a train state.

  Attributes:
    prepare: Converts the model's parameters to the parameters of the state.
    optimizer: Optimizer of the state.
  """

  prepare: Callable[[policy_lib.Params], policy_lib.Params]
  optimizer: optax.GradientTransformation


def _state_specs(parts: build.Parts) -> dict[str, _StateSpec]:
  """Returns how the trained states are initialized, by name of the state."""
  names = dict.fromkeys(parts.state_names[role] for role in step_types.ROLES)
  specs = {name: _StateSpec(lambda x: x, parts.optimizer) for name in names}
  if parts.critic_optimizer:
    # Added after the policies, because the random key of a state's adapters
    # depends on its position.
    width = parts.policy.config.width
    prepare = functools.partial(critic.init_params, width=width)
    critic_spec = _StateSpec(prepare, parts.critic_optimizer)
    specs |= {step_types.critic_of(name): critic_spec for name in names}
  return specs


def whole_params(
  parts: build.Parts, trained: policy_lib.Params
) -> policy_lib.Params:
  """Returns all parameters of a policy, with adapters and the frozen model."""
  if not parts.lora:
    return trained
  return lora.join(parts.load_params(parts.config.model.dtype), trained)
