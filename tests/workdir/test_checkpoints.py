"""Tests of saving and restoring checkpoints, also after damage."""

import functools
import io
import json
import logging as std_logging
import os
import re
import shutil
import socket
import subprocess
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from absl import logging
from etils import epath
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from sqlm_jax.workdir import checkpoints, directory_entries, manifest
from tests import buckets

OPTIMIZER = optax.chain(
  optax.clip_by_global_norm(1.0),
  optax.adamw(
    optax.linear_schedule(0.0, 0.1, 4),
    mask=lambda params: jax.tree.map(lambda x: x.ndim > 1, params),
  ),
)


class TrainState(NamedTuple):
  step: jax.Array
  params: dict
  opt_state: optax.OptState


def make_state(seed: int = 0, width: int = 8) -> TrainState:
  kernel = jax.random.normal(jax.random.key(seed), (width, 4))
  params = {
    'mlp': {'kernel': kernel},
    'final_norm': {'scale': jnp.ones(width, jnp.bfloat16)},
  }
  return TrainState(jnp.zeros((), jnp.int32), params, OPTIMIZER.init(params))


@functools.partial(jax.jit, donate_argnums=0)
def train(state: TrainState, key) -> TrainState:
  grads = jax.tree.map(
    lambda x: jax.random.normal(key, x.shape, x.dtype) + x, state.params
  )
  updates, opt_state = OPTIMIZER.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  return TrainState(state.step + 1, params, opt_state)


def run(state: TrainState, steps) -> TrainState:
  for step in steps:
    state = train(state, jax.random.fold_in(jax.random.key(7), step))
  return state


def abstract(tree, sharding=None):
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=sharding(x) if sharding else x.sharding
    ),
    tree,
  )


def assert_same(left, right):
  """Checks that two trees are equal, bit for bit and in their dtypes."""
  assert jax.tree.structure(left) == jax.tree.structure(right)
  for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def open_in(directory, keep=2, every=1):
  return checkpoints.open_checkpoints(directory, keep=keep, every=every)


def test_a_resumed_run_equals_an_unbroken_run_bit_for_bit(tmp_path):
  unbroken = run(make_state(), range(4))
  with open_in(tmp_path) as manager:
    states = {'policy': run(make_state(), range(2))}
    checkpoints.save(
      manager, 2, states, host_state={'topics': [1, 2], 'name': 'sums'}
    )
  with open_in(tmp_path) as manager:
    assert checkpoints.latest_step(manager) == 2
    step, states, host = checkpoints.restore(
      manager, {'policy': abstract(make_state())}
    )
  assert step == 2
  assert host == {'topics': [1, 2], 'name': 'sums'}
  assert_same(run(states['policy'], range(2, 4)), unbroken)


def test_two_policies_are_saved_and_restored(tmp_path):
  states = {'proposer': make_state(1), 'solver': make_state(2)}
  with open_in(tmp_path) as manager:
    checkpoints.save(manager, 1, states, host_state={})
    _, restored, host = checkpoints.restore(manager, abstract(states))
  assert host == {}
  assert_same(restored, states)


def test_training_during_a_save_does_not_change_the_checkpoint(tmp_path):
  state = run(make_state(width=200_000), range(1))
  expected = jax.tree.map(np.array, state)
  with open_in(tmp_path) as manager:
    checkpoints.save(manager, 1, {'policy': state}, host_state={})
    state = run(state, range(1, 4))  # donates the arrays that are saved
    manager.wait_until_finished()
    _, restored, _ = checkpoints.restore(manager, {'policy': abstract(state)})
  assert_same(restored['policy'], expected)


@pytest.mark.parametrize('before, after', [(1, 8), (8, 1), (2, 8), (8, 4)])
def test_arrays_are_restored_onto_another_mesh(tmp_path, before, after):
  def on(size):
    mesh = Mesh(np.array(jax.devices()[:size]), 'x')
    return lambda x: NamedSharding(mesh, P('x') if x.ndim else P())

  state = make_state()
  placed = jax.tree.map(lambda x: jax.device_put(x, on(before)(x)), state)
  wanted = {'policy': abstract(state, on(after))}
  with open_in(tmp_path) as manager:
    checkpoints.save(manager, 1, {'policy': placed}, host_state={})
    _, restored, _ = checkpoints.restore(manager, wanted)
  assert_same(restored['policy'], state)
  assert jax.tree.all(
    jax.tree.map(lambda x, a: x.sharding == a.sharding, restored, wanted)
  )


def test_parameters_are_restored_without_the_optimizer_state(tmp_path):
  state = run(make_state(), range(2))
  params = {'policy': abstract(state.params)}
  with open_in(tmp_path) as manager:
    checkpoints.save(manager, 2, {'policy': state}, host_state={})
    step, restored = checkpoints.restore_params(manager, params)
  assert step == 2
  assert_same(restored, {'policy': state.params})


@pytest.mark.parametrize(
  'every, saved', [(0, [5]), (1, [3, 4, 5]), (2, [2, 4, 5]), (10, [5])]
)
def test_due_steps_are_saved_and_the_newest_are_kept(tmp_path, every, saved):
  states = {'policy': make_state()}
  with open_in(tmp_path, keep=3, every=every) as manager:
    for step in range(1, 5):
      due = bool(every) and step % every == 0
      assert checkpoints.save(manager, step, states, host_state={}) == due
    assert checkpoints.save(manager, 5, states, host_state={}, force=True)
    # A run may stop at a step that it has just saved.
    assert checkpoints.save(manager, 5, states, host_state={}, force=True)
    manager.wait_until_finished()
    assert sorted(manager.all_steps()) == saved


def test_a_step_is_restored_by_number_and_the_newest_by_default(tmp_path):
  with open_in(tmp_path) as manager:
    assert checkpoints.latest_step(manager) is None
    for step in (1, 2):
      checkpoints.save(
        manager, step, {'policy': make_state(step)}, host_state={}
      )
    like = {'policy': abstract(make_state())}
    assert_same(
      checkpoints.restore(manager, like, step=1)[1]['policy'], make_state(1)
    )
    assert_same(checkpoints.restore(manager, like)[1]['policy'], make_state(2))
    with pytest.raises(FileNotFoundError, match=r'step 7, found \[1, 2\]'):
      checkpoints.restore(manager, like, step=7)


def test_restoring_from_an_empty_directory_names_it(tmp_path):
  with (
    open_in(tmp_path / 'none') as manager,
    pytest.raises(FileNotFoundError, match='none: expected a checkpoint, f'),
  ):
    checkpoints.restore_params(manager, {})


def test_an_incomplete_checkpoint_is_removed_and_not_restored(tmp_path):
  states = {'policy': make_state()}
  with open_in(tmp_path) as manager:
    checkpoints.save(manager, 1, states, host_state={})
  # A run that is killed while it saves leaves such a directory.
  incomplete = tmp_path / '2.orbax-checkpoint-tmp'
  shutil.copytree(tmp_path / '1', incomplete)
  with open_in(tmp_path) as manager:
    assert checkpoints.latest_step(manager) == 1
    assert checkpoints.save(manager, 2, states, host_state={'again': True})
    assert checkpoints.restore(manager, abstract(states))[2] == {'again': True}
  assert not incomplete.exists()


def test_reading_does_not_disturb_a_save_in_progress(tmp_path):
  states = {'policy': make_state()}
  with open_in(tmp_path) as manager:
    for step in (1, 2):
      checkpoints.save(manager, step, states, host_state={})
  shutil.copytree(tmp_path / '2', tmp_path / '3.orbax-checkpoint-tmp')
  before = sorted(tmp_path.rglob('*'))
  with checkpoints.open_checkpoints(tmp_path, read_only=True) as manager:
    params = {'policy': abstract(states['policy'].params)}
    assert checkpoints.restore_params(manager, params)[0] == 2
  assert sorted(tmp_path.rglob('*')) == before


def test_another_architecture_is_rejected_with_the_arrays_that_differ(tmp_path):
  with open_in(tmp_path) as manager:
    checkpoints.save(manager, 1, {'policy': make_state()}, host_state={})
    wider = abstract(make_state(width=16))
    with pytest.raises(ValueError, match='another architecture') as error:
      checkpoints.restore(manager, {'policy': wider})
    assert str(error.value).splitlines() == [
      f'{tmp_path}/1: checkpoint of another architecture or optimizer',
      '  policy/opt_state/1/0/mu/final_norm/scale: '
      'found bfloat16[8], expected bfloat16[16]',
      '  policy/opt_state/1/0/mu/mlp/kernel: '
      'found float32[8, 4], expected float32[16, 4]',
      '  policy/opt_state/1/0/nu/final_norm/scale: '
      'found bfloat16[8], expected bfloat16[16]',
      '  policy/opt_state/1/0/nu/mlp/kernel: '
      'found float32[8, 4], expected float32[16, 4]',
      '  policy/params/final_norm/scale: '
      'found bfloat16[8], expected bfloat16[16]',
      '  and 1 more',
    ]
    with pytest.raises(ValueError, match='another architecture'):
      checkpoints.restore_params(manager, {'policy': wider.params})


@pytest.mark.parametrize(
  'change, message',
  [
    (
      lambda x: x | {'bias': abstract(jnp.zeros(3))},
      r'policy/params/bias: found nothing, expected float32\[3\]',
    ),
    (
      lambda x: {'mlp': x['mlp']},
      r'final_norm/scale: found bfloat16\[8\], expected nothing',
    ),
    (
      lambda x: x | {'mlp': {'kernel': abstract(jnp.zeros((8, 4), jnp.int32))}},
      r'mlp/kernel: found float32\[8, 4\], expected int32\[8, 4\]',
    ),
  ],
)
def test_missing_and_additional_arrays_are_rejected_by_name(
  tmp_path, change, message
):
  state = make_state()
  wanted = change(abstract(state.params))
  with open_in(tmp_path) as manager:
    checkpoints.save(manager, 1, {'policy': state}, host_state={})
    with pytest.raises(ValueError, match=message):
      checkpoints.restore_params(manager, {'policy': wanted})


def test_a_checkpoint_of_two_policies_does_not_restore_a_shared_policy(
  tmp_path,
):
  states = {'proposer': make_state(), 'solver': make_state()}
  with open_in(tmp_path) as manager:
    checkpoints.save(manager, 1, states, host_state={})
    wanted = abstract({'policy': states['solver']})
    with pytest.raises(ValueError, match=r'policy/.*: found nothing'):
      checkpoints.restore(manager, wanted)


# A single array, because orbax does not wait for the reads of other arrays
# after one has failed, and their errors would appear in the next test.
def one_array(step):
  params = jax.random.normal(jax.random.key(step), (2000,))
  return {'policy': {'params': params}}


@pytest.fixture(scope='module')
def two_checkpoints(tmp_path_factory):
  directory = tmp_path_factory.mktemp('two')
  with open_in(directory) as manager:
    for step in (1, 2):
      checkpoints.save(
        manager, step, one_array(step), host_state={'n': step}, score=step
      )
  return directory


@pytest.mark.parametrize('lost', ['states', 'states/d', 'host'])
def test_the_checkpoint_before_a_damaged_checkpoint_is_restored(
  two_checkpoints, tmp_path, lost, caplog
):
  here = tmp_path / 'checkpoints'
  shutil.copytree(two_checkpoints, here)
  shutil.rmtree(here / '2' / lost)
  like = abstract(one_array(1))
  with open_in(here) as manager:
    with pytest.raises(ValueError, match='/2: damaged checkpoint'):
      checkpoints.restore(manager, like, step=2)
    step, states, host = checkpoints.restore(manager, like)
    assert (step, host) == (1, {'n': 1})
    assert_same(states, one_array(1))
    away = tmp_path / 'damaged_checkpoints' / '2'
    (message,) = caplog.messages
    assert message.startswith(f'{here}/2: damaged checkpoint (')
    assert message.endswith(f'moved to {away}, resuming from step 1.')
    assert away.is_dir()
    # The run saves this step again.
    assert checkpoints.save(manager, 2, one_array(3), host_state={'n': 3})
    assert checkpoints.restore(manager, like)[2] == {'n': 3}
  for step in (1, 2):
    shutil.rmtree(here / f'{step}' / lost)
  with open_in(here) as manager:
    with pytest.raises(ValueError, match=r'/1: damaged(?s:.*)No other ch'):
      checkpoints.restore(manager, like)
    assert (here / '1').exists()  # nothing is moved if no checkpoint is left


# Runs in a separate process, because reads that continue after a failed read
# may report errors at any time.
FLIP = """
import json, pathlib, shutil, sys
import jax, numpy
from sqlm_jax.workdir import checkpoints

source, place = map(pathlib.Path, sys.argv[1:])
with checkpoints.open_checkpoints(source, read_only=True) as manager:
  like = {'policy': {'params': jax.ShapeDtypeStruct((2000,), 'float32',
    sharding=jax.sharding.SingleDeviceSharding(jax.devices()[0]))}}
  intact = {n: checkpoints.restore(manager, like, step=n) for n in (1, 2)}
for file in sorted((source / '2').rglob('*')):
  if not file.is_file():
    continue
  here = place / 'checkpoints'
  shutil.rmtree(place, ignore_errors=True)
  shutil.copytree(source, here)
  path = here / file.relative_to(source)
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 1
  path.write_bytes(data)
  with checkpoints.open_checkpoints(here) as manager:
    step, states, host = checkpoints.restore(manager, like)
  expected = intact[step]
  numpy.testing.assert_array_equal(
    states['policy']['params'], expected[1]['policy']['params'])
  assert host == expected[2]
  print(json.dumps([str(file.relative_to(source)), len(data), step]))
"""


def test_a_flipped_bit_is_detected_or_has_no_effect(two_checkpoints, tmp_path):
  process = subprocess.run(
    [sys.executable, '-c', FLIP, two_checkpoints, tmp_path / 'here'],
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert process.returncode == 0, process.stderr
  rows = [json.loads(line) for line in process.stdout.splitlines()]
  restored = {name: step for name, _, step in rows}
  biggest, _, _ = max(rows, key=lambda row: row[1])
  assert restored[biggest] == restored['2/host/metadata'] == 1
  assert restored['2/metrics/metrics'] == 2  # only its score is lost


def test_an_array_with_changed_values_is_damage(tmp_path, monkeypatch):
  """A file system, a network or a library may have changed the array."""
  with open_in(tmp_path) as manager:
    checkpoints.save(manager, 1, one_array(1), host_state={})
    checkpoints.wait(manager)
    read = ocp.Checkpointer.restore

    def restore(self, path, args):
      restored = read(self, path, args=args)
      if path.name == 'states':
        restored['policy']['params'] *= -1
      return restored

    monkeypatch.setattr(ocp.Checkpointer, 'restore', restore)
    message = r'1: damaged checkpoint \(changed arrays: policy/params\)'
    with pytest.raises(ValueError, match=message):
      checkpoints.restore(manager, abstract(one_array(1)))


def test_a_damaged_score_is_removed(two_checkpoints, tmp_path):
  here = tmp_path / 'checkpoints'
  shutil.copytree(two_checkpoints, here)
  (here / '2' / 'metrics' / 'metrics').write_text('{"sco')
  with (
    pytest.raises(OSError, match='directory of checkpoints cannot be opened'),
    checkpoints.open_checkpoints(here, read_only=True),
  ):
    pass
  with open_in(here) as manager:
    assert checkpoints.best_step(manager) == 1
    assert checkpoints.latest_step(manager) == 2


def test_a_score_can_be_added_later(tmp_path):
  with open_in(tmp_path, keep=1) as manager:
    assert checkpoints.save(manager, 1, one_array(1), host_state={}, score=0.2)
    assert checkpoints.save(manager, 2, one_array(2), host_state={})
    for _ in range(2):  # the first score is kept
      assert checkpoints.save(manager, 2, {}, host_state={}, score=0.3)
    assert checkpoints.best_step(manager) == 2
    assert checkpoints.save(manager, 3, one_array(3), host_state={}, score=0.1)
    checkpoints.wait(manager)
    assert sorted(manager.all_steps()) == [2, 3]
    _, states, _ = checkpoints.restore(manager, abstract(one_array(1)), step=2)
    assert_same(states, one_array(2))


def test_a_withdrawn_score_is_not_the_best(tmp_path):
  with open_in(tmp_path, keep=3) as manager:
    for step, score in ((1, 0.5), (2, 0.7), (3, None)):
      checkpoints.save(
        manager,
        step,
        one_array(step),
        host_state={},
        score=score,
        start_score=None if score is None else 0.4,
      )
    assert checkpoints.best_step(manager) == 2
    checkpoints.withdraw_scores(manager, 2)
    assert checkpoints.best_step(manager) == 1
    checkpoints.save(manager, 2, {}, host_state={}, score=0.7)
    assert checkpoints.best_step(manager) == 1
  with open_in(tmp_path, keep=3) as manager:
    assert checkpoints.best_step(manager) == 1
    checkpoints.withdraw_scores(manager, 1)
    assert checkpoints.best_step(manager) == 0  # the initial model


@pytest.mark.parametrize(
  'scores, start, best',
  [
    ({1: 0.4, 2: 0.5}, 0.45, 2),
    ({1: 0.4, 2: 0.5}, 0.5, 0),  # no score is above the start
    ({1: 0.4, 2: 0.3}, 0.7, 0),
    ({1: 0.4, 2: 0.5}, None, 2),
    ({1: -1.0, 2: -1.0}, 0.2, 0),  # no score is eligible
    ({1: -1.0, 2: 0.1}, None, 2),
    ({1: -1.0, 2: -1.0}, None, None),
    ({1: None, 2: None}, 0.2, None),
  ],
)
def test_the_best_step_includes_the_initial_model(
  tmp_path, scores, start, best
):
  with open_in(tmp_path) as manager:
    for step, score in scores.items():
      checkpoints.save(
        manager,
        step,
        one_array(step),
        host_state={},
        score=score,
        start_score=start,
      )
    assert checkpoints.best_step(manager) == best


def test_the_start_score_applies_to_checkpoints_of_an_earlier_version(tmp_path):
  """These were saved without a start score."""
  with open_in(tmp_path) as manager:
    checkpoints.save(manager, 1, one_array(1), host_state={}, score=0.5)
    assert checkpoints.best_step(manager) == 1
    checkpoints.save(
      manager, 2, one_array(2), host_state={}, score=0.4, start_score=0.6
    )
    assert checkpoints.best_step(manager) == 0


def test_the_manifest_of_a_checkpoint_names_its_step_and_run(tmp_path):
  with open_in(tmp_path) as manager:
    checkpoints.save(manager, 3, one_array(3), host_state={})
  stored = json.loads((tmp_path / '3' / 'host' / 'metadata').read_text())
  assert stored['step'] == 3
  assert stored['run_id'] == (tmp_path / 'run_id').read_text().strip()


@pytest.mark.parametrize(
  'disturb',
  [
    lambda here: (here / '9').symlink_to('2'),
    lambda here: (here / '9').symlink_to('nowhere'),
    lambda here: (here / '9').write_text('a file'),
    lambda here: shutil.copytree(here / '2', here / '9'),
    # Incomplete copies, with and without a manifest.
    lambda here: shutil.copytree(here / '2' / 'host', here / '9' / 'host'),
    lambda here: shutil.copytree(here / '2' / 'states', here / '9' / 'states'),
    lambda here: (here / '9').mkdir(),
    lambda here: shutil.copytree(here / '1', here / '0'),
    lambda here: shutil.copytree(here / '2', here / '999999999999999999999'),
  ],
)
def test_entries_that_are_not_checkpoints_of_the_run_are_moved_away(
  two_checkpoints, tmp_path, disturb
):
  here = tmp_path / 'checkpoints'
  shutil.copytree(two_checkpoints, here)
  disturb(here)
  before = sorted(path.name for path in here.iterdir())
  with checkpoints.open_checkpoints(here, read_only=True) as manager:
    assert checkpoints.newest_readable(manager) == 2
    assert checkpoints.best_step(manager) == 2
  assert sorted(path.name for path in here.iterdir()) == before
  with open_in(here) as manager:
    assert checkpoints.restore(manager, abstract(one_array(1)))[2] == {'n': 2}
    assert checkpoints.best_step(manager) == 2
    # New checkpoints stay the newest.
    for step in (3, 9):
      assert checkpoints.save(
        manager, step, one_array(step), host_state={'n': step}
      )
    assert checkpoints.all_steps(manager)[-2:] == [3, 9]
  with open_in(here) as manager:
    assert checkpoints.restore(manager, abstract(one_array(1)))[2] == {'n': 9}
  (away,) = (tmp_path / 'damaged_checkpoints').iterdir()
  assert away.name in {'9', '0', '999999999999999999999'}


def test_a_checkpoint_of_another_run_is_moved_away(two_checkpoints, tmp_path):
  here, other = tmp_path / 'checkpoints', tmp_path / 'other'
  shutil.copytree(two_checkpoints, here)
  with open_in(other) as manager:
    checkpoints.save(manager, 7, one_array(7), host_state={'n': 7}, score=9.0)
  shutil.copytree(other / '7', here / '7')
  with open_in(here) as manager:
    assert checkpoints.restore(manager, abstract(one_array(1)))[2] == {'n': 2}
    assert checkpoints.best_step(manager) == 2
  assert (tmp_path / 'damaged_checkpoints' / '7').is_dir()
  # Without the file run_id, the directory could belong to either run.
  shutil.copytree(other / '7', here / '7')
  (here / 'run_id').unlink()
  with (
    pytest.raises(ValueError, match='expected checkpoints of a single run, f'),
    open_in(here),
  ):
    pass
  shutil.rmtree(here / '7')
  (here / '7').symlink_to(other / '7')  # belongs to no run
  with open_in(here) as manager:  # all checkpoints are of one run
    assert checkpoints.restore(manager, abstract(one_array(1)))[2] == {'n': 2}


@pytest.mark.parametrize(
  'name',
  ['seeds=[0,1]', '[!a]', 'a\\b', 'a\\', 'a?b', 'a*b', '{a,b}', '~', ' ü 日本'],
)
def test_a_directory_may_have_any_name(tmp_path, name):
  here = tmp_path / name / 'checkpoints'
  with open_in(here) as manager:
    checkpoints.save(manager, 1, one_array(1), host_state={'n': 1})
  with open_in(here) as manager:
    _, states, host = checkpoints.restore(manager, abstract(one_array(1)))
    assert host == {'n': 1}
    assert_same(states, one_array(1))
    with pytest.raises(FileNotFoundError) as caught:
      checkpoints.restore(manager, abstract(one_array(1)), step=3)
    assert str(here) in str(caught.value)  # and not the alias for orbax
  assert {path.name for path in (tmp_path / name).iterdir()} == {'checkpoints'}


def test_a_bucket_without_objects_is_prepared():
  directory = epath.Path('gs://bucket/run/checkpoints')
  with buckets.substituted():
    run_id = directory_entries.prepare(directory)
    assert directory_entries.inspect(directory) == (run_id, {})
    assert directory_entries.prepare(directory) == run_id


def test_a_newer_format_is_rejected_and_not_treated_as_damage(
  two_checkpoints, tmp_path, monkeypatch
):
  with monkeypatch.context() as patch, open_in(tmp_path) as manager:
    patch.setattr(manifest, 'FORMAT', 2)
    checkpoints.save(manager, 1, one_array(1), host_state={})
  with open_in(tmp_path) as manager:
    like = abstract(one_array(1))
    with pytest.raises(ValueError, match=r'1: saved by .*, in format 2'):
      checkpoints.restore(manager, like)
    with pytest.raises(ValueError, match='This version reads format 1'):
      checkpoints.restore_params(manager, {'policy': like['policy']['params']})
    assert sorted(manager.all_steps()) == [1]


# Uses separate file systems, because root can write to any other directory.
DISKS = """
import json, pathlib, shutil, sys
import jax
from sqlm_jax.workdir import checkpoints

full, read_only, gone = map(pathlib.Path, sys.argv[1:])

def save(name, directory, *steps, between=lambda: None):
  message = 'saved'
  try:
    with checkpoints.open_checkpoints(directory, keep=9, every=1) as manager:
      for step in steps:
        params = jax.random.normal(jax.random.key(step), (50_000,))
        states = {'policy': {'params': params}}
        checkpoints.save(manager, step, states, host_state={})
        checkpoints.wait(manager)
        between()
  except OSError as error:
    message = str(error)
  with checkpoints.open_checkpoints(directory, read_only=True) as manager:
    steps = sorted(manager.all_steps())
  print(json.dumps([name, message, steps]))

def fill():
  try:
    with open(full / 'filler', 'wb', 0) as file:
      while True:
        file.write(bytes(4096))
  except OSError:
    pass

save('full', full / 'c', 1, 2, between=fill)
save('still full', full / 'c', 2)
(full / 'filler').unlink()
save('space again', full / 'c', 2)
save('gone', gone / 'c', 1, 2, between=lambda: shutil.rmtree(gone / 'c'))
save('read-only', read_only / 'c', 1)
"""
LATE_TRACEBACK = (
  r'Traceback \(most recent call last\):\n'
  r'(  .*call_soon_threadsafe\n    .*\n)(  .*\n)*'
  r'RuntimeError: Event loop is closed\n'
)


def test_full_missing_and_read_only_disks_raise_clear_errors(tmp_path):
  full, read_only, gone = (tmp_path / x for x in ('full', 'read', 'gone'))
  for directory in (full, gone, read_only / 'c'):
    directory.mkdir(parents=True)
  command = ['bwrap', '--dev-bind', '/', '/', '--size', '1500000']
  command += ['--tmpfs', full, '--ro-bind', read_only, read_only]
  process = subprocess.run(
    [*command, sys.executable, '-c', DISKS, full, read_only, gone],
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert process.returncode == 0, process.stderr
  # A thread of tensorstore may report a failed write after orbax has closed the
  # event loop. This traceback cannot be suppressed.
  errors = re.sub(LATE_TRACEBACK, '', process.stderr)
  assert 'Traceback' not in errors, errors
  rows = list(map(json.loads, process.stdout.splitlines()))
  messages = {name: message for name, message, _ in rows}
  for name in ('full', 'still full'):
    message = messages[name]
    assert message.startswith(f'{full}/c: a checkpoint could not be saved (')
    assert 'Earlier checkpoints are intact. After you fix' in message
    assert 'No space left on device' in message
  assert messages['read-only'].startswith(f'{read_only}/c: ')
  assert 'Read-only file system' in messages['read-only']
  assert messages['space again'] == messages['gone'] == 'saved'
  steps = [steps for *_, steps in rows]
  # A missing directory is created again for later checkpoints.
  assert steps == [[1], [1], [1, 2], [], []]


def test_log_messages_of_orbax_are_dropped(tmp_path):
  output = io.StringIO()
  handler = std_logging.StreamHandler(output)
  verbosity = logging.get_verbosity()
  logging.set_verbosity(logging.INFO)
  logging.get_absl_logger().addHandler(handler)
  try:
    with open_in(tmp_path) as manager:
      checkpoints.save(manager, 1, {'policy': make_state()}, host_state={})
      logging.info('our message')
  finally:
    logging.get_absl_logger().removeHandler(handler)
    logging.set_verbosity(verbosity)
  assert output.getvalue() == 'our message\n'


# An array is stored in the files of two processes, and one file is truncated.
# Only the process that reads this file can detect the damage.
PROCESSES = """
import json, sys
import jax, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from sqlm_jax.distributed import processes
from sqlm_jax.workdir import checkpoints

directory, address, number, mode = sys.argv[1:]
processes.start(address, 2, int(number))
sharding = NamedSharding(Mesh(np.array(jax.devices()), 'x'), PartitionSpec('x'))
size = 1 << 16

def states(step):
  values = np.random.default_rng(step).normal(size=size).astype(np.float32)
  array = jax.make_array_from_callback((size,), sharding, values.__getitem__)
  return {'policy': {'params': {'w': array}}}

with checkpoints.open_checkpoints(directory, keep=2, every=1) as manager:
  if mode == 'save':
    for step in (1, 2):
      checkpoints.save(manager, step, states(step), host_state={}, force=True)
      score = 0.1 * step
      checkpoints.save(
        manager, step, {}, host_state={}, score=score, start_score=0.0)
    assert checkpoints.best_step(manager) == 2
  else:
    like = jax.ShapeDtypeStruct((size,), np.float32, sharding=sharding)
    like = {'policy': {'params': {'w': like}}}
    step, restored, _ = checkpoints.restore(manager, like)
    expected = states(step)
    same = jax.tree.map(lambda x, y: bool((x == y).all()), restored, expected)
    print(json.dumps([step, same]))
"""


def test_damage_that_one_process_detects_is_an_error_in_all(tmp_path):
  """Otherwise the other processes would wait forever."""
  # Each process uses its own alias of this directory.
  directory = tmp_path / 'seeds=[0,1]' / 'c'

  def run_processes(mode):
    with socket.socket() as free:
      free.bind(('127.0.0.1', 0))
      address = f'127.0.0.1:{free.getsockname()[1]}'
    command = [sys.executable, '-c', PROCESSES, directory, address]
    one_device = {'JAX_PLATFORMS': 'cpu', 'JAX_NUM_CPU_DEVICES': '1'}
    processes = [
      subprocess.Popen(
        [*command, str(number), mode],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | one_device,
      )
      for number in range(2)
    ]
    try:
      outputs = [process.communicate(timeout=120) for process in processes]
    finally:
      for process in processes:
        process.kill()
    assert [p.returncode for p in processes] == [0, 0], outputs
    return outputs

  run_processes('save')
  files = (directory / '2' / 'states' / 'ocdbt.process_1' / 'd').iterdir()
  data = max(files, key=lambda path: path.stat().st_size)
  os.truncate(data, 5000)
  for output, warnings in run_processes('restore'):
    same = {'policy': {'params': {'w': True}}}
    assert json.loads(output.splitlines()[-1]) == [1, same]
    assert '/2: damaged checkpoint' in warnings
