"""Coefficients that adapt to a target, by hand."""

import math
import types

import jax
import numpy as np
import pytest

from sqlm_jax.config import training_schema
from sqlm_jax.distributed import sharding
from sqlm_jax.selfplay import adaptive, step_types
from tests.selfplay import test_step

MESH = sharding.make_mesh(
  {'data': 1, 'fsdp': 1, 'tensor': 1}, jax.devices()[:1]
)
LOSS = training_schema.Loss(
  kl_coef=0.5,
  kl_target=0.02,
  entropy_coef=0.25,
  entropy_target=2.0,
  adapt_rate=0.5,
)


@pytest.mark.parametrize(
  'error, expected',
  [
    (0.0, 0.5),
    (0.5, 0.5 * 1.25),
    (-0.5, 0.5 * 0.75),
    (7.0, 0.5 * 1.5),  # at most by the rate
    (-7.0, 0.5 * 0.5),
    (math.nan, 0.5),
    (math.inf, 0.5),
  ],
)
def test_a_coefficient_moves_by_the_relative_error(error, expected):
  assert adaptive.adapt(0.5, error, initial=0.5, rate=0.5) == expected


def test_a_coefficient_settles_where_the_target_is_reached():
  """The KL of this model is inversely proportional to the coefficient."""
  coefficient, target = 1.0, 0.125
  for _ in range(200):
    kl = 0.25 / coefficient
    coefficient = adaptive.adapt(
      coefficient, (kl - target) / target, initial=1.0, rate=0.1
    )
  assert coefficient == pytest.approx(2.0, rel=1e-3)


def test_a_target_that_cannot_be_reached_has_bounds():
  high = low = 0.5
  for _ in range(200):
    high = adaptive.adapt(high, 1.0, initial=0.5, rate=0.5)
    low = adaptive.adapt(low, -1.0, initial=0.5, rate=0.5)
  assert (high, low) == (500.0, 0.0005)


def make_states(loss):
  return {step_types.COEFFICIENTS: adaptive.initial_state(loss, MESH)}


def test_each_role_adapts_its_own_coefficients():
  changes = {f'loss.{name}': value for name, value in vars(LOSS).items()}
  config = test_step.change(test_step.make_parts().config, changes)
  game = types.SimpleNamespace(config=config, mesh=MESH)
  states = make_states(LOSS)
  metrics = {'train/solver/kl': 0.03, 'train/solver/entropy': 1.0}
  states, shown = adaptive.after_updates('solver', states, metrics, game)
  # The coefficients of the updates, before they are adapted.
  assert shown == {
    'train/solver/kl_coef': 0.5,
    'train/solver/entropy_coef': 0.25,
  }
  # The KL is half of the target too high, and so is the entropy too low.
  found = jax.device_get(adaptive.coefficients('solver', states))
  assert found == {
    'kl_coef': pytest.approx(0.5 * 1.25),
    'entropy_coef': pytest.approx(0.25 * 1.25),
  }
  assert adaptive.kl_coef('solver', states, LOSS) == pytest.approx(0.625)
  assert adaptive.kl_coef('proposer', states, LOSS) == 0.5
  # Without updates, nothing is adapted.
  states, _ = adaptive.after_updates('proposer', states, {}, game)
  assert adaptive.kl_coef('proposer', states, LOSS) == 0.5


def test_without_a_target_there_are_no_coefficients():
  loss = training_schema.Loss(kl_coef=0.5, entropy_coef=0.25)
  assert adaptive.initial_state(loss, MESH) is None
  assert adaptive.coefficients('solver', {}) is None
  assert adaptive.kl_coef('solver', {}, loss) == 0.5
  assert adaptive.after_updates('solver', {}, {}, None) == ({}, {})


def test_a_step_adapts_the_coefficients():
  """The answers are scripted; the updates are real.

  The KL is part of the reward; `test_train.py` tests a KL in the loss.
  """
  changes = {
    'advantage.estimator': 'gae',
    'loss.kl_placement': 'reward',
    'loss.kl_coef': 0.1,
    'loss.kl_target': 0.5,
    'loss.entropy_coef': 0.1,
    'loss.entropy_target': 9.0,
  }
  script = test_step.Script(test_step.PROPOSALS, test_step.SOLUTIONS, **changes)
  parts = script.parts
  game = test_step.build.make_game(parts)._replace(
    samplers=script.game.samplers
  )
  states = test_step.train_states.initial_states(parts)
  states, _, outcome = test_step.step_lib.self_play_step(
    0, states, test_step.EMPTY, game
  )
  assert outcome.metrics['train/solver/kl_coef'] == pytest.approx(0.1)
  found = jax.device_get(adaptive.coefficients('solver', states))
  errors = {
    'kl_coef': (outcome.metrics['train/solver/kl'] - 0.5) / 0.5,
    'entropy_coef': (9.0 - outcome.metrics['train/solver/entropy']) / 9.0,
  }
  assert all(-1 < error < 1 for error in errors.values())
  assert found == {
    name: pytest.approx(0.1 * (1 + 0.1 * error), rel=1e-6)
    for name, error in errors.items()
  }
  # A checkpoint of these states is restored by their shapes.
  abstract = test_step.train_states.abstract_states(parts)
  assert jax.tree.structure(abstract) == jax.tree.structure(states)
  assert np.shape(found['kl_coef']) == ()
