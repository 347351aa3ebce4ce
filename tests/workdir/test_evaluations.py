"""Tests of eval.jsonl and of the directories of evaluations."""

import contextlib
import math

import pytest

from sqlm_jax.workdir import evaluations

SETTINGS = {'step': 4, 'set': 'test', 'samples': 2}


@pytest.mark.parametrize('value', [math.nan, math.inf, -math.inf])
def test_a_result_is_valid_json_for_all_numbers(tmp_path, value):
  evaluations.append_result(
    tmp_path, {'step': 4, 'task': 't', 'a': value, 'b': {'c': value}}
  )
  text = (tmp_path / 'eval.jsonl').read_text()
  assert text == '{"step": 4, "task": "t", "a": null, "b": {"c": null}}\n'


def test_a_result_is_found_by_its_settings(tmp_path):
  settings = [{'samples': n, 'solver_stop': ('\n',)} for n in (4, 16)]
  assert evaluations.find_result(tmp_path, settings[0]) is None
  for n, each in enumerate(settings):
    evaluations.append_result(
      tmp_path, {'step': 5, 'greedy': n, 'settings': each}
    )
  assert evaluations.find_result(tmp_path, settings[1])['greedy'] == 1
  other = settings[1] | {'samples': 8}
  assert evaluations.find_result(tmp_path, other) is None


@pytest.mark.parametrize('result', [{}, {'step': None}, {'step': 1.0}])
def test_a_result_without_a_step_is_rejected(tmp_path, result):
  with pytest.raises(ValueError, match=r'expected an integer "step"'):
    evaluations.append_result(tmp_path, result)


def test_figures_become_metrics_and_text():
  intervals = {'greedy': [0.4, 0.6], 'mean@2': [0, 1], 'pass@2': [0, 1]}
  result = {'step': 5, 'task': 'sums', 'set': 'test', 'questions': 4}
  result |= {'greedy': 0.5, 'mean@2': 0.25, 'pass@2': 1.0}
  result |= {'intervals': intervals}
  assert evaluations.to_metrics(result) == {
    'eval/sums/test/greedy': 0.5,
    'eval/sums/test/mean@2': 0.25,
    'eval/sums/test/pass@2': 1.0,
  }
  text = evaluations.format_accuracies(result)
  assert text == '50.0% greedy, 25.0% mean@2'


@pytest.mark.parametrize('cut', [7, 1])
def test_a_result_is_appended_after_an_incomplete_line(tmp_path, cut):
  """The run was killed within the second line, or before its line break."""
  for step in (0, 2):
    evaluations.append_result(
      tmp_path, {'step': step, 'settings': {'step': step}}
    )
  path = tmp_path / 'eval.jsonl'
  path.write_text(path.read_text()[:-cut])
  if evaluations.find_result(tmp_path, {'step': 2}) is None:
    evaluations.append_result(tmp_path, {'step': 2, 'settings': {'step': 2}})
  evaluations.append_result(tmp_path, {'step': 4, 'settings': {'step': 4}})
  steps = [result['step'] for result in evaluations.read_results(tmp_path)]
  assert steps == [0, 2, 4]


def test_answers_are_found_again(tmp_path):
  files = evaluations.find_files(tmp_path, SETTINGS)
  assert not files.rows
  with contextlib.ExitStack() as stack:
    evaluations.start(files, stack)
    evaluations.append_answers(files, [{'index': 0}, {'index': 1}])
  again = evaluations.find_files(tmp_path, SETTINGS)
  assert again == files
  assert again.rows == [{'index': 0}, {'index': 1}]
  other = evaluations.find_files(tmp_path, SETTINGS | {'samples': 3})
  assert other.directory != files.directory
  assert other.rows == []


def test_damaged_answers_are_an_error_with_their_path(tmp_path):
  files = evaluations.find_files(tmp_path, SETTINGS)
  with contextlib.ExitStack() as stack:
    evaluations.start(files, stack)
  path = files.directory / 'answers.jsonl'
  path.write_text('{"index": 0}\n{"index": 2}\n')
  with pytest.raises(ValueError, match='one line per question, in order'):
    evaluations.find_files(tmp_path, SETTINGS)
  path.write_text('what\n{"index": 0}\n')
  with pytest.raises(ValueError, match=r'answers\.jsonl:1: expected a JSON'):
    evaluations.find_files(tmp_path, SETTINGS)


def test_rewind_removes_evaluations_of_later_steps(tmp_path):
  with contextlib.ExitStack() as stack:
    for step in (0, 2, 4):
      evaluations.append_result(tmp_path, {'step': step})
      files = evaluations.find_files(tmp_path, SETTINGS | {'step': step})
      evaluations.start(files, stack)
  evaluations.rewind(tmp_path, 2)
  names = sorted(p.name[:8] for p in (tmp_path / 'evaluations').iterdir())
  assert names == ['00000000', '00000002']
  steps = [result['step'] for result in evaluations.read_results(tmp_path)]
  assert steps == [0, 2]
  evaluations.rewind(tmp_path / 'nothing', 2)
