"""Tests of what `import sqlm_jax` offers, on the tiny random model."""

import os
import pathlib
import re
import signal
import subprocess
import sys

import pytest

import sqlm_jax
from sqlm_jax import api
from sqlm_jax.workdir import checkpoints, jsonl, rollouts

ROOT = pathlib.Path(__file__).parent.parent
STEPS = 3


@pytest.fixture(scope='module')
def config():
  return sqlm_jax.configs.smoke(
    {
      'checkpoint.every': 0,
      'evaluation.every': 0,
      'evaluation.samples': 1,
      'mesh.data': 1,
      'solver.max_tokens': 12,
    },
    num_steps=STEPS,
  )


@pytest.fixture(scope='module')
def played():
  """Holds what a callback has received in the uninterrupted run."""
  return []


@pytest.fixture(scope='module')
def trained(config, played, tmp_path_factory):
  """Trains without an interruption."""
  workdir = tmp_path_factory.mktemp('runs') / 'whole'
  return sqlm_jax.train(config, workdir, callbacks=[played.append], quiet=True)


@pytest.fixture(scope='module')
def model(trained):
  return sqlm_jax.load(trained.run.workdir)


def without_times(rows):
  return [
    {k: v for k, v in row.items() if not k.startswith('time/')} for row in rows
  ]


def test_the_import_is_quick_and_clean():
  script = (
    'import sys, sqlm_jax\n'
    'assert not {"jax", "numpy", "absl"} & set(sys.modules)\n'
    'assert set(sqlm_jax.__all__) <= set(dir(sqlm_jax))\n'
  )
  command = [sys.executable, '-W', 'error', '-c', script]
  subprocess.run(command, check=True, timeout=60)


@pytest.mark.parametrize('name', sqlm_jax.__all__)
def test_public_names_are_documented(name):
  assert getattr(sqlm_jax, name).__doc__


def test_an_unknown_name():
  with pytest.raises(AttributeError, match="no attribute 'nosuch'"):
    _ = sqlm_jax.nosuch


def test_callbacks_receive_metrics_and_samples(trained, played):
  assert (trained.finished, trained.step) == (True, STEPS)
  assert [step.step for step in played] == list(range(STEPS))
  stored = trained.run.metrics()
  for step, metrics in zip(played, stored, strict=True):
    assert metrics == metrics | {
      k: v for k, v in step.metrics.items() if not k.startswith('eval/')
    }
    rows = trained.run.rollouts([step.step]).to_pylist()
    assert [row['response'] for row in step.rows] == [
      row['response'] for row in rows
    ]
    assert {k for row in step.rows for k in row} <= set(rollouts.SCHEMA.names)
  last = played[-1].metrics
  assert last['eval/smoke/test/greedy'] == pytest.approx(
    trained.run.evaluations()[-1]['greedy']
  )


def test_an_interrupted_run_resumes_and_equals_the_whole_run(
  config, trained, tmp_path, capsys
):
  workdir = tmp_path / 'interrupted'

  def interrupt(step):
    os.kill(os.getpid(), signal.SIGINT)  # as the interrupt of a notebook

  def stop(step):
    raise KeyboardInterrupt

  first = sqlm_jax.train(config, workdir, callbacks=[interrupt], quiet=True)
  assert capsys.readouterr().out == ''
  assert (first.finished, first.step) == (False, 1)
  assert saved_steps(workdir) == [1]
  second = sqlm_jax.train(None, workdir, callbacks=[stop])
  assert (second.finished, second.step) == (False, 2)
  assert saved_steps(workdir)[-1] == 2
  third = sqlm_jax.train(config, workdir)
  assert (third.finished, third.step) == (True, STEPS)
  assert third.run.rollouts().equals(trained.run.rollouts())
  metrics, expected = third.run.metrics(), trained.run.metrics()
  assert without_times(metrics) == without_times(expected)


def saved_steps(workdir):
  directory = workdir / 'checkpoints'
  with checkpoints.open_checkpoints(directory, read_only=True) as manager:
    return checkpoints.all_steps(manager)


def test_an_error_in_a_callback_is_raised(config, tmp_path):
  def fail(step):
    raise ZeroDivisionError

  with pytest.raises(ZeroDivisionError):
    sqlm_jax.train(config, tmp_path / 'run', callbacks=[fail], quiet=True)


def test_a_model_answers_and_proposes(model):
  answers = sqlm_jax.sample(model, ['1 + 1', ' 2 + 2\n'])
  assert [a.question for a in answers] == ['1 + 1', '2 + 2']
  assert sqlm_jax.sample(model, '1 + 1') == answers[:1]
  assert list(answers.to_pandas()) == ['question', 'response', 'answer']
  assert len(sqlm_jax.propose(model)) == 8


def test_evaluations_and_comparisons(model, trained):
  evaluation = sqlm_jax.evaluate(model, 'test')
  stored = trained.run.evaluations()[-1]
  assert evaluation.figures['greedy'] == stored['greedy']
  low, high = evaluation.intervals['greedy']
  assert low <= evaluation.figures['greedy'] <= high
  assert len(evaluation.rows.to_pandas()) == 3
  compared = sqlm_jax.compare(model.workdir, 0, STEPS)
  frame = compared.figures.to_pandas().set_index('figure')
  assert frame.loc['greedy', 'second'] == stored['greedy']
  assert 'The difference and its p-value' in compared._repr_markdown_()
  assert (compared.directory / 'comparison.json').exists()


def test_the_model_before_training(config, model, tmp_path):
  before = sqlm_jax.load(config=config)
  assert (before.step, model.step) == (0, STEPS)
  assert sqlm_jax.load(model.workdir, 0).step == 0
  with pytest.raises(ValueError, match='expected a run, or a config'):
    sqlm_jax.load()
  with pytest.raises(ValueError, match=r'expected a directory with a run'):
    sqlm_jax.load(tmp_path)


def test_an_export(model, tmp_path):
  directory = sqlm_jax.export(model, tmp_path / 'exported')
  assert (directory / 'model.safetensors').exists()
  with pytest.raises(ValueError, match='expected a directory that does not'):
    sqlm_jax.export(model, directory)


def test_runs_are_read_as_frames(trained):
  run = sqlm_jax.runs.open(trained.run.workdir)
  assert run.config().num_steps == STEPS
  assert list(run.metrics().to_pandas()['step']) == run.steps() == [0, 1, 2]
  assert set(run.evaluations().to_pandas()['set']) == {'test', 'validation'}
  path = pathlib.Path(run.workdir, 'alarms.jsonl')
  assert run.alarms() == (jsonl.read(path) if path.exists() else [])
  solver = run.rollouts([1], columns=['role', 'reward'], role='solver')
  assert set(solver.to_pandas()['role']) == {'solver'}
  assert run.rollouts([1]).num_rows > solver.num_rows


def test_reviews(trained):
  run = trained.run
  ballots = run.waiting(2, reviewer='ann')
  assert len(ballots.to_pandas()) == 2
  run.decide(ballots[0], 'correct', answer='7', reviewer='ann')
  run.decide(ballots[1], 'skip', reviewer='ann')
  assert [event['verdict'] for event in run.reviews()] == ['correct', 'skip']
  assert not set(run.waiting(99, reviewer='ann')) & set(ballots)
  with pytest.raises(ValueError, match="verdict='yes': expected one of accept"):
    run.decide(ballots[0], 'yes')


def test_a_directory_without_a_run(tmp_path):
  with pytest.raises(ValueError, match='expected a directory with a run'):
    sqlm_jax.runs.open(tmp_path)


def test_frames_need_pandas(monkeypatch):
  monkeypatch.setitem(sys.modules, 'pandas', None)
  with pytest.raises(ImportError, match='pip install pandas'):
    sqlm_jax.runs.Rows([{'a': 1}]).to_pandas()


def test_the_examples_of_the_docs_run(tmp_path, monkeypatch):
  page = (ROOT / 'docs' / 'python.md').read_text(encoding='utf-8')
  examples = '\n'.join(re.findall(r'```python\n(.*?)```', page, re.DOTALL))
  # The tiny model, and a single step of it.
  small = (
    "configs.smoke({'mesh.data': 1, 'evaluation.samples': 1}, num_steps=1)"
  )
  examples, count = re.subn(r'configs\.quickstart\(.*\)', small, examples)
  assert count == 1
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(api, 'keep_compiled', lambda: None)
  exec(compile(examples, 'docs/python.md', 'exec'), {'__name__': 'examples'})
  assert (tmp_path / 'exported' / 'python' / 'model.safetensors').exists()
