"""Which step of a run is its best, and what the run says of it at its end."""

import contextlib
import json

import pytest

from configs import smoke
from sqlm_jax import closing, compare, evaluate, run_evaluations
from sqlm_jax.run import build, saved, train_states
from sqlm_jax.workdir import checkpoints, run_writer

TRUTHS = 'ABCDE' * 4


@pytest.fixture(scope='module')
def parts():
  c = smoke.get_config()
  c.mesh.data = 1
  c.num_steps = 12
  c.evaluation.samples = 2
  c.task.validation = tuple((f'{n} + 0', str(n)) for n in range(9))
  return build.build(c)


def record_of(parts, purpose, step, score, **changes):
  """A line of eval.jsonl as the run would write it."""
  asked = parts.sets(purpose)
  settings = evaluate.plan(parts, asked, step=step, workdir=None).files.settings
  return {
    'step': step,
    'task': 'smoke',
    'set': purpose,
    'mean@2': score,
    'greedy': 0.9,
    'intervals': {'mean@2': [0, 1], 'greedy': [0, 1]},
    'questions': len(asked.examples),
    'settings': config_json.as_stored(settings) | changes,
  }


@contextlib.contextmanager
def writer_of(workdir, *records):
  with contextlib.closing(run_writer.RunWriter(workdir)) as writer:
    for record in records:
      writer.evaluation(record)
    yield writer


def validated(parts, *scores):
  """Evaluations after 0, 4, 8, ... steps."""
  return [
    record_of(parts, 'validation', 4 * i, score)
    for i, score in enumerate(scores)
  ]


@pytest.mark.parametrize(
  'scores, step, expected',
  [
    ((0.6, 0.7), 4, (0.7, 0.6, True)),
    ((0.6, 0.6), 4, (0.6, 0.6, False)),  # as good as the start is not better
    ((0.6, 0.45, 0.5), 8, (0.5, 0.6, False)),
    ((0.6, 0.7, 0.65), 8, (0.65, 0.6, False)),
    ((0.6,), 0, (0.6, 0.6, False)),
    ((0.6,), 4, (None, 0.6, False)),
  ],
)
def test_the_start_is_one_of_those_to_beat(
  parts, tmp_path, scores, step, expected
):
  with writer_of(tmp_path, *validated(parts, *scores)) as writer:
    assert run_evaluations.choose(parts, writer, step) == expected


def test_a_collapsed_evaluation_is_not_the_best(parts, tmp_path):
  start, first, last = validated(parts, 0.183, 0.15, 0.2)
  last['collapsed'] = {'mean@2': {'answer': 'C', 'share': 1.0}}
  with writer_of(tmp_path, start, first, last) as writer:
    choice = run_evaluations.choose(parts, writer, 8)
    assert choice == (checkpoints.NOT_ELIGIBLE, 0.183, False)
    # The greedy answers do not decide here.
    last['collapsed'] = {'greedy': last['collapsed']['mean@2']}
  with writer_of(tmp_path / 'other', start, first, last) as writer:
    assert run_evaluations.choose(parts, writer, 8) == (0.2, 0.183, True)


def test_a_collapsed_start_is_beaten_by_all_that_counts(parts, tmp_path):
  start, last = validated(parts, 0.2, 0.1)
  start['collapsed'] = {'mean@2': {'answer': 'C', 'share': 1.0}}
  with writer_of(tmp_path, start, last) as writer:
    assert run_evaluations.choose(parts, writer, 4) == (0.1, None, True)


def test_an_evaluation_that_finds_one_answer_says_so(parts, caplog):
  """The true answers are five options, and the solver knows one."""
  rows = [
    {
      'answers': ['C'] * 3,
      'right': [true == 'C'] * 3,
      'true': true,
      'index': i,
    }
    for i, true in enumerate(TRUTHS)
  ]
  planned = evaluate.plan(parts, parts.sets('validation'), step=8, workdir=None)
  planned = planned._replace(files=planned.files._replace(rows=rows))
  record = evaluate._record(planned, 0.0)
  one = {'answer': 'C', 'share': 1.0, 'true_share': 0.2}
  assert record['collapsed'] == {'greedy': one, 'mean@2': one}
  assert 'suggested_min_agreement' in record['reliability']
  assert any('after 8 steps: 100% of the sampled' in m for m in caplog.messages)
  # Nothing is suggested by the test set.
  planned = evaluate.plan(parts, parts.sets('test'), step=8, workdir=None)
  planned = planned._replace(files=planned.files._replace(rows=rows))
  assert (
    'suggested_min_agreement'
    not in evaluate._record(planned, 0.0)['reliability']
  )


def test_the_summary_is_of_the_last_step_as_the_run_asks(
  parts, tmp_path, capsys
):
  """Whatever was evaluated in the workdir later, and in other ways."""
  tests = [
    record_of(parts, 'test', 0, 0.1),
    record_of(parts, 'test', 12, 0.3),
    record_of(parts, 'test', 12, 0.8, temperature=0.1),
    record_of(parts, 'test', 4, 0.7),  # --compare=0,best
    record_of(parts, 'test', 0, 0.05, temperature=0.1),
  ]
  with writer_of(tmp_path, tests[3], *tests) as writer:
    closing.report(parts, writer, 12, best=4)
  shown = capsys.readouterr().out
  assert '10.0% mean@2, 90.0% greedy on 3 questions (0 steps)' in shown
  assert '30.0% mean@2, 90.0% greedy on 3 questions (12 steps)' in shown
  assert '70.0%' not in shown
  assert 'checkpoints/4 (on the validation set)' in ' '.join(shown.split())
  # A run that was stopped has no evaluation of its last step.
  with writer_of(tmp_path) as writer:
    closing.report(parts, writer, 8, best=None)
  shown = capsys.readouterr().out
  assert 'before' in shown
  assert 'after  ' not in shown


def test_the_summary_says_that_nothing_is_better_than_the_start(
  parts, tmp_path, capsys
):
  records = validated(parts, 0.637, 0.45, 0.41, 0.46)
  records[2]['collapsed'] = {'mean@2': {'answer': '7', 'share': 1.0}}
  with writer_of(tmp_path, *records) as writer:
    closing.report(parts, writer, 12, best=0)
  shown = ' '.join(capsys.readouterr().out.split())
  assert (
    'best the model before any training (step 0): on the validation set no '
    'checkpoint is above its 63.7% mean@2, the highest is 46.0% after 12 steps'
  ) in shown
  assert 'after 8 steps nearly all answers were the same' in shown


def test_the_best_step_of_a_run_that_only_fell_is_the_initial_model(
  parts, tmp_path
):
  directory = tmp_path / 'checkpoints'
  states = train_states.initial_states(parts)
  with checkpoints.open_checkpoints(directory, keep=2) as manager:
    for step, score in ((4, 0.45), (8, 0.41)):
      checkpoints.save(
        manager, step, states, {}, score=score, start_score=0.6, force=True
      )
  found = saved.find(parts, tmp_path, 'best')
  assert found.step == 0
  assert 'no checkpoint is better on the validation set' in found.about
  assert saved.find(parts, tmp_path, 'latest').step == 8
  (tmp_path / 'none').mkdir()
  with pytest.raises(ValueError, match=r"'best': expected .* evaluation.every"):
    saved.find(parts, tmp_path / 'none', 'best')


@pytest.mark.parametrize(
  'value, expected',
  [
    ('0,best', ('0', 'best')),
    ('a@0,b@12', ('a@0', 'b@12')),
    ('runs/seeds=[0,1]@0,best', ('runs/seeds=[0,1]@0', 'best')),
    (
      'r/[0,1]@latest,r/[0,1]@best',
      ('r/[0,1]@latest', 'r/[0,1]@best'),
    ),
    ('a@b,c@0,12', ('a@b,c@0', '12')),
  ],
)
def test_a_comma_in_a_workdir_does_not_separate(value, expected):
  assert compare.pair(value.split(',')) == expected


@pytest.mark.parametrize('value', ['0', '0,4,best', 'a,b,c', ''])
def test_more_or_fewer_than_two_checkpoints(value):
  with pytest.raises(ValueError, match=f'^--compare={value}: expected two'):
    compare.pair(value.split(','))


def test_the_record_of_a_checkpoint_names_its_step_and_run(parts, tmp_path):
  states = {'policy': {'w': train_states.initial_states(parts)['policy'].step}}
  with checkpoints.open_checkpoints(tmp_path / 'c') as manager:
    checkpoints.save(manager, 3, states, {}, force=True)
  record = json.loads((tmp_path / 'c' / '3' / 'host' / 'metadata').read_text())
  assert record['step'] == 3
  assert record['run_id'] == (tmp_path / 'c' / 'run_id').read_text().strip()
