"""Train states: fresh ones, their shapes, and the parameters in them."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import optax

from sqlm_jax import assemble, sharding
from sqlm_jax.engine import critic, learner
from sqlm_jax.models import lora
from sqlm_jax.models import policy as policy_lib
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
