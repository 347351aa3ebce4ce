"""The optimizer: AdamW from optax, with options for low precision."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from sqlm_jax.config import training_schema
from sqlm_jax.ops import rounding


class InBfloat16(NamedTuple):
  """An optimizer state whose float32 arrays are stored as bfloat16."""

  count: jax.Array  # [], number of updates so far
  inner: optax.OptState


def make_optimizer(
  config: training_schema.Optimizer,
) -> optax.GradientTransformation:
  """Returns AdamW (Loshchilov and Hutter, 2019) after gradient clipping.

  Weight decay is decoupled, multiplied by the learning rate, and applies to
  matrices only.

  Args:
    config: learning rate, moments, weight decay and clipping.
  """
  adamw = optax.adamw(
    make_schedule(config),
    b1=config.b1,
    b2=config.b2,
    weight_decay=config.weight_decay,
    mask=matrices,
  )
  adamw = in_float32(adamw)
  if config.moment_dtype == 'bfloat16':
    adamw = in_bfloat16(adamw)
  if not config.clip_norm:
    return adamw
  return optax.chain(optax.clip_by_global_norm(config.clip_norm), adamw)


def make_schedule(
  config: training_schema.Optimizer,
) -> optax.ScalarOrSchedule:
  """Returns the learning rate as a function of the number of updates.

  The learning rate increases linearly from 0 during the warmup. It then stays
  constant, or decays linearly or as a cosine to `min_lr_ratio` times its
  maximum, and stays there.

  Args:
    config: the learning rate, its warmup and its decay.
  """
  rate, warmup = config.learning_rate, config.warmup_steps
  low = config.min_lr_ratio
  match config.schedule:
    case 'linear':
      decay = optax.linear_schedule(rate, rate * low, config.decay_steps)
    case 'cosine':
      decay = optax.cosine_decay_schedule(rate, config.decay_steps, alpha=low)
    case _:
      return optax.linear_schedule(0.0, rate, warmup) if warmup else rate
  if not warmup:
    return decay
  return optax.join_schedules(
    [optax.linear_schedule(0.0, rate, warmup), decay], [warmup]
  )


def apply_updates(
  params: optax.Params, updates: optax.Updates, step: jax.Array
) -> optax.Params:
  """Adds updates to parameters, like `optax.apply_updates`.

  bfloat16 parameters are rounded stochastically, so that they move by the
  update on average. With rounding to nearest, most of them would not move at
  all, because most updates are smaller than half the distance to the next
  bfloat16 number.

  Args:
    params: parameters in float32 or bfloat16.
    updates: float32 updates of the same structure.
    step: [], number of earlier updates, which the rounding noise is derived
      from.
  """
  key = jax.random.fold_in(jax.random.key(1), step)
  leaves, tree = jax.tree.flatten(params)
  moved = []
  for i, (x, update) in enumerate(
    zip(leaves, tree.flatten_up_to(updates), strict=True)
  ):
    total = x + update
    if x.dtype == jnp.bfloat16:
      leaf_key = jax.random.fold_in(key, i)
      total = rounding.round_at_random(leaf_key, total.astype(jnp.float32))
    moved.append(total.astype(x.dtype))
  return tree.unflatten(moved)


def in_float32(
  inner: optax.GradientTransformation,
) -> optax.GradientTransformation:
  """Computes and stores moments as float32 for parameters of any dtype."""

  def cast(tree: optax.Params) -> optax.Params:
    return jax.tree.map(lambda x: x.astype(jnp.float32), tree)

  def init(params: optax.Params) -> optax.OptState:
    return inner.init(cast(params))

  def update(
    updates: optax.Updates,
    state: optax.OptState,
    params: optax.Params | None = None,
  ) -> tuple[optax.Updates, optax.OptState]:
    return inner.update(cast(updates), state, params)

  return optax.GradientTransformation(init, update)


def in_bfloat16(
  inner: optax.GradientTransformation,
) -> optax.GradientTransformation:
  """Stores the float32 arrays of an optimizer state as bfloat16.

  The arrays are rounded stochastically, which is correct on average. With
  rounding to nearest, a second moment would never decrease: one step with
  b2 = 0.999 reduces it by a thousandth, which is less than half the distance
  between two bfloat16 numbers.
  """

  def init(params: optax.Params) -> InBfloat16:
    state = jax.tree.map(_nearest, inner.init(params))
    return InBfloat16(jnp.zeros((), jnp.int32), state)

  def update(
    updates: optax.Updates,
    state: optax.OptState,
    params: optax.Params | None = None,
  ) -> tuple[optax.Updates, InBfloat16]:
    assert isinstance(state, InBfloat16)
    inner_state = jax.tree.map(
      lambda x: x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x,
      state.inner,
    )
    updates, inner_state = inner.update(updates, inner_state, params)
    key = jax.random.fold_in(jax.random.key(0), state.count)
    leaves, tree = jax.tree.flatten(inner_state)
    leaves = [
      rounding.round_at_random(jax.random.fold_in(key, i), x)
      if _is_float(x)
      else x
      for i, x in enumerate(leaves)
    ]
    return updates, InBfloat16(state.count + 1, tree.unflatten(leaves))

  return optax.GradientTransformation(init, update)


def _is_float(x: jax.Array) -> bool:
  return x.dtype == jnp.float32


def _nearest(x: jax.Array) -> jax.Array:
  return x.astype(jnp.bfloat16) if _is_float(x) else x


def matrices(params: optax.Params) -> optax.Params:
  """Returns a tree that is False for norm scales and biases, otherwise True."""
  return jax.tree_util.tree_map_with_path(
    lambda path, _: path[-1].key not in ('scale', 'bias'), params
  )
