"""PPO on the tiny random model: a critic in steps and checkpoints."""

import functools

import jax
import numpy as np
import pytest

from configs import smoke
from sqlm_jax.config import schema as config_lib
from sqlm_jax.run import build, train_states
from sqlm_jax.selfplay import step as step_lib
from sqlm_jax.selfplay import step_types
from sqlm_jax.workdir import checkpoints

CHANGES = {
  'mesh.data': 1,
  'random_model.num_layers': 1,
  'proposer.train_every': 1,
  'proposer.max_tokens': 12,
  'solver.max_tokens': 12,
  'advantage.estimator': 'gae',
  'critic.learning_rate': 1e-3,
  'loss.kl_placement': 'reward',
}


def make_parts(**changes) -> build.Parts:
  c = smoke.get_config()
  c.update_from_flattened_dict(CHANGES | changes)
  return build.build(config_lib.from_dict(c.to_dict()))


def play(parts, game, states, steps):
  """Returns the states and metrics after the given steps."""
  memory, found = build.make_memory(parts.config), []
  for step in steps:
    states, memory, outcome = step_lib.self_play_step(
      step, states, memory, game
    )
    found.append(
      {k: v for k, v in outcome.metrics.items() if not k.startswith('time/')}
    )
  return states, found


@functools.cache
def parts_and_game():
  parts = make_parts()
  return parts, build.make_game(parts)


@pytest.fixture(scope='module')
def four_steps(tmp_path_factory):
  """Plays four steps, and saves a checkpoint after the first two."""
  directory = tmp_path_factory.mktemp('checkpoints')
  parts, game = parts_and_game()
  states, found = play(parts, game, train_states.initial_states(parts), (0, 1))
  with checkpoints.open_checkpoints(directory) as manager:
    checkpoints.save(manager, 2, states, host_state={}, force=True)
  states, more = play(parts, game, states, (2, 3))
  return directory, jax.device_get(states), found + more


def test_two_and_two_steps_equal_four_bit_for_bit(four_steps):
  directory, expected, metrics = four_steps
  parts, game = parts_and_game()
  with checkpoints.open_checkpoints(directory, read_only=True) as manager:
    _, states, _ = checkpoints.restore(
      manager, train_states.abstract_states(parts)
    )
  states, found = play(parts, game, states, (2, 3))
  assert set(states) == {'policy', 'policy_critic'}
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(states), expected)
  assert found == metrics[2:]
  assert all('critic/proposer/loss' in row for row in found)


def test_policy_and_critic_take_the_same_updates(four_steps):
  _, states, metrics = four_steps
  updates = sum(
    row.get(f'train/{role}/updates', 0.0)
    for row in metrics
    for role in step_types.ROLES
  )
  assert states['policy'].step == states['policy_critic'].step == updates > 4
  head = states['policy_critic'].params['value_head']['kernel']
  assert np.any(head)
  for row in metrics:
    for name, value in row.items():
      if name.endswith('updates') and value:
        role = name.split('/')[1]
        assert row[f'critic/{role}/loss'] > 0
        assert row[f'critic/{role}/grad_norm'] > 0
        assert f'train/{role}/kl' in row
  assert any('critic/solver/loss' in row for row in metrics)
  # At first the policy is the reference.
  assert metrics[0]['train/proposer/kl'] == pytest.approx(0, abs=1e-5)
  assert abs(metrics[-1]['train/proposer/kl']) > 1e-5


def test_a_policy_is_read_without_its_critic(four_steps):
  directory, _, _ = four_steps
  parts, _ = parts_and_game()
  abstract = train_states.abstract_states(parts)['policy'].params
  with checkpoints.open_checkpoints(directory, read_only=True) as manager:
    _, params = checkpoints.restore_params(manager, {'policy': abstract})
  assert set(params) == {'policy'}


@pytest.mark.parametrize('rank', [0, 2])
def test_every_policy_has_a_critic_that_starts_as_the_model(rank):
  changes = {'policy.shared': False, 'model.lora.rank': rank}
  changes |= {'mesh.data': 2, 'mesh.fsdp': 2, 'mesh.tensor': 2}
  parts = make_parts(**changes)
  states, abstract = (
    train_states.initial_states(parts),
    train_states.abstract_states(parts),
  )
  assert list(states) == [
    'proposer',
    'solver',
    'proposer_critic',
    'solver_critic',
  ]
  jax.tree.map(
    lambda x, a: (
      (x.shape, x.dtype, x.sharding) == (a.shape, a.dtype, a.sharding)
      or pytest.fail(f'{x.sharding} is not {a.sharding}')
    ),
    states,
    abstract,
  )
  body = dict(states['solver_critic'].params)
  assert not np.any(body.pop('value_head')['kernel'])
  if rank:
    assert not np.any(body['layers']['mlp']['down']['lora_b'])
  else:
    jax.tree.map(np.testing.assert_array_equal, body, states['solver'].params)
