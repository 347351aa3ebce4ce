"""Tests of evaluations of a tiny random model, also after interruptions."""

import contextlib
import json
import threading

import numpy as np
import pytest

from configs import smoke
from sqlm_jax.config import schema as config_lib
from sqlm_jax.evaluation import report
from sqlm_jax.run import build, evaluator
from sqlm_jax.workdir import evaluations

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
  return evaluator.plan(parts, parts.sets('test'), step=step, workdir=workdir)


@pytest.fixture(scope='module')
def uninterrupted(parts, params, tmp_path_factory):
  """Returns the plan and the result of an uninterrupted evaluation."""
  planned = plan(parts, tmp_path_factory.mktemp('uninterrupted'))
  return planned, evaluator.evaluate(planned, params)


def test_a_result_has_figures_intervals_and_settings(uninterrupted, parts):
  _, result = uninterrupted
  assert (result['task'], result['set']) == ('smoke', 'test')
  assert result['step'] == 0
  assert result['questions'] == len(PAIRS)
  assert list(result['intervals']) == [
    *('greedy', 'mean@2', 'pass@2', 'pass@4', 'maj@2', 'unparsed')
  ]
  for name, (low, high) in result['intervals'].items():
    assert 0 <= low <= result[name] <= high <= 1
  settings = result['settings']
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
  assert json.loads(json.dumps(result)) == result
  assert report.rows(result)['questions'] == '25 of task.test'


def test_rows_contain_all_answers_and_grades(uninterrupted):
  planned, result = uninterrupted
  path = planned.files.directory / 'answers.jsonl'
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  assert rows == planned.files.rows
  assert [(row['question'], row['true']) for row in rows] == list(PAIRS)
  for index, row in enumerate(rows):
    assert row['index'] == index
    assert len(row['responses']) == len(row['answers']) == 1 + 2 * 2
    assert row['right'] == [a == row['true'] for a in row['answers']]
  greedy = np.mean([row['right'][0] for row in rows])
  assert result['greedy'] == greedy
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


def test_an_interrupted_evaluation_is_resumed(
  uninterrupted, parts, params, tmp_path
):
  """Only the questions without a complete line are answered again."""
  seen = []

  class Killed(Exception):
    pass

  def die(done, total):
    seen.append((done, total))
    if done == 12:
      raise Killed

  with pytest.raises(Killed):
    evaluator.evaluate(plan(parts, tmp_path), params, progress=die)
  assert seen == [(0, 25), (4, 25), (8, 25), (12, 25)]
  path = plan(parts, tmp_path).files.directory / 'answers.jsonl'
  lines = path.read_text()
  path.write_text(lines[:-20])
  planned = plan(parts, tmp_path)
  assert len(planned.files.rows) == 11
  seen.clear()
  result = evaluator.evaluate(
    planned, params, progress=lambda *done: seen.append(done)
  )
  assert seen == [(n, 25) for n in (11, 15, 19, 23, 25)]
  expected_plan, expected = uninterrupted
  assert planned.files.rows == expected_plan.files.rows
  assert (
    path.read_text()
    == (expected_plan.files.directory / 'answers.jsonl').read_text()
  )
  assert result | {'seconds': 0} == expected | {'seconds': 0}


def test_answered_questions_are_not_answered_again(uninterrupted, parts):
  planned = plan(parts, uninterrupted[0].files.directory.parent.parent)
  assert planned.is_answered
  result = evaluator.evaluate(planned, None)  # without a model
  assert result | {'seconds': 0} == uninterrupted[1] | {'seconds': 0}


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
def test_other_settings_start_another_evaluation(uninterrupted, changes):
  planned = plan(
    make_parts(**changes), uninterrupted[0].files.directory.parent.parent
  )
  assert not planned.files.rows
  assert planned.files.directory != uninterrupted[0].files.directory


def test_answers_are_graded_in_another_thread(parts, params, uninterrupted):
  threads, graded = set(), []

  def grade(groups, examples):
    threads.add(threading.current_thread().name)
    graded.extend(examples)
    return parts.task.grade(groups, examples)

  watched = parts._replace(task=parts.task._replace(grade=grade))
  result = evaluator.evaluate(plan(watched, None), params)
  assert result | {'seconds': 0} == uninterrupted[1] | {'seconds': 0}
  assert sorted(example.question for example in graded) == sorted(
    question for question, _ in PAIRS
  )
  assert all(name.startswith('grading') for name in threads)


def test_an_evaluation_needs_no_workdir(parts, params, uninterrupted):
  planned = plan(parts, None)
  result = evaluator.evaluate(planned, params)
  assert result | {'seconds': 0} == uninterrupted[1] | {'seconds': 0}


def test_the_same_evaluation_cannot_run_twice_at_once(parts, params, tmp_path):
  """Otherwise every answer would be in the file twice."""
  with contextlib.ExitStack() as stack:
    evaluations.start(plan(parts, tmp_path).files, stack)
    with pytest.raises(RuntimeError, match='another run is writing to this'):
      evaluator.evaluate(plan(parts, tmp_path), params)
  assert evaluator.evaluate(plan(parts, tmp_path), params)


def test_a_failed_self_test_stops_the_evaluation(parts, params, tmp_path):
  def fail(examples):
    raise RuntimeError(f'of {len(examples)}')

  broken = parts._replace(task=parts.task._replace(self_test=fail))
  planned = evaluator.plan(broken, parts.sets('test'), step=0, workdir=tmp_path)
  with pytest.raises(RuntimeError, match='of 25'):
    evaluator.evaluate(planned, params)
  assert not (tmp_path / 'evaluations').exists()


def test_only_greedy_answers(uninterrupted, tmp_path):
  parts = make_parts(**{'evaluation.samples': 0})
  assert parts.samplers['evaluation'].settings.temperature.tolist() == [0.0]
  planned = plan(parts, tmp_path)
  lists = ('responses', 'answers', 'right', 'finished')
  for row in uninterrupted[0].files.rows:
    planned.files.rows.append(row | {name: row[name][:1] for name in lists})
  planned.files.directory.mkdir(parents=True)
  result = evaluator.evaluate(planned, None)
  assert list(result['intervals']) == ['greedy', 'unparsed']
  assert 'reliability' not in result


def test_a_prompt_that_is_too_long_is_an_error_with_the_question(parts):
  long = make_parts(**{'sampler.max_prompt_tokens': 30})
  with pytest.raises(ValueError, match=r"prompt of the question '0 \+ 0'"):
    plan(long, None)
