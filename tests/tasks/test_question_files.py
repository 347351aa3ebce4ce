"""Files of questions."""

import json

import pyarrow as pa
import pytest
from pyarrow import parquet

from sqlm_jax.tasks import question_files


def write(path, content):
  path.write_bytes(content if isinstance(content, bytes) else content.encode())
  return path


def table(path, **columns):
  path.parent.mkdir(parents=True, exist_ok=True)
  parquet.write_table(pa.table(columns), path)
  return path


def test_text_file(tmp_path):
  path = write(tmp_path / 'q.txt', '1 + 1\r\n\n  \n2 + 2 \x0b é\n1 + 1')
  # Unusual white space does not end a line; repeated questions are kept.
  expected = ('1 + 1', '2 + 2 \x0b é', '1 + 1')
  assert question_files.read_questions(path) == expected


def test_jsonl_file(tmp_path):
  rows = [{'question': 'a\nb', 'id': 1}, {'question': ' '}, {'question': 'c'}]
  path = write(tmp_path / 'q.jsonl', '\n\n'.join(map(json.dumps, rows)))
  assert question_files.read_questions(path) == ('a\nb', 'c')


def test_parquet_file(tmp_path):
  path = table(
    tmp_path / 'q.parquet', question=['a', None, 'b'], more=[1, 2, 3]
  )
  assert question_files.read_questions(path) == ('a', 'b')


def test_rollouts_of_a_run(tmp_path):
  for step, asked in ((10, 'later'), (2, 'sooner')):
    table(
      tmp_path / 'rollouts' / f'step_{step:08d}.parquet',
      role=['proposer', 'proposer', 'solver'],
      question=[asked, None, asked],
      response=[f' {asked}\n1 => 2\n', 'unreadable', '2'],
    )
  expected = (' sooner\n1 => 2\n', ' later\n1 => 2\n')
  assert question_files.read_questions(tmp_path) == expected
  (first, _) = sorted((tmp_path / 'rollouts').iterdir())
  assert question_files.read_questions(first) == expected[:1]
  assert question_files.read_questions(tmp_path / 'rollouts') == expected


def test_workdir_with_pattern_characters(tmp_path):
  table = pa.table(
    {'question': ['1 + 2'], 'role': ['proposer'], 'response': ['1 + 2']}
  )
  rollouts = tmp_path / 'seeds=[0,1]*' / 'rollouts'
  rollouts.mkdir(parents=True)
  parquet.write_table(table, rollouts / 'step_00000000.parquet')
  assert question_files.read_questions(rollouts.parent) == ('1 + 2',)


def test_byte_order_marks_are_dropped(tmp_path):
  lines = write(tmp_path / 'q.txt', '\ufeff1 + 1\n')
  assert question_files.read_questions(lines) == ('1 + 1',)
  rows = write(tmp_path / 'q.jsonl', '\ufeff{"question": "1 + 1"}')
  assert question_files.read_questions(rows) == ('1 + 1',)


@pytest.mark.parametrize(
  'name, content, message',
  [
    (
      'q.csv',
      'a',
      r"q\.csv': expected a workdir, or a file that ends in \.txt,",
    ),
    ('q.txt', '\n \n', r"q\.txt': expected at least one question"),
    ('q.txt', b'\xff\xfe', r'q\.txt:1: expected UTF-8'),
    ('q.txt', b'\xef\xbb\xbfa\nb\n\xff', r'q\.txt:3: expected UTF-8'),
    (
      'q.jsonl',
      '{"question": "a"}\n{"q": "b"}',
      r'q\.jsonl:2: expected an obj',
    ),
    ('q.jsonl', '{"question": 3}', r'q\.jsonl:1: expected an object'),
    ('q.jsonl', r'{"question": "\ud800"}', r'q\.jsonl:1: expected an object'),
    ('q.jsonl', '[' * 100_000, r'q\.jsonl:1: expected an object'),
    ('q.jsonl', '["question"]', r'q\.jsonl:1: expected an object'),
    ('q.jsonl', 'question', r'q\.jsonl:1: expected an object'),
    ('q.parquet', 'no', r'q\.parquet: expected Parquet'),
  ],
)
def test_invalid_files_are_refused(tmp_path, name, content, message):
  with pytest.raises(ValueError, match=message):
    question_files.read_questions(write(tmp_path / name, content))


def test_invalid_columns_are_refused(tmp_path):
  numbers = table(tmp_path / 'q.parquet', question=[1, 2])
  with pytest.raises(ValueError, match=r'expected text in the column'):
    question_files.read_questions(numbers)
  silent = table(
    tmp_path / 'step_00000001.parquet',
    role=['proposer'],
    question=['a'],
    response=pa.array([None], pa.string()),
  )
  with pytest.raises(ValueError, match=r'text in the column "response"'):
    question_files.read_questions(silent)
  none = table(tmp_path / 'p.parquet', text=['a'])
  with pytest.raises(ValueError, match=r"with the columns \['question'\]"):
    question_files.read_questions(none)


def test_missing_and_empty_paths_are_refused(tmp_path):
  with pytest.raises(
    FileNotFoundError, match=r'task\.questions=.*no such file'
  ):
    question_files.read_questions(tmp_path / 'q.txt')
  (tmp_path / 'empty').mkdir()
  with pytest.raises(ValueError, match=r'expected at least one question'):
    question_files.read_questions(tmp_path / 'empty')
