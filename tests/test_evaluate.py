"""Evaluations of the tiny random model: figures, files, interruptions."""

import contextlib
import json
import threading

import numpy as np
import pytest

from configs import smoke
from sqlm_jax import evaluate
from sqlm_jax.config import schema as config_lib
from sqlm_jax.evaluation import report
from sqlm_jax.run import build, evaluation_sets
from sqlm_jax.workdir import evaluation_files

PAIRS = tuple((f'{a} + {b}', str(a + b)) for a in range(5) for b in range(5))


def make_parts(**changes) -> build.Parts:
  c = smoke.get_config()
  c.mesh.data = 1
  c.task.test = PAIRS
  c.task.validation = ()
  c.solver.max_tokens = 8
  c.evaluation.batch_questions = 4
  c.evaluation.samples = 2
  c.evaluation.seeds = 2
  c.update_from_flattened_dict(changes)
  return build.build(config_lib.from_dict(c.to_dict()))


@pytest.fixture(scope='module')
def parts():
  return make_parts()


@pytest.fixture(scope='module')
def params(parts):
  return parts.load_params('float32')


def plan(parts, workdir, step=0):
  return evaluate.plan(parts, parts.sets('test'), step=step, workdir=workdir)


@pytest.fixture(scope='module')
def whole(parts, params, tmp_path_factory):
  """An evaluation that nothing interrupted."""
  planned = plan(parts, tmp_path_factory.mktemp('whole'))
  return planned, evaluate.evaluate(planned, params)


def test_a_record_says_what_was_asked_and_how(whole, parts):
  _, record = whole
  assert (record['task'], record['set']) == ('smoke', 'test')
  assert record['step'] == 0
  assert record['questions'] == len(PAIRS)
  assert list(record['intervals']) == [
    *('greedy', 'mean@2', 'pass@2', 'pass@4', 'maj@2', 'unparsed')
  ]
  for name, (low, high) in record['intervals'].items():
    assert 0 <= low <= record[name] <= high <= 1
  settings = record['settings']
  assert settings['first_prompt'] == ('Here is a question: 0 + 0\nA number: ')
  assert settings['solver_prompt'] == parts.config.task.solver_prompt
  for key, value in (
    ('samples', 2),
    ('seeds', 2),
    ('temperature', 1.0),
    ('top_p', 1.0),
    ('max_tokens', 8),
    ('model', 'random'),
  ):
    assert settings[key] == value
  assert json.loads(json.dumps(record)) == record
  assert report.rows(record)['questions'] == '25 of task.test'


def test_rows_hold_every_answer_and_its_grade(whole):
  planned, record = whole
  path = planned.files.directory / 'answers.jsonl'
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  assert rows == planned.files.rows
  assert [(row['question'], row['true']) for row in rows] == list(PAIRS)
  for index, row in enumerate(rows):
    assert row['index'] == index
    assert len(row['responses']) == len(row['answers']) == 1 + 2 * 2
    assert row['right'] == [a == row['true'] for a in row['answers']]
  greedy = np.mean([row['right'][0] for row in rows])
  assert record['greedy'] == greedy
  names = {p.name for p in planned.files.directory.iterdir()}
  assert names == {
    'answers.jsonl',
    'settings.json',
    'lock',
    'result.json',
    'result.md',
    'reliability.png',
    'reliability.svg',
  }


def test_an_interrupted_evaluation_goes_on(whole, parts, params, tmp_path):
  """Killed within a line: what is whole is not asked again."""
  seen = []

  class Killed(Exception):
    pass

  def die(done, total):
    seen.append((done, total))
    if done == 12:
      raise Killed

  with pytest.raises(Killed):
    evaluate.evaluate(plan(parts, tmp_path), params, progress=die)
  assert seen == [(0, 25), (4, 25), (8, 25), (12, 25)]
  path = plan(parts, tmp_path).files.directory / 'answers.jsonl'
  whole_lines = path.read_text()
  path.write_text(whole_lines[:-20])
  planned = plan(parts, tmp_path)
  assert len(planned.files.rows) == 11
  seen.clear()
  record = evaluate.evaluate(
    planned, params, progress=lambda *done: seen.append(done)
  )
  assert seen == [(n, 25) for n in (11, 15, 19, 23, 25)]
  expected_plan, expected = whole
  assert planned.files.rows == expected_plan.files.rows
  assert (
    path.read_text()
    == (expected_plan.files.directory / 'answers.jsonl').read_text()
  )
  assert record | {'seconds': 0} == expected | {'seconds': 0}


def test_what_is_answered_is_not_asked_again(whole, parts):
  planned = plan(parts, whole[0].files.directory.parent.parent)
  assert planned.is_answered
  record = evaluate.evaluate(planned, None)  # there is no model to ask
  assert record | {'seconds': 0} == whole[1] | {'seconds': 0}


@pytest.mark.parametrize(
  'changes',
  [
    {'evaluation.temperature': 0.5},
    {'evaluation.samples': 3},
    {'task.solver_prompt': 'Now {question}: '},
    {'task.test': PAIRS[:-1]},
    {'seed': 1},
    {'sampler.dtype': 'bfloat16'},
  ],
)
def test_other_settings_are_another_evaluation(whole, changes):
  planned = plan(make_parts(**changes), whole[0].files.directory.parent.parent)
  assert not planned.files.rows
  assert planned.files.directory != whole[0].files.directory


def test_answers_are_graded_beside_the_sampler(parts, params, whole):
  threads, graded = set(), []

  def grade(groups, examples):
    threads.add(threading.current_thread().name)
    graded.extend(examples)
    return parts.task.grade(groups, examples)

  watched = parts._replace(task=parts.task._replace(grade=grade))
  record = evaluate.evaluate(plan(watched, None), params)
  assert record | {'seconds': 0} == whole[1] | {'seconds': 0}
  assert sorted(example.question for example in graded) == sorted(
    question for question, _ in PAIRS
  )
  assert all(name.startswith('reading') for name in threads)


def test_nothing_is_kept_without_a_workdir(parts, params, whole):
  planned = plan(parts, None)
  record = evaluate.evaluate(planned, params)
  assert record | {'seconds': 0} == whole[1] | {'seconds': 0}


def test_damaged_answers_are_named(parts, tmp_path):
  files = plan(parts, tmp_path).files
  with contextlib.ExitStack() as stack:
    evaluation_files.start(files, stack)
  path = files.directory / 'answers.jsonl'
  path.write_text('{"index": 0}\n{"index": 2}\n')
  with pytest.raises(ValueError, match='one line a question, in order'):
    plan(parts, tmp_path)
  path.write_text('what\n{"index": 0}\n')
  with pytest.raises(ValueError, match=r'answers\.jsonl:1: expected a JSON'):
    plan(parts, tmp_path)


def test_two_do_not_ask_the_same_at_once(parts, params, tmp_path):
  """Their answers would stand in one file, twice."""
  with contextlib.ExitStack() as stack:
    evaluation_files.start(plan(parts, tmp_path).files, stack)
    with pytest.raises(RuntimeError, match='another run is writing there'):
      evaluate.evaluate(plan(parts, tmp_path), params)
  assert evaluate.evaluate(plan(parts, tmp_path), params)


def test_evaluations_of_steps_that_are_repeated_are_forgotten(parts, tmp_path):
  with contextlib.ExitStack() as stack:
    for step in (0, 2, 4):
      evaluation_files.start(plan(parts, tmp_path, step).files, stack)
  evaluation_files.forget_after(tmp_path, 2)
  left = sorted(p.name[:8] for p in (tmp_path / 'evaluations').iterdir())
  assert left == ['00000000', '00000002']
  evaluation_files.forget_after(tmp_path / 'nothing', 2)


def test_a_judge_that_fails_its_test_judges_nothing(parts, params, tmp_path):
  def fail(examples):
    raise RuntimeError(f'of {len(examples)}')

  broken = parts._replace(task=parts.task._replace(self_test=fail))
  planned = evaluate.plan(broken, parts.sets('test'), step=0, workdir=tmp_path)
  with pytest.raises(RuntimeError, match='of 25'):
    evaluate.evaluate(planned, params)
  assert not (tmp_path / 'evaluations').exists()


def test_greedy_alone(whole, tmp_path):
  parts = make_parts(**{'evaluation.samples': 0})
  assert parts.samplers['evaluation'].settings.temperature.tolist() == [0.0]
  planned = plan(parts, tmp_path)
  lists = ('responses', 'answers', 'right', 'finished')
  for row in whole[0].files.rows:
    planned.files.rows.append(row | {name: row[name][:1] for name in lists})
  planned.files.directory.mkdir(parents=True)
  record = evaluate.evaluate(planned, None)
  assert list(record['intervals']) == ['greedy', 'unparsed']
  assert 'reliability' not in record


def test_a_question_that_does_not_fit_is_named(parts):
  long = make_parts(**{'sampler.max_prompt_tokens': 30})
  with pytest.raises(ValueError, match=r"room for the question '0 \+ 0'"):
    plan(long, None)


def test_sets_of_a_dataset(parts, tmp_path, monkeypatch):
  monkeypatch.setenv('SQLM_JAX_CACHE', str(tmp_path))
  changes = {
    'task.test': (),
    'evaluation.test': 'multiplication/test[:3]',
    'evaluation.question_template': 'What is {question}?',
  }
  asked = make_parts(**changes).sets('test')
  assert (asked.name, asked.origin) == ('test', 'multiplication/test[:3]')
  assert asked.examples[0].question == 'What is 974 * 780?'
  again = make_parts(**changes).sets('test')
  assert again.fingerprint == asked.fingerprint
  changes['evaluation.test'] = 'multiplication/test[1:4]'
  assert make_parts(**changes).sets('test').fingerprint != asked.fingerprint


def test_examples_that_cannot_be_judged_are_left_out(parts, tmp_path, caplog):
  path = tmp_path / 'mine.jsonl'
  rows = [
    {'question': '1 + 1', 'answer': '2'},
    {'question': '?', 'answer': 'x'},
  ]
  path.write_text('\n'.join(map(json.dumps, rows)))
  read = lambda: evaluation_sets.of_dataset(parts.config, parts.task, str(path))
  assert [e.question for e in read().examples] == ['1 + 1']
  assert '1 of 2 examples are left out' in caplog.text
  path.write_text(json.dumps(rows[1]))
  with pytest.raises(
    ValueError, match=r'none of 1 examples fits task\.answer_k'
  ):
    read()


def test_sets_that_share_a_question_are_refused(parts, tmp_path):
  path = tmp_path / 'mine.jsonl'
  path.write_text(json.dumps({'question': 'What is 2+3?', 'answer': '5'}))
  other = evaluation_sets.of_dataset(parts.config, parts.task, str(path))
  with pytest.raises(ValueError, match=r"found 1, the first: '2 \+ 3'"):
    evaluation_sets.check_disjoint(parts.sets('test'), other)
  evaluation_sets.check_disjoint(
    other._replace(examples=()), parts.sets('test')
  )


def test_a_true_answer_of_a_config_that_cannot_be_read_is_named():
  parts = make_parts(**{'task.test': (('1 + 1', 'two'),)})
  with pytest.raises(ValueError, match=r"task\.evaluation: \('1 \+ 1', 'two'"):
    parts.sets('test')
