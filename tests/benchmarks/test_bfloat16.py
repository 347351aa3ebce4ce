"""The benchmark of updates in bfloat16, with a tiny model."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks import bfloat16
from sqlm_jax.ops import rounding

RATE = 1e-4


@pytest.fixture(scope='module')
def opened():
  model = bfloat16.open_model('random')
  directions = bfloat16.signs_of_gradients(model)
  return model, directions, bfloat16.make_measure(model)


def half_way(x: jax.Array) -> jax.Array:
  """Moves numbers half-way to the next bfloat16 number, as in GGUF files."""
  bits = jax.lax.bitcast_convert_type(rounding.center(x), jnp.uint32)
  return jax.lax.bitcast_convert_type(bits | jnp.uint32(0x8000), jnp.float32)


def test_weights_half_way_between_two_numbers_jump_unless_prepared(opened):
  model, directions, measure = opened
  model = model._replace(trained=jax.tree.map(half_way, model.trained))
  tipped, followed = (
    measure(
      bfloat16.start(model, how, on_grid=False), directions, RATE, number=1
    )
    for how in ('as stored', 'follow')
  )
  assert tipped['weights'] > 2
  assert followed['weights'] == pytest.approx(1, abs=0.1)


@pytest.fixture(scope='module')
def measured(opened):
  model, directions, measure = opened
  return {
    (on_grid, how): measure(
      bfloat16.start(model, how, on_grid=on_grid), directions, RATE, 2
    )
    for on_grid in (False, True)
    for how in bfloat16.STARTS
  }


@pytest.mark.parametrize('on_grid', [False, True])
def test_prepared_weights_follow_updates(measured, on_grid):
  slopes = measured[on_grid, 'follow']
  # About a fifth of the 100,000 weights moves, each by a whole step.
  assert slopes['weights'] == pytest.approx(1, abs=0.1)
  assert slopes['learner'] == pytest.approx(1, abs=0.2)
  assert slopes['learner correlation'] > 0.8


@pytest.mark.parametrize('on_grid', [False, True])
def test_held_weights_do_not_follow_small_updates(measured, on_grid):
  assert measured[on_grid, 'hold']['weights'] < 0.5


def test_weights_on_bfloat16_numbers_behave_as_held(measured):
  assert measured[True, 'as stored'] == measured[True, 'hold']


def test_sampler_and_learner_have_equal_slopes(measured):
  for slopes in measured.values():
    assert slopes['sampler'] == pytest.approx(slopes['learner'], rel=1e-3)
