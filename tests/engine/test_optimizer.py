"""The optimizer against steps of AdamW worked by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sqlm_jax.config import training_schema
from sqlm_jax.engine import optimizer
from tests import tiny

PARAMS = {
  'embedding': jnp.array([[8.0, -8.0]]),
  'mlp': {'kernel': jnp.array([[8.0, 4.0]])},
  'norm': {'scale': jnp.array([8.0, 1.0])},
}


def make_optimizer(**settings):
  """Returns an optimizer without weight decay by default."""
  config = training_schema.Optimizer(**{'weight_decay': 0.0} | settings)
  return optimizer.make_optimizer(config)


def updates_of(transform, gradients, params):
  """Yields the updates of consecutive steps at the same parameters."""
  state = transform.init(params)
  for gradient in gradients:
    update, state = transform.update(gradient, state, params)
    yield update


def test_scales_of_norms_do_not_decay():
  # With a gradient of 0, the update is only the weight decay, p lr decay, which
  # is an eighth of the matrices.
  adam = make_optimizer(learning_rate=0.5, weight_decay=0.25)
  zero = jax.tree.map(jnp.zeros_like, PARAMS)
  (update,) = updates_of(adam, [zero], PARAMS)
  new = optax.apply_updates(PARAMS, update)
  np.testing.assert_array_equal(new['embedding'], [[7, -7]])
  np.testing.assert_array_equal(new['mlp']['kernel'], [[7, 3.5]])
  np.testing.assert_array_equal(new['norm']['scale'], [8, 1])


@pytest.mark.parametrize('tied', [True, False])
def test_matrices_are_all_but_the_scales(tied):
  init = tiny.tiny_policy(tied).init
  mask = optimizer.matrices(jax.eval_shape(init, jax.random.key(0)))
  decayed = {
    '/'.join(key.key for key in path): flag
    for path, flag in jax.tree_util.tree_leaves_with_path(mask)
  }
  # Stacked over the layers, the scales of norms have two dimensions, too.
  assert {name for name, flag in decayed.items() if not flag} == {
    'final_norm/scale',
    'layers/attention_norm/scale',
    'layers/mlp_norm/scale',
  }
  assert len(decayed) == (11 if tied else 12)


@pytest.mark.parametrize(
  'clip_norm, factor',
  # The norm of (3, 4) and (0, 12) is 13.
  [(0.0, 1.0), (26.0, 1.0), (13.0, 1.0), (6.5, 0.5), (1.0, 1 / 13)],
)
def test_gradients_are_clipped_by_their_global_norm(clip_norm, factor):
  adam = make_optimizer(learning_rate=1.0, b1=0.75, clip_norm=clip_norm)
  params = {
    'a': {'kernel': jnp.ones((1, 2))},
    'b': {'scale': jnp.ones(2)},
  }
  gradient = {
    'a': {'kernel': jnp.array([[3.0, 4.0]])},
    'b': {'scale': jnp.array([0.0, 12.0])},
  }
  _, state = adam.update(gradient, adam.init(params), params)
  # The size of the gradient appears in the first moment, not in the update.
  first = optax.tree_utils.tree_get(state, 'mu')
  expected = 0.25 * factor  # 1 - b1
  np.testing.assert_allclose(
    first['a']['kernel'], [[3 * expected, 4 * expected]], rtol=1e-6
  )
  np.testing.assert_allclose(first['b']['scale'], [0, 12 * expected], rtol=1e-6)


@pytest.mark.parametrize(
  'warmup_steps, rates',
  [
    (0, [1, 1, 1]),
    (1, [0, 1, 1]),
    (4, [0, 0.25, 0.5, 0.75, 1, 1]),
  ],
)
def test_warm_up(warmup_steps, rates):
  # If all gradients are g, the unbiased moments are g and g^2, and updates are
  # -lr g / (|g| + 1e-8).
  adam = make_optimizer(
    learning_rate=0.125, warmup_steps=warmup_steps, clip_norm=0.0
  )
  gradient = jax.tree.map(lambda x: jnp.full_like(x, -2.0), PARAMS)
  steps = updates_of(adam, [gradient] * len(rates), PARAMS)
  for update, rate in zip(steps, rates, strict=True):
    for leaf in jax.tree.leaves(update):
      # 1 - b2^t loses four digits of float32 at b2 = 0.999.
      np.testing.assert_allclose(leaf, 0.125 * rate, rtol=1e-3)


HALF = 2**-0.5


@pytest.mark.parametrize(
  'settings, rates',
  [
    # (1 + cos(pi x)) / 2 at x = 0, 1/4, 1/2, 3/4 and 1.
    (
      {'schedule': 'cosine', 'decay_steps': 4},
      [1, (1 + HALF) / 2, 0.5, (1 - HALF) / 2, 0, 0],
    ),
    (
      {'schedule': 'cosine', 'decay_steps': 2, 'min_lr_ratio': 0.5},
      [1, 0.75, 0.5, 0.5],
    ),
    ({'schedule': 'linear', 'decay_steps': 2}, [1, 0.5, 0, 0]),
    (
      {
        'schedule': 'linear',
        'decay_steps': 4,
        'min_lr_ratio': 0.2,
        'warmup_steps': 2,
      },
      [0, 0.5, 1, 0.8, 0.6, 0.4, 0.2, 0.2],
    ),
  ],
)
def test_the_learning_rate_decays_after_the_warm_up(settings, rates):
  config = training_schema.Optimizer(learning_rate=0.125, **settings)
  schedule = optimizer.make_schedule(config)
  found = [schedule(jnp.int32(count)) for count in range(len(rates))]
  np.testing.assert_allclose(found, 0.125 * np.array(rates), atol=1e-8)
  # The optimizer moves weights by this rate, see `test_warm_up`.
  adam = optimizer.make_optimizer(
    dataclasses.replace(config, weight_decay=0.0, clip_norm=0.0)
  )
  gradient = jax.tree.map(jnp.ones_like, PARAMS)
  for update, rate in zip(
    updates_of(adam, [gradient] * len(rates), PARAMS), rates, strict=True
  ):
    # 1 - b2^t loses four digits of float32 at b2 = 0.999.
    np.testing.assert_allclose(
      update['embedding'], -0.125 * rate, rtol=1e-3, atol=1e-8
    )


def test_without_a_decay_the_schedule_is_the_earlier_one():
  config = training_schema.Optimizer(learning_rate=0.125)
  assert optimizer.make_schedule(config) == 0.125


def test_two_steps_by_hand():
  # b1 = b2 = 1/2, g = 1 and then 3. First moments 1/2 and 7/4, second 1/2
  # and 19/4; both unbiased by 1 - 1/4: 7/3 and 19/3.
  adam = make_optimizer(learning_rate=1.0, b1=0.5, b2=0.5, clip_norm=0)
  params = {'kernel': jnp.zeros((1, 1))}
  gradients = [{'kernel': jnp.full((1, 1), g)} for g in (1.0, 3.0)]
  one, two = updates_of(adam, gradients, params)
  np.testing.assert_allclose(one['kernel'], [[-1]], rtol=1e-6)
  expected = -(7 / 3) / (19 / 3) ** 0.5
  np.testing.assert_allclose(two['kernel'], [[expected]], rtol=1e-6)


def test_updates_of_bfloat16_parameters_are_right_on_average():
  # 1 + 1e-5 is 1/781 of the way from 1 to the next bfloat16 number.
  params = {
    'kernel': jnp.ones(100_000, jnp.bfloat16),
    'scale': jnp.ones(2),
  }
  updates = jax.tree.map(lambda x: jnp.full(x.shape, 1e-5), params)
  step = jax.jit(optimizer.apply_updates)
  for number in range(20):
    params = step(params, updates, number)
  assert params['kernel'].dtype == jnp.bfloat16
  moved = np.asarray(params['kernel'].astype(jnp.float32), np.float64) - 1
  # Five standard deviations: 2 560 of 100 000 move, give or take 250.
  assert moved.mean() == pytest.approx(20 * 1e-5, rel=0.1)
  np.testing.assert_allclose(params['scale'], 1 + 20e-5, rtol=1e-6)


def test_float32_parameters_are_updated_as_by_optax():
  updates = jax.tree.map(lambda x: x * 0.3 + 0.1, PARAMS)
  moved = optimizer.apply_updates(PARAMS, updates, 3)
  expected = optax.apply_updates(PARAMS, updates)
  jax.tree.map(np.testing.assert_array_equal, moved, expected)


@pytest.mark.parametrize('stored', ['float32', 'bfloat16'])
@pytest.mark.parametrize('moments', ['float32', 'bfloat16'])
def test_moments_fall_and_rise_however_they_are_stored(stored, moments):
  """After 100 steps of gradient 1 and 100 of gradient 0.

  nu = (1 - b2^100) b2^100 = 0.0861, and mu = 0.9^100 (1 - 0.9^100).
  """
  adam = make_optimizer(learning_rate=1e-3, moment_dtype=moments, clip_norm=0.0)
  params = {'kernel': jnp.ones((100, 100), stored)}

  def step(state, gradient):
    gradients = jax.tree.map(lambda x: jnp.full_like(x, gradient), params)
    return adam.update(gradients, state, params)[1], None

  gradients = jnp.repeat(jnp.array([1.0, 0.0]), 100)
  state, _ = jax.jit(lambda s: jax.lax.scan(step, s, gradients))(
    adam.init(params)
  )
  (nu,) = [
    x
    for path, x in jax.tree_util.tree_leaves_with_path(state)
    if 'nu' in jax.tree_util.keystr(path)
  ]
  assert nu.dtype == moments
  # In bfloat16, each of the 10,000 entries has about 1% of noise.
  mean = float(nu.astype(jnp.float32).mean())
  assert mean == pytest.approx(0.0861, rel=3e-3)
