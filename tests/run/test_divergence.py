"""Tests of the detection of diverged runs."""

import dataclasses

import pytest

from configs import default
from sqlm_jax.config import schema as config_lib
from sqlm_jax.run import divergence

RULES = config_lib.Divergence(**default.get_config().divergence.to_dict())


def step(rate, updates=2.0, role='solver', **more):
  return {
    f'train/{role}/updates': updates,
    f'train/{role}/skipped_rate': rate,
  } | more


def test_consecutive_skipped_updates_are_counted_by_role():
  health = divergence.Health()
  counts = []
  for metrics in (
    step(1.0),
    step(1.0, updates=3.0),
    step(
      1.0, role='proposer', updates=1.0
    ),  # does not change the solver's count
    {},  # no update
    step(1.0) | {'critic/solver/skipped_rate': 1.0},
    step(0.5),  # one of two updates was applied
    step(1.0),
    step(0.0),
  ):
    health = divergence.count_skipped(health, metrics)
    counts.append(health.skipped.get('train/solver'))
  assert counts == [2, 5, 5, 5, 7, 0, 2, 0]
  assert health.skipped['train/proposer'] == 1
  assert health.skipped['critic/solver'] == 2
  assert divergence.from_host(health._asdict()) == health
  # Checkpoints of earlier versions have no count of unreadable questions.
  assert divergence.from_host({'skipped': {}, 'rollbacks': 2}) == (
    divergence.Health(rollbacks=2)
  )


def test_too_many_skipped_updates_are_reported_with_the_metrics():
  health = divergence.Health({'train/proposer': 1, 'train/solver': 4})
  metrics = {
    'train/solver/not_finite/loss': 2.0,
    'train/solver/not_finite/grad_norm': 2.0,
    'train/proposer/not_finite/kl': 1.0,
  }
  assert divergence.not_finite(health, metrics, 5) is None
  assert divergence.not_finite(health, metrics, 0) is None
  assert divergence.not_finite(health, metrics, 4) == (
    '4 consecutive updates of train/solver were skipped because these metrics '
    'were not finite: loss, grad_norm (divergence.max_skipped_updates=4)'
  )


@pytest.mark.parametrize(
  'bounds, metric, message',
  [
    ({}, 'train/solver/kl', None),
    ({'max_kl': 5.0}, 'train/solver/kl', None),
    ({'max_kl': 4.9}, 'critic/solver/kl', None),
    (
      {'max_kl': 4.9},
      'train/proposer/kl',
      'train/proposer/kl=5 (divergence.max_kl=4.9)',
    ),
    ({'min_entropy': 5.0}, 'train/solver/entropy', None),
    (
      {'min_entropy': 5.1},
      'train/solver/entropy',
      'train/solver/entropy=5 (divergence.min_entropy=5.1)',
    ),
  ],
)
def test_a_metric_out_of_bounds_raises_an_alarm(bounds, metric, message):
  rules = dataclasses.replace(RULES, **bounds)
  assert divergence.alarm({metric: 5.0}, rules) == message
