"""Whole runs on the tiny random model: killed, resumed, refused."""

import contextlib
import functools
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from pyarrow import parquet

from configs import smoke
from sqlm_jax import display
from sqlm_jax.config import schema as config_lib
from sqlm_jax.modes import compare, export, sample, train
from sqlm_jax.run import (
  alarm_rules,
  build,
  divergence,
  evaluator,
  saved_models,
  scheduled_evaluations,
  train_states,
)
from sqlm_jax.workdir import checkpoints as checkpoints_lib
from sqlm_jax.workdir import config_json, jsonl, run_writer, storage
from tests import glossary

ROOT = pathlib.Path(__file__).parent.parent


def smoke_config(**changes) -> config_lib.Config:
  c = smoke.get_config()
  c.mesh.data = 1
  c.evaluation.every = 0
  c.update_from_flattened_dict(changes)
  return config_lib.from_dict(c.to_dict())


def restored(config, workdir):
  directory = workdir / 'checkpoints'
  with checkpoints_lib.open_checkpoints(directory, read_only=True) as manager:
    abstract = train_states.abstract_states(build.build(config))
    return checkpoints_lib.restore(manager, abstract)


def without_times(workdir):
  return [
    {k: v for k, v in row.items() if not k.startswith('time/')}
    for row in jsonl.read(workdir / 'metrics.jsonl')
  ]


@pytest.fixture(scope='module')
def four_steps(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('four')
  train.train(smoke_config(), str(workdir))
  return workdir


def test_a_run_leaves_what_the_docs_say(four_steps):
  names = {path.name for path in four_steps.iterdir()}
  assert names == {
    'config.json',
    'metrics.jsonl',
    'eval.jsonl',
    'tensorboard',
    'rollouts',
    'evaluations',
    'checkpoints',
    'lock',
  }
  rows = without_times(four_steps)
  assert [row['step'] for row in rows] == [0, 1, 2, 3]
  for row in rows:
    assert all(np.isfinite(value) for value in row.values())
  evaluations = jsonl.read(four_steps / 'eval.jsonl')
  assert [(row['step'], row['set']) for row in evaluations] == [
    (step, purpose) for step in (0, 4) for purpose in ('validation', 'test')
  ]


def test_the_glossary_explains_every_metric(four_steps):
  rows = jsonl.read(four_steps / 'metrics.jsonl')
  names = set().union(*rows) - {'step'}
  assert not [name for name in sorted(names) if not glossary.explains(name)]


def test_rollouts_hold_every_response(four_steps):
  for step in range(4):
    path = four_steps / 'rollouts' / f'step_{step:08d}.parquet'
    rows = parquet.read_table(path).to_pylist()
    proposals = [row for row in rows if row['role'] == 'proposer']
    answers = [row for row in rows if row['role'] == 'solver']
    assert len(proposals) == 8
    asked = sum(row['question'] is not None for row in proposals)
    assert len(answers) == 8 * asked
    assert all(row['reward'] == -1 for row in proposals if not row['question'])


def test_rewards_on_record_are_those_of_the_votes(four_steps):
  rows = parquet.read_table(four_steps / 'rollouts').to_pylist()
  solved = [row for row in rows if row['role'] == 'solver']
  assert solved
  for row in solved:
    agrees = row['vote'] is not None and row['answer'] == row['vote']
    assert row['reward'] == float(agrees)
    assert row['question'] in row['prompt']
  for row in rows:
    if row['role'] == 'proposer' and row['question'] is not None:
      # Of 8 answers: neither alone, nor all.
      share = row['vote_share'] or 0
      assert row['reward'] == float(1 / 8 < share < 1)


def test_sampler_and_learner_agree_about_log_probabilities(four_steps):
  gaps = [
    value
    for row in without_times(four_steps)
    for name, value in row.items()
    if name.endswith('logprob_gap')
  ]
  assert gaps
  assert max(gaps) < 1e-4  # the limit for float32


def test_a_finished_run_is_not_touched_again(four_steps, capsys):
  lines = (four_steps / 'metrics.jsonl').read_text()
  evaluations = (four_steps / 'eval.jsonl').read_text()
  train.train(smoke_config(), str(four_steps))
  shown = capsys.readouterr().out
  assert 'Resuming from the checkpoint of step 4.' in shown
  assert 'Trained 4 steps.' in shown
  assert (four_steps / 'metrics.jsonl').read_text() == lines
  assert (four_steps / 'eval.jsonl').read_text() == evaluations
  # A run with more steps than `num_steps` has finished, too.
  assert train.train(smoke_config(num_steps=2), str(four_steps))


def test_two_and_two_steps_equal_four_bit_for_bit(four_steps, tmp_path):
  train.train(smoke_config(num_steps=2), str(tmp_path))
  train.train(smoke_config(num_steps=4), str(tmp_path))
  expected = restored(smoke_config(), four_steps)
  found = restored(smoke_config(), tmp_path)
  assert expected[0] == found[0] == 4
  jax.tree.map(np.testing.assert_array_equal, expected[1], found[1])
  assert without_times(tmp_path) == without_times(four_steps)


def test_a_resumed_run_has_the_same_gate(tmp_path):
  """The gate remembers the questions of earlier steps."""
  changes = {
    'random_model.num_layers': 1,
    'task.test': (),
    'task.validation': (),
    'task.question_pattern': '',
    'task.proposer_stop': tuple('abcdefghijklmnopqrstuvwxyz'),
    'proposer.min_similarity': 0.3,
    'gate.repeats': 'history',
    'gate.leak': 0.3,
    'exclude.patterns': (('early', '[a-e]'),),
  }
  for num_steps in (1, 3):
    config = smoke_config(num_steps=num_steps, **changes)
    train.train(config, str(tmp_path / 'resumed'))
  train.train(config, str(tmp_path / 'whole'))
  rows = without_times(tmp_path / 'whole')
  assert without_times(tmp_path / 'resumed') == rows
  names = set().union(*rows)
  assert {'gate/early', 'gate/repeats', 'gate/leaked/repeats'} <= names


def test_the_best_checkpoint_is_that_of_the_validation_set(tmp_path):
  """It does not depend on the test set, and the newest is kept, too."""
  config = smoke_config(
    **{
      'evaluation.every': 1,
      'checkpoint.every': 0,
      'checkpoint.keep': 1,
      # A random model answers some of these by chance.
      'task.validation': tuple((f'{n} + 0', str(n)) for n in range(8)),
    }
  )
  train.train(config, str(tmp_path))
  records = jsonl.read(tmp_path / 'eval.jsonl')
  assert [r['step'] for r in records if r['set'] == 'test'] == [0, 4]
  validated = [r for r in records if r['set'] == 'validation']
  assert [r['step'] for r in validated] == [0, 1, 2, 3, 4]
  scores = {r['step']: r['mean@4'] for r in validated}
  assert len({score for step, score in scores.items() if step}) > 1
  with checkpoints_lib.open_checkpoints(
    tmp_path / 'checkpoints', read_only=True
  ) as manager:
    best = checkpoints_lib.best_step(manager)
    assert set(manager.all_steps()) == {best, 4} - {0}
  assert scores[best] == max(scores.values())
  assert best or scores[0] >= max(scores.values())
  # An evaluation with other settings is not a score of the run.
  parts = build.build(config)
  with contextlib.closing(run_writer.RunWriter(tmp_path)) as writer:
    choice = scheduled_evaluations.choose(parts, tmp_path, 4)
    assert choice.score == scores[4]
    other = validated[-1]['settings'] | {'temperature': 0.1}
    writer.evaluation(validated[-1] | {'settings': other, 'mean@4': 2.0})
    assert scheduled_evaluations.choose(parts, tmp_path, 4) == choice


def test_what_a_step_remembers_survives_a_restart(tmp_path):
  """Tests the question history, an earlier solver, rounds and variants."""
  changes = {
    'random_model.num_layers': 1,
    'task.solver_variants': ('{question}: a number? ',),
    'proposer.rewards.history_repeats': 1.0,
    'proposer.rewards.coverage': 0.5,
    'solver.replay': 2,
    'proposer.history_size': 12,
    'solver.max_rounds': 2,
    'vote.earlier_answers': 4,
    'vote.earlier_every': 2,
    'vote.extra_answers': 2,
    'loss.kl_coef': 0.0,
  }
  whole, parts = tmp_path / 'whole', tmp_path / 'parts'
  train.train(smoke_config(num_steps=3, **changes), str(whole))
  for num_steps in (1, 3):
    train.train(smoke_config(num_steps=num_steps, **changes), str(parts))
  expected, found = (
    restored(smoke_config(**changes), workdir) for workdir in (whole, parts)
  )
  jax.tree.map(np.testing.assert_array_equal, expected[1], found[1])
  assert set(expected[1]) == {'policy', 'earlier'}
  assert expected[2] == found[2]
  assert 0 < len(expected[2]['questions']) <= 12
  assert without_times(parts) == without_times(whole)
  rows = parquet.read_table(whole / 'rollouts').to_pylist()
  voters = [row for row in rows if row['role'] == 'voter']
  assert voters
  assert all(row['reward'] is None for row in voters)
  assert not any(row['trained_on'] for row in voters)
  # After two steps, the voters are replaced by the solver of that step.
  ages = {(row['step'] >= 2, row['policy_step'] > 0) for row in voters}
  assert ages == {(False, False), (True, True)}


def test_the_moving_average_is_evaluated_and_survives_a_restart(tmp_path):
  changes = {
    'policy.average_decay': 0.5,
    'checkpoint.every': 1,
    # The decay of the learning rate continues, too.
    'optimizer.schedule': 'cosine',
    'optimizer.decay_steps': 6,
    # So do the turns of the anchor, whose answers are sampled again.
    'anchor.questions': str(tmp_path / 'anchor.txt'),
    'anchor.prompts_per_update': 2,
    # And the coefficients that adapt to a target.
    'loss.kl_target': 0.01,
    'loss.entropy_coef': 0.001,
    'loss.entropy_target': 6.0,
  }
  (tmp_path / 'anchor.txt').write_text('1 2\n3 4\n5 6\n')
  whole, parts = tmp_path / 'whole', tmp_path / 'parts'
  train.train(smoke_config(num_steps=2, **changes), str(whole))
  for num_steps in (1, 2):
    train.train(smoke_config(num_steps=num_steps, **changes), str(parts))
  config = smoke_config(num_steps=2, **changes)
  _, expected, _ = restored(config, whole)
  _, found, _ = restored(config, parts)
  jax.tree.map(np.testing.assert_array_equal, expected, found)
  for name in ('kl_coef', 'entropy_coef'):
    assert expected['coefficients'].params['solver'][name] != getattr(
      config.loss, name
    )
  assert without_times(parts) == without_times(whole)
  built = build.build(config, whole)
  saved = saved_models.find(built, whole, '2').load('solver')
  jax.tree.map(np.testing.assert_array_equal, saved, expected['average'].params)
  assert any(
    not np.array_equal(a, b)
    for a, b in zip(
      jax.tree.leaves(saved),
      jax.tree.leaves(expected['policy'].params),
      strict=True,
    )
  )


def test_another_config_is_refused_by_key(four_steps):
  with pytest.raises(ValueError, match=r'solver.temperature: 1.0 -> 0.5'):
    train.train(smoke_config(**{'solver.temperature': 0.5}), str(four_steps))


def test_a_checkpoint_of_another_architecture_is_refused(four_steps, tmp_path):
  (tmp_path / 'checkpoints').symlink_to(four_steps / 'checkpoints')
  wider = smoke_config(**{'random_model.mlp_width': 128})
  with pytest.raises(ValueError, match=r'mlp/down/kernel.*64.*128'):
    train.train(wider, str(tmp_path))
  # A stored wrong config would make later starts refuse the right one.
  assert not (tmp_path / 'config.json').exists()


@pytest.mark.parametrize('shape', [(2, 2, 2), (1, 8, 1)])
def test_a_run_goes_on_with_other_devices(four_steps, shape):
  axes = zip(('data', 'fsdp', 'tensor'), shape, strict=True)
  config = smoke_config(**{f'mesh.{axis}': size for axis, size in axes})
  config_json.check(
    four_steps,
    config_lib.to_dict(config),
    may_change=config_lib.MAY_CHANGE_TO_RESUME,
  )
  step, states, host = restored(config, four_steps)
  expected = restored(smoke_config(), four_steps)
  assert (step, host) == (expected[0], expected[2])
  jax.tree.map(np.testing.assert_array_equal, states, expected[1])
  shards = jax.tree.leaves(states['policy'].params)
  assert {len(x.sharding.device_set) for x in shards} == {8}


def test_a_run_without_its_checkpoints_is_not_played_again(tmp_path):
  line = '{"step": 0}\n'
  (tmp_path / 'metrics.jsonl').write_text(line)
  with pytest.raises(
    ValueError, match='/checkpoints: this directory is missing'
  ):
    train.train(smoke_config(), str(tmp_path))
  assert (tmp_path / 'metrics.jsonl').read_text() == line


def test_two_runs_do_not_write_one_workdir(four_steps):
  before = (four_steps / 'metrics.jsonl').read_text()
  with (
    storage.locked(four_steps),
    pytest.raises(RuntimeError, match=rf'another run .* {os.getpid()} on'),
  ):
    train.train(smoke_config(num_steps=5), str(four_steps))
  assert (four_steps / 'metrics.jsonl').read_text() == before


def test_a_run_whose_updates_are_not_finite_stops(tmp_path):
  config = smoke_config(
    **{
      'optimizer.learning_rate': 1e30,  # so the second update is not finite
      'alarms.rules': (('not_finite', '*/*/skipped_rate >= 1', 1, 'stop'),),
      'checkpoint.every': 1,
      'evaluation.validation': '',
      'task.validation': (),
      'task.test': (),
    }
  )
  with pytest.raises(divergence.DivergedError) as caught:
    train.train(config, str(tmp_path))
  step = len(jsonl.read(tmp_path / 'metrics.jsonl')) - 1
  said = str(caught.value)
  assert said.startswith(f'step {step}: alarm not_finite: train/')
  assert f'/skipped_rate=1 >= 1 since step {step}; these metrics ' in said
  assert 'were not finite: ' in said
  assert f'good checkpoint is {tmp_path}/checkpoints/{step}.' in said
  last = without_times(tmp_path)[-1]
  assert 1 in (
    last.get('train/proposer/skipped_rate'),
    last.get('train/solver/skipped_rate'),
  )
  # The saved states are finite, because other updates were skipped.
  _, states, _ = restored(config, tmp_path)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(states))


def test_an_alarm_rolls_back_to_the_last_checkpoint(four_steps, tmp_path):
  """Weights are restored, the step continues, and a second alarm stops."""
  kls = [
    max(row.get(f'train/{role}/kl', 0.0) for role in ('solver', 'proposer'))
    for row in without_times(four_steps)[:2]
  ]
  assert kls[0] < kls[1]
  config = smoke_config(
    **{
      'num_steps': 2,
      'checkpoint.every': 1,
      'alarms.rules': (('kl', f'train/*/kl > {sum(kls) / 2}', 1, 'roll_back'),),
      'alarms.max_rollbacks': 1,
    }
  )
  train.train(config, str(tmp_path))
  assert [row['step'] for row in without_times(tmp_path)] == [0, 1]
  directory = tmp_path / 'checkpoints'
  abstract = train_states.abstract_states(build.build(config))
  with checkpoints_lib.open_checkpoints(directory, read_only=True) as manager:
    _, before, _ = checkpoints_lib.restore(manager, abstract, step=1)
    _, after, host = checkpoints_lib.restore(manager, abstract, step=2)
  jax.tree.map(np.testing.assert_array_equal, before, after)
  assert host['alarms']['rollbacks'] == 1
  assert 'kl' not in host['alarms']['holding']
  events = jsonl.read(tmp_path / 'alarms.jsonl')
  # The next step starts from other weights, for which the alarm does not hold.
  assert {(e['step'], e['name']) for e in events} == {(1, 'kl')}
  last = {event['signal']: event['event'] for event in events}
  assert set(last.values()) == {'ended'}


def test_an_alarm_takes_back_the_best_checkpoint(tmp_path, monkeypatch):
  """The checkpoint is saved before the alarm about its weights is raised."""
  scores = {0: 0.1, 1: 0.5, 2: 0.3}
  monkeypatch.setattr(
    scheduled_evaluations,
    'evaluate_due',
    lambda parts, params, **due: {},
  )
  monkeypatch.setattr(
    scheduled_evaluations,
    'validation_scores',
    lambda parts, workdir: scores,
  )
  config = smoke_config(
    **{
      'num_steps': 2,
      'checkpoint.every': 1,
      'alarms.rules': (('late', 'time/step > 0', 2, 'not_best'),),
    }
  )
  train.train(config, str(tmp_path))
  (event,) = jsonl.read(tmp_path / 'alarms.jsonl')
  assert (event['since'], event['step']) == (0, 1)
  with checkpoints_lib.open_checkpoints(
    tmp_path / 'checkpoints', read_only=True
  ) as manager:
    assert checkpoints_lib.best_step(manager) == 2


def unreadable(tmp_path, **changes):
  """Trains a run in which no question has the format."""
  config = smoke_config(
    **{
      'task.question_pattern': '問題：.*',
      'proposer.max_tokens': 8,
      'evaluation.validation': '',
      'task.validation': (),
      'task.test': (),
      'checkpoint.every': 1,
    }
    | changes
  )
  return train.train(config, str(tmp_path))


def warnings_of(caplog) -> list[str]:
  return [
    message for message in caplog.messages if 'could not be used' in message
  ]


def test_unreadable_questions_are_told_once(tmp_path, caplog):
  """The warning comes after the third step, although the run was resumed."""
  unreadable(tmp_path, num_steps=2)
  assert warnings_of(caplog) == []
  unreadable(tmp_path, num_steps=4)
  (message,) = warnings_of(caplog)
  assert message.startswith(
    'step 2: alarm unreadable: proposer/valid_rate=0 < 0.5 since step 0; '
    '8 of 8 questions could not be used: '
  )
  assert "did not match task.question_pattern='問題：.*'" in message
  assert message.count("', '") >= 2  # three of them are shown
  rows = parquet.read_table(tmp_path / 'rollouts' / 'step_00000002.parquet')
  shown = [display.clip(x, 70) for x in rows['response'].to_pylist()]
  assert any(repr(text) in message for text in shown)
  _, _, host = restored(smoke_config(num_steps=4), tmp_path)
  holding = {'unreadable': {'proposer/valid_rate': [0, 4, True]}}
  assert host['alarms']['holding'] == holding
  (event,) = jsonl.read(tmp_path / 'alarms.jsonl')
  assert (event['step'], event['since'], event['value']) == (2, 0, 0.0)
  raised = [row.get('alarm/unreadable') for row in without_times(tmp_path)]
  assert raised == [None, None, 1, 1]


def test_unreadable_questions_can_stop_a_run(tmp_path, caplog):
  rule = ('unreadable', 'proposer/valid_rate < 0.5', 2, 'stop')
  with pytest.raises(
    divergence.DivergedError,
    match=r'step 1: alarm unreadable: .* since step 0; 8 of 8 questions',
  ) as caught:
    unreadable(tmp_path, **{'alarms.rules': (rule,)})
  assert f'good checkpoint is {tmp_path}/checkpoints/1.' in str(caught.value)
  assert len(warnings_of(caplog)) == 1


def sampled_by(workdir, role='proposer') -> list[list[int]]:
  """Returns the updates of the weights that sampled each step's rounds."""
  found = []
  for path in sorted((workdir / 'rollouts').iterdir()):
    rows = parquet.read_table(path).to_pylist()
    steps = [row['policy_step'] for row in rows if row['role'] == role]
    found.append(list(dict.fromkeys(steps)))
  return found


def updates_before(workdir) -> list[int]:
  """Returns the number of updates before each step, and at the end."""
  totals = [0]
  for row in without_times(workdir):
    roles = ('solver', 'proposer')
    these = sum(row.get(f'train/{role}/updates', 0) for role in roles)
    totals.append(totals[-1] + int(these))
  return totals


def test_one_step_ahead(tmp_path):
  """Steps are sampled ahead, except after checkpoints, also when resumed."""
  config = functools.partial(
    smoke_config, **{'sampler.one_step_ahead': True, 'checkpoint.every': 3}
  )
  whole, parts = tmp_path / 'whole', tmp_path / 'parts'
  train.train(config(num_steps=5), str(whole))
  before = updates_before(whole)
  assert len(set(before)) == 6
  assert sampled_by(whole) == [[before[i]] for i in (0, 0, 1, 3, 3)]
  assert sampled_by(whole, 'solver') == sampled_by(whole)
  for num_steps in (3, 5):
    train.train(config(num_steps=num_steps), str(parts))
  assert without_times(parts) == without_times(whole)
  assert sampled_by(parts) == sampled_by(whole)
  # The weights of sampler and learner now differ, as the metric shows.
  gaps = [row['sample/solver/logprob_gap'] for row in without_times(whole)]
  assert gaps[0] < 1e-4 < gaps[1]


def test_what_was_sampled_ahead_is_dropped_by_a_rollback(tmp_path, monkeypatch):
  ended = alarm_rules.Event(
    1, 'not_finite', 'ended', 'train/solver/skipped_rate', 1, '>', 0, 1,
    'roll_back',
  )  # fmt: skip
  monkeypatch.setattr(
    divergence,
    'react',
    lambda parts, manager, step, states, alarms, events: (
      states,
      alarms,
      [ended] if step == 1 else [],
    ),
  )
  changes = {'sampler.one_step_ahead': True, 'checkpoint.every': 0}
  train.train(smoke_config(**changes), str(tmp_path))
  before = updates_before(tmp_path)
  assert sampled_by(tmp_path) == [[before[i]] for i in (0, 0, 2, 2)]


def test_a_stop_in_an_evaluation_leaves_the_rest_for_later(
  tmp_path, monkeypatch
):
  """After SIGTERM at the first of three questions, the rest is done later."""
  config = smoke_config(
    **{'num_steps': 1, 'evaluation.batch_questions': 1, 'checkpoint.every': 0}
  )
  progress = display.progress

  @contextlib.contextmanager
  def interrupted(title, total):
    with progress(title, total) as report:

      def report_and_stop(done, total):
        report(done, total)
        if 'after 1 steps (validation)' in title and done == 1:
          os.kill(os.getpid(), signal.SIGTERM)

      yield report_and_stop

  def steps():
    return [
      (row['step'], row['set']) for row in jsonl.read(tmp_path / 'eval.jsonl')
    ]

  with monkeypatch.context() as patch:
    patch.setattr(display, 'progress', interrupted)
    assert not train.train(
      config, str(tmp_path)
    )  # the evaluation is incomplete
  assert steps() == [(0, 'validation'), (0, 'test')]
  assert train.train(config, str(tmp_path))
  assert steps()[2:] == [(1, 'validation'), (1, 'test')]
  with checkpoints_lib.open_checkpoints(
    tmp_path / 'checkpoints', read_only=True
  ) as manager:
    best = checkpoints_lib.best_step(manager)
  before, after = (
    row['mean@4']
    for row in jsonl.read(tmp_path / 'eval.jsonl')
    if row['set'] == 'validation'
  )
  # The later evaluation has added the score.
  assert best == (1 if after > before else 0)


def test_a_kill_in_an_evaluation_loses_no_step(
  four_steps, tmp_path, monkeypatch
):
  """The checkpoint that is due is saved before the evaluation begins."""

  class KilledError(BaseException):
    pass

  progress = display.progress

  def killed(title, total):
    if 'after 4 steps' in title:
      raise KilledError
    return progress(title, total)

  with monkeypatch.context() as patch:
    patch.setattr(display, 'progress', killed)
    with pytest.raises(KilledError):
      train.train(smoke_config(), str(tmp_path))
  step, states, _ = restored(smoke_config(), tmp_path)
  assert step == 4
  jax.tree.map(
    np.testing.assert_array_equal,
    states,
    restored(smoke_config(), four_steps)[1],
  )
  assert train.train(smoke_config(), str(tmp_path))
  assert without_times(tmp_path) == without_times(four_steps)
  with open_read_only(tmp_path) as manager:
    assert 'score' in manager.metrics(4)


def test_a_kill_in_a_probe_changes_nothing(tmp_path, monkeypatch):
  """With one step ahead and an alarm on the probe; equal bit for bit."""
  changes = {
    'random_model.num_layers': 1,
    'num_steps': 4,
    'task.test': (),
    'task.validation': (),
    'task.question_pattern': '',
    'task.proposer_stop': tuple('abcdefghijklmnopqrstuvwxyz'),
    'checkpoint.every': 2,
    'sampler.one_step_ahead': True,
    'probe.every': 1,
    'probe.steps': 1,
    'probe.questions': 3,
    'probe.answers': 4,
    'evaluation.batch_questions': 2,
    'alarms.rules': (('flips', 'probe/flip_rate >= 0', 2, 'warn'),),
  }
  config = smoke_config(**changes)
  whole, killed = tmp_path / 'whole', tmp_path / 'killed'
  train.train(config, str(whole))

  class KilledError(BaseException):
    pass

  progress = display.progress

  @contextlib.contextmanager
  def kill(title, total):
    with progress(title, total) as report:

      def report_and_kill(done, total):
        report(done, total)
        if title == 'Probing after 4 steps' and done == 2:
          raise KilledError

      yield report_and_kill

  with monkeypatch.context() as patch:
    patch.setattr(display, 'progress', kill)
    with pytest.raises(KilledError):
      train.train(config, str(killed))
  assert len(without_times(killed)) == 3
  assert restored(config, killed)[0] == 2
  train.train(config, str(killed))

  expected, found = (restored(config, path) for path in (whole, killed))
  jax.tree.map(np.testing.assert_array_equal, expected[1], found[1])
  assert expected[2] == found[2]
  assert len(expected[2]['probe']['questions']) == 3
  rows = without_times(whole)
  assert without_times(killed) == rows
  assert [row['step'] for row in rows if 'probe/agreement' in row] == [
    0,
    1,
    2,
    3,
  ]
  assert max(row.get('probe/flip_rate', 0) for row in rows) > 0
  assert [row.get('alarm/flips') for row in rows] == [None, None, 1, 1]
  assert sampled_by(killed) == sampled_by(whole)
  (event,) = jsonl.read(killed / 'alarms.jsonl')
  assert [event] == jsonl.read(whole / 'alarms.jsonl')
  assert (event['step'], event['since']) == (2, 1)


def test_the_probe_chooses_and_ends_a_run(tmp_path):
  """Also if the run is resumed, with one step ahead."""
  changes = {
    'random_model.num_layers': 1,
    'task.validation': (),
    'task.question_pattern': '',
    'task.proposer_stop': tuple('abcdefghijklmnopqrstuvwxyz'),
    'optimizer.learning_rate': 0.01,
    'checkpoint.every': 0,
    'checkpoint.keep': 1,
    'evaluation.every': 0,
    'evaluation.best_by': 'probe',
    'sampler.one_step_ahead': True,
    'probe.every': 2,
    'probe.steps': 1,
    'probe.questions': 8,
    'probe.answers': 4,
    'alarms.rules': (('enough', 'probe/agreement >= 0', 2, 'finish'),),
  }
  whole, parts = tmp_path / 'whole', tmp_path / 'parts'
  assert train.train(smoke_config(num_steps=8, **changes), str(whole))
  rows = without_times(whole)
  scores = {
    row['step'] + 1: row['probe/information']
    for row in rows
    if 'probe/information' in row
  }
  assert list(scores) == [1, 3]
  assert len(rows) == 3
  with open_read_only(whole) as manager:
    best = checkpoints_lib.best_step(manager)
    assert scores[best] == max(scores.values())
    assert set(manager.all_steps()) == {best, 3}
  records = jsonl.read(whole / 'eval.jsonl')
  assert [(r['set'], r['step']) for r in records] == [('test', 0), ('test', 3)]
  # The same command does not continue the run.
  assert train.train(smoke_config(num_steps=8, **changes), str(whole))
  assert without_times(whole) == rows

  for num_steps in (1, 8):
    train.train(smoke_config(num_steps=num_steps, **changes), str(parts))
  assert without_times(parts) == rows
  config = smoke_config(num_steps=8, **changes)
  expected, found = (restored(config, path) for path in (whole, parts))
  jax.tree.map(np.testing.assert_array_equal, expected[1], found[1])
  assert expected[2] == found[2]


def open_read_only(workdir):
  return checkpoints_lib.open_checkpoints(
    workdir / 'checkpoints', read_only=True
  )


def test_only_checkpoints_of_the_run_in_a_workdir_of_any_name(
  four_steps, tmp_path, caplog
):
  """A run resumes from its own newest checkpoint and ignores other entries."""
  workdir = tmp_path / 'seeds=[0,1] \\ ?* {a,b} ~ ü'
  shutil.copytree(four_steps, workdir)
  checkpoints = workdir / 'checkpoints'
  (checkpoints / '98').symlink_to('4')
  shutil.copytree(checkpoints / '4', checkpoints / '50')
  (checkpoints / '5').write_text('a file in the way of the next one')
  (checkpoints / 'notes').mkdir()
  parts = build.build(smoke_config())
  for which in ('latest', 'best', '4'):
    assert saved_models.find(parts, workdir, which).step in (0, 4)
  for which in ('98', '50'):
    with pytest.raises(ValueError, match=f"'{which}': expected a checkpoint"):
      saved_models.find(parts, workdir, which)

  assert train.train(smoke_config(num_steps=5), str(workdir))
  told = [m for m in caplog.messages if 'not a checkpoint of this run' in m]
  assert len(told) == 3
  away = workdir / 'damaged_checkpoints'
  assert {path.name for path in away.iterdir()} == {'98', '50', '5'}
  step, states, _ = restored(smoke_config(), workdir)
  assert step == 5
  found = saved_models.find(parts, workdir, 'latest').load('solver')
  jax.tree.map(np.testing.assert_array_equal, found, states['policy'].params)
  assert {row['step'] for row in without_times(workdir)} == {0, 1, 2, 3, 4}


def test_checkpoints_of_another_run_alone_are_refused(four_steps, tmp_path):
  other = tmp_path / 'other'
  config = smoke_config(num_steps=0)
  train.train(config, str(other))
  # The only checkpoint is that of step 0 of another run.
  checkpoints = tmp_path / 'run' / 'checkpoints'
  shutil.copytree(four_steps, tmp_path / 'run')
  for step in ('2', '4'):
    shutil.rmtree(checkpoints / step)
  shutil.copytree(other / 'checkpoints' / '0', checkpoints / '0')
  with pytest.raises(ValueError, match=r'found\n  0: saved by another'):
    train.train(smoke_config(), str(tmp_path / 'run'))
  assert (checkpoints / '0').is_dir()


def test_a_config_dict_trains(four_steps, tmp_path, capsys):
  c = smoke.get_config()
  c.mesh.data = 1
  c.evaluation.every = 0
  shutil.copytree(four_steps, tmp_path / 'run')
  assert train.train(c, str(tmp_path / 'run'))
  assert 'Trained 4 steps.' in capsys.readouterr().out
  with pytest.raises(ValueError, match=r"^config='smoke': expected a config"):
    train.train('smoke', str(tmp_path / 'other'))
  asked = build.build(c).sets('test')
  for call in (
    lambda: evaluator.plan(c, asked, step=0, workdir=None),
    lambda: compare.compare(c, ['0', '4'], dataset='test', workdir=four_steps),
    lambda: saved_models.find(c, four_steps),
    lambda: next(sample.answers(c, {}, ['1 + 1'])),
    lambda: sample.questions(c, {}, 0),
    lambda: export.check_target(c, str(tmp_path / 'x'), as_adapter=False),
  ):
    with pytest.raises(ValueError, match=r'parts: expected build.build'):
      call()


@pytest.mark.parametrize(
  'workdir, message',
  [
    ('foo://bucket/run', 'no file system for foo://'),
    ('file:///tmp/run', 'no file system for file://'),
    ('gs:/bucket/run', 'expected a directory, gs://bucket'),
    ('gs://', 'expected gs://bucket'),
    ('', 'expected a directory'),
  ],
)
def test_a_workdir_without_a_file_system_is_named(workdir, message):
  with pytest.raises(ValueError, match=f'^workdir={workdir!r}: .*{message}'):
    train.train(smoke_config(), workdir)


@pytest.mark.parametrize('scheme', ['gs', 's3'])
def test_a_bucket_names_the_extra_to_install(scheme, monkeypatch):
  def missing(protocol):
    raise ImportError(f'Install the file system of {protocol}')

  monkeypatch.setattr(storage.fsspec, 'get_filesystem_class', missing)
  with pytest.raises(ValueError, match=rf"pip install -e '\.\[{scheme}\]'"):
    train.train(smoke_config(), f'{scheme}://bucket/run')


def start(workdir, *flags):
  return subprocess.Popen(
    [
      sys.executable,
      '-m',
      'sqlm_jax.main',
      '--config=configs/smoke.py',
      f'--workdir={workdir}',
      *flags,
    ],
    cwd=ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def wait_for_steps(workdir, count, process, seconds=180):
  path = workdir / 'metrics.jsonl'
  deadline = time.monotonic() + seconds
  while time.monotonic() < deadline and process.poll() is None:
    if path.exists() and len(path.read_text().splitlines()) >= count:
      return
    time.sleep(0.1)
  process.kill()
  pytest.fail(f'no {count} steps: {process.communicate()[0]}')


def test_terminate_and_go_on(tmp_path):
  """SIGTERM saves, and the next start goes on from there."""
  endless = ('--config.num_steps=100000', '--stopped_exit_code=75')
  process = start(tmp_path, *endless)
  wait_for_steps(tmp_path, 3, process)
  process.send_signal(signal.SIGTERM)
  output, _ = process.communicate(timeout=120)
  assert process.returncode == 75, output
  assert 'To resume, run the same command again.' in output

  steps = [row['step'] for row in without_times(tmp_path)]
  assert steps == list(range(len(steps)))
  files = sorted(path.name for path in (tmp_path / 'rollouts').iterdir())
  assert files == [f'step_{step:08d}.parquet' for step in steps]
  assert f'Stopped and saved after {len(steps)} of 100000 steps' in output
  stored = json.loads((tmp_path / 'config.json').read_text())
  assert stored['num_steps'] == 100000
  with checkpoints_lib.open_checkpoints(
    tmp_path / 'checkpoints', read_only=True
  ) as manager:
    assert checkpoints_lib.latest_step(manager) == len(steps)
