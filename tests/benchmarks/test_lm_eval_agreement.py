"""The comparison with lm-eval, on samples in its format."""

import json

import pytest
import yaml

from benchmarks import lm_eval_agreement as agreement

SETTINGS = {'solver_stop': ['\n'], 'max_tokens': 4}


def row(index, response, right):
  return {
    'index': index,
    'question': f'{index} + 0',
    'true': str(index),
    'prompt': f'3 + 4 = 7\n{index} + 0 = ',
    'responses': [response, 'sampled'],
    'right': [right, False],
  }


def sample(index, response, right):
  """Returns the relevant fields of a line of samples_TASK_DATE.jsonl."""
  doc = {'index': index, 'prompt': '', 'true': str(index)}
  return {'doc': doc, 'resps': [[response]], 'exact_match': float(right)}


def test_the_task_file_is_complete(tmp_path):
  rows = [row(0, '0\n', True), row(1, '1\n', True)]
  agreement.write_task(tmp_path / 'new', rows, SETTINGS)
  task = yaml.safe_load((tmp_path / 'new' / 'greedy.yaml').read_text())
  assert task['task'] == agreement.TASK
  assert task['generation_kwargs'] == {
    'until': ['\n'],
    'do_sample': False,
    'max_gen_toks': 4,
  }
  path = task['dataset_kwargs']['data_files']['test']
  with open(path) as file:
    questions = [json.loads(line) for line in file]
  assert questions == [
    {k: row[k] for k in ('index', 'prompt', 'true')} for row in rows
  ]
  # Both are columns of the questions.
  assert task['doc_to_text'] == 'prompt'
  assert task['doc_to_target'] == 'true'


def test_agreement():
  rows = [row(0, '0\n', True), row(1, '7\nmore', False)]
  samples = {1: sample(1, '7', False), 0: sample(0, '0', True)}
  counts, differing = agreement.compare(rows, samples, ['\n'])
  assert counts == {
    'same_text': 2,
    'same_grade': 2,
    'ours': 0.5,
    'theirs': 0.5,
    'questions': 2,
  }
  assert differing == []


@pytest.mark.parametrize(
  'theirs, right, same_text, same_grade',
  [('1', False, 1, 0), ('1.', True, 0, 1), ('2', False, 0, 0)],
)
def test_differences_are_reported(theirs, right, same_text, same_grade):
  rows = [row(1, '1\n', True)]
  samples = {1: sample(1, theirs, right)}
  counts, differing = agreement.compare(rows, samples, ['\n'])
  assert counts['same_text'] == same_text
  assert counts['same_grade'] == same_grade
  assert differing == [f"'1 + 0': ours '1' (True), theirs '{theirs}' ({right})"]
