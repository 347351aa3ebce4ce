"""Train states: fresh ones, their shapes, and the parameters in them."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import optax

from sqlm_jax.config import config_rules
from sqlm_jax.config import schema as config_lib
from sqlm_jax.distributed import sharding
from sqlm_jax.engine import critic, learner, optimizer
from sqlm_jax.models import lora
from sqlm_jax.models import policy as policy_lib
from sqlm_jax.ops import rounding
from sqlm_jax.run import assemble
from sqlm_jax.selfplay import game as game_lib
from sqlm_jax.selfplay import learning


def initial_states(parts: assemble.Parts) -> game_lib.States:
  """Fresh train states: of the model's parameters, or of new adapters."""
  shardings = jax.tree.map(lambda x: x.sharding, abstract_states(parts))

  def start(index, sharded, trained):
    init = lambda params: learner.init_state(params, trained.optimizer)
    if not parts.lora:
      # Donated: there is never a second copy of a model.
      start = jax.jit(init, out_shardings=sharded, donate_argnums=0)
      params = parts.load_params(parts.config.model.param_dtype)
      if rounds_weights(parts.config.model):
        hold = parts.config.optimizer.small_updates == config_rules.HOLD
        params = prepare_for_small_updates(params, hold=hold)
      return start(trained.prepare(params))
    key = jax.random.fold_in(jax.random.key(parts.config.seed), index)
    start = lambda key: init(
      trained.prepare(lora.adapters(parts.policy.init(key)))
    )
    return jax.jit(start, out_shardings=sharded)(key)

  states = {
    name: start(index, shardings[name], trained)
    for index, (name, trained) in enumerate(_trained(parts).items())
  }
  if 'voter' in parts.owner:
    states[parts.owner['voter']] = learning.earlier_solver(states, parts.owner)
  return states


def rounds_weights(model: config_lib.Model) -> bool:
  """Returns True if products round weights that are stored in more bits."""
  return (model.dtype, model.param_dtype) == ('bfloat16', 'float32')


def prepare_for_small_updates(
  params: policy_lib.Params, *, hold: bool
) -> policy_lib.Params:
  """Moves weights within the interval that rounds to one bfloat16 number.

  In bfloat16 the model stays the same. What its products see of an update then
  depends on `hold` alone, not on where the weights of a file lie between two
  bfloat16 numbers: on them, half-way, or anywhere.

  Args:
    params: parameters to be trained in float32; donated.
    hold: move weights to the middle of the interval, so that a product sees a
      weight move only once it has moved by half the distance between two
      bfloat16 numbers. Otherwise to a random place, so that products see any
      update on average.
  """
  key = jax.random.key(0)  # the same for every seed of a run

  def move(index, x):
    moved = functools.partial(rounding.spread, jax.random.fold_in(key, index))
    if hold:
      moved = rounding.center
    return jax.jit(moved, donate_argnums=0, out_shardings=x.sharding)(x)

  # One array at a time: the noise is as large as the array.
  leaves, tree = jax.tree.flatten(params)
  are_matrices = jax.tree.leaves(optimizer.matrices(params))
  return tree.unflatten(
    move(i, x) if is_matrix else x
    for i, (x, is_matrix) in enumerate(zip(leaves, are_matrices, strict=True))
  )


def abstract_states(parts: assemble.Parts) -> game_lib.States:
  """Shapes and shardings of the train states, without the arrays."""
  whole = jax.eval_shape(parts.policy.init, jax.random.key(0))
  if parts.lora:
    whole = lora.adapters(whole)

  def abstract(trained):
    params = jax.eval_shape(trained.prepare, whole)
    state = jax.eval_shape(
      lambda params: learner.init_state(params, trained.optimizer), params
    )
    shardings = sharding.shard_like_parameters(state, params, parts.mesh)
    return jax.tree.map(
      lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
      state,
      shardings,
    )

  states = {
    name: abstract(trained) for name, trained in _trained(parts).items()
  }
  if 'voter' in parts.owner:
    solver = states[parts.owner['solver']]
    states[parts.owner['voter']] = solver._replace(opt_state=())
  return states


class _Trained(NamedTuple):
  """How a train state begins."""

  prepare: Callable[[policy_lib.Params], policy_lib.Params]
  optimizer: optax.GradientTransformation


def _trained(parts: assemble.Parts) -> dict[str, _Trained]:
  """The train states that are trained, by name."""
  owners = dict.fromkeys(parts.owner[role] for role in game_lib.ROLES)
  trained = {name: _Trained(lambda x: x, parts.optimizer) for name in owners}
  if parts.critic_optimizer:
    # Behind the policies: adapters are drawn by place.
    width = parts.policy.config.width
    prepare = functools.partial(critic.init_params, width=width)
    started = _Trained(prepare, parts.critic_optimizer)
    trained |= {game_lib.critic_of(name): started for name in owners}
  return trained


def whole_params(
  parts: assemble.Parts, trained: policy_lib.Params
) -> policy_lib.Params:
  """What was trained, with the frozen base if it is adapters."""
  if not parts.lora:
    return trained
  return lora.join(parts.load_params(parts.config.model.dtype), trained)
