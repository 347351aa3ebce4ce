"""Questions written beforehand, from real files."""

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


def test_lines(tmp_path):
  path = write(tmp_path / 'q.txt', '1 + 1\r\n\n  \n2 + 2 \x0b é\n1 + 1')
  # Unusual white space does not end a line; repeats stay.
  expected = ('1 + 1', '2 + 2 \x0b é', '1 + 1')
  assert question_files.read_questions(path) == expected


def test_objects(tmp_path):
  rows = [{'question': 'a\nb', 'id': 1}, {'question': ' '}, {'question': 'c'}]
  path = write(tmp_path / 'q.jsonl', '\n\n'.join(map(json.dumps, rows)))
  assert question_files.read_questions(path) == ('a\nb', 'c')


def test_a_column(tmp_path):
  path = table(
    tmp_path / 'q.parquet', question=['a', None, 'b'], more=[1, 2, 3]
  )
  assert question_files.read_questions(path) == ('a', 'b')


def test_a_run(tmp_path):
  for step, asked in ((10, 'later'), (2, 'sooner')):
    table(
      tmp_path / 'rollouts' / f'step_{step:08d}.parquet',
      role=['proposer', 'proposer', 'solver'],
      question=[asked, None, asked],
      response=[f' {asked}\n1 => 2\n', 'unreadable', '2'],
    )
  expected = (' sooner\n1 => 2\n', ' later\n1 => 2\n')
  assert question_files.read_questions(tmp_path) == expected
  (one, _) = sorted((tmp_path / 'rollouts').iterdir())
  assert question_files.read_questions(one) == expected[:1]
  assert question_files.read_questions(tmp_path / 'rollouts') == expected


def test_the_workdir_of_a_run_may_have_any_name(tmp_path):
  table = pa.table(
    {'question': ['1 + 2'], 'role': ['proposer'], 'response': ['1 + 2']}
  )
  rollouts = tmp_path / 'seeds=[0,1]*' / 'rollouts'
  rollouts.mkdir(parents=True)
  parquet.write_table(table, rollouts / 'step_00000000.parquet')
  assert question_files.read_questions(rollouts.parent) == ('1 + 2',)


def test_a_byte_order_mark_is_no_text(tmp_path):
  lines = write(tmp_path / 'q.txt', '\ufeff1 + 1\n')
  assert question_files.read_questions(lines) == ('1 + 1',)
  rows = write(tmp_path / 'q.jsonl', '\ufeff{"question": "1 + 1"}')
  assert question_files.read_questions(rows) == ('1 + 1',)


@pytest.mark.parametrize(
  'name, content, told',
  [
    ('q.csv', 'a', r"q\.csv': expected a workdir, or a file \.txt, \.jsonl"),
    ('q.txt', '\n \n', r"q\.txt': expected questions in it"),
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
def test_what_holds_no_questions_is_named(tmp_path, name, content, told):
  with pytest.raises(ValueError, match=told):
    question_files.read_questions(write(tmp_path / name, content))


def test_other_columns(tmp_path):
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


def test_nothing_there(tmp_path):
  with pytest.raises(
    FileNotFoundError, match=r'task\.questions=.*no such file'
  ):
    question_files.read_questions(tmp_path / 'q.txt')
  (tmp_path / 'empty').mkdir()
  with pytest.raises(ValueError, match=r'expected questions in it'):
    question_files.read_questions(tmp_path / 'empty')
