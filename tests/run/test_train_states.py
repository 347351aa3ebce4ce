"""Tests of the initial train states."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import smoke
from sqlm_jax.config import schema as config_lib
from sqlm_jax.distributed import sharding
from sqlm_jax.engine import optimizer
from sqlm_jax.run import build as build_lib
from sqlm_jax.run import train_states


def build(**keys) -> build_lib.Parts:
  c = smoke.get_config()
  for key, value in keys.items():
    group, name = key.split('__')
    c[group][name] = value
  return build_lib.build(config_lib.from_dict(c.to_dict()))


def initial_params(parts):
  """Returns the parameters before the first update and the loaded ones."""
  (state,) = train_states.initial_states(parts).values()
  return state.params, parts.load_params(parts.config.model.param_dtype)


def matrices_and_others(params, loaded):
  for x, y, is_matrix in zip(
    *map(jax.tree.leaves, (params, loaded)),
    jax.tree.leaves(optimizer.matrices(params)),
    strict=True,
  ):
    yield np.asarray(x), np.asarray(y), is_matrix


@pytest.mark.parametrize('small_updates', ['follow', 'hold'])
def test_the_initial_model_equals_the_loaded_model_in_bfloat16(small_updates):
  parts = build(model__dtype='bfloat16', optimizer__small_updates=small_updates)
  for x, y, is_matrix in matrices_and_others(*initial_params(parts)):
    np.testing.assert_array_equal(
      x.astype(jnp.bfloat16), y.astype(jnp.bfloat16)
    )
    if not is_matrix:
      np.testing.assert_array_equal(x, y)
    elif small_updates == 'hold':
      np.testing.assert_array_equal(x, x.astype(jnp.bfloat16).astype(x.dtype))
    else:
      assert (x != y).mean() > 0.99


@pytest.mark.parametrize(
  'keys',
  [
    {},
    {'model__dtype': 'bfloat16', 'model__param_dtype': 'bfloat16'},
    {'sampler__dtype': 'bfloat16'},
  ],
)
def test_weights_are_unchanged_if_products_do_not_round_them(keys):
  for x, y, _ in matrices_and_others(*initial_params(build(**keys))):
    np.testing.assert_array_equal(x, y)


def test_frozen_weights_are_unchanged():
  c = smoke.get_config()
  c.model.dtype, c.model.lora.rank = 'bfloat16', 2
  parts = build_lib.build(config_lib.from_dict(c.to_dict()))
  (state,) = train_states.initial_states(parts).values()
  names = {path[-1].key for path, _ in jax.tree.leaves_with_path(state.params)}
  assert names == {'lora_a', 'lora_b'}
  params = train_states.whole_params(parts, state.params)
  for path, x in jax.tree.leaves_with_path(parts.load_params('bfloat16')):
    y = params
    for key in path:
      y = y[key.key]
    np.testing.assert_array_equal(x, y)


def test_initial_weights_do_not_depend_on_the_mesh():
  weights = []
  for axes in ({'data': 1}, {'data': 1, 'fsdp': 4, 'tensor': 2}):
    mesh = sharding.make_mesh(
      dict.fromkeys(sharding.AXES, 1) | axes,
      devices=jax.devices()[: 8 if len(axes) > 1 else 1],
    )
    params = {'layers': {'mlp': {'up': {'kernel': jnp.ones((2, 32, 64))}}}}
    params = jax.device_put(params, sharding.shard_parameters(params, mesh))
    weights.append(train_states.prepare_for_small_updates(params, hold=False))
  jax.tree.map(np.testing.assert_array_equal, *map(jax.device_get, weights))
