"""Files of examples in several layouts, with intact and with damaged rows."""

import json

import hypothesis
import pyarrow as pa
import pytest
from hypothesis import strategies as st
from pyarrow import parquet

from sqlm_jax.datasets import files
from sqlm_jax.game import types

CASES = (types.TestCase('1 2', '3'), types.TestCase('5 5', '10'))
TESTS = [{'input': c.input, 'output': c.output} for c in CASES]

# Rows of published datasets (without unused columns), and their examples.
OURS = {'question': '1 + 1', 'answer': '2'}
OMEGA = {
  'id': 'algebra_linear_equation_0',
  'setting_key': 'algebra_linear_equation',
  'messages': [{'role': 'user', 'content': 'Solve 2*x = 4 for x.'}],
  'ground_truth': '2',
  'dataset': 'omega',
}
PRIME = {
  'data_source': 'codeforces',
  'prompt': [
    {'role': 'system', 'content': 'Think.'},
    {'role': 'user', 'content': 'Add two numbers.'},
  ],
  'ability': 'code',
  'reward_model': {
    'style': 'rule',
    'ground_truth': json.dumps(
      {'inputs': ['1 2', '5 5'], 'outputs': ['3', '10']}
    ),
  },
  'extra_info': {'split': 'dummy', 'index': 0},
}
PRIME_MATHS = PRIME | {
  'data_source': 'numina_olympiads',
  'ability': 'math',
  'reward_model': {'style': 'rule', 'ground_truth': r'\frac{1}{2}'},
}
CODEFORCES = {
  'id': '1/A',
  'title': 'Sum',
  'description': 'Add two numbers.',
  'input_format': 'Two numbers.',
  'output_format': 'One number.',
  'interaction_format': None,
  'note': None,
  'examples': TESTS[:1],
  'official_tests': TESTS,
  'input_mode': 'stdio',
  'generated_checker': None,
}
VERIFIABLE = {
  'source': 'apps',
  'task_type': 'verifiable_code',
  'prompt': 'Add two numbers.',
  'gold_standard_solution': '```python\nprint(3)\nprint(10)\n```',
  'verification_info': {
    'language': 'python',
    'test_cases': [
      t | {'type': 'stdin_stdout', 'fn_name': None} for t in TESTS
    ],
  },
}
READ = [
  (OURS, types.Example('1 + 1', '2')),
  (
    {'question': 'Add.', 'tests': [list(case) for case in CASES]},
    types.Example('Add.', tests=CASES),
  ),
  (OMEGA, types.Example('Solve 2*x = 4 for x.', '2')),
  (PRIME, types.Example('Add two numbers.', tests=CASES)),
  (PRIME_MATHS, types.Example('Add two numbers.', r'\frac{1}{2}')),
  (
    CODEFORCES,
    types.Example(
      'Add two numbers.\n\nInput\nTwo numbers.\n\nOutput\nOne number.\n\n'
      'Example input\n1 2\nExample output\n3',
      tests=CASES,
    ),
  ),
  (
    VERIFIABLE,
    types.Example(
      'Add two numbers.',
      tests=CASES,
      solution='print(3)\nprint(10)',
    ),
  ),
]


def write(path, rows):
  if path.suffix == '.parquet':
    parquet.write_table(pa.Table.from_pylist(rows), path)
  elif path.suffix == '.json':
    path.write_text(json.dumps(rows))
  else:
    path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  return path


@pytest.mark.parametrize('suffix', files.SUFFIXES)
@pytest.mark.parametrize('row, expected', READ)
def test_layouts(suffix, row, expected, tmp_path):
  path = write(tmp_path / f'rows{suffix}', [row, row])
  assert files.read_examples(path) == (expected, expected)


def damaged_prime(**changes):
  return PRIME | {'reward_model': {'style': 'rule'} | changes}


DAMAGED = [
  (OURS, {'question': '2 + 2', 'answer': None}, 'an answer or tests'),
  (OURS, {'question': '  ', 'answer': '4'}, 'expected a question'),
  (OURS, {'question': 7, 'answer': '4'}, "expected text, found '7'"),
  (OURS, {'answer': '4'}, "'question' is missing"),
  (OMEGA, OMEGA | {'messages': []}, 'a message with the role "user"'),
  (OMEGA, OMEGA | {'ground_truth': None}, "expected text, found 'None'"),
  (PRIME, damaged_prime(ground_truth='{"inputs": ['), 'Expecting value'),
  (
    PRIME,
    damaged_prime(ground_truth='{"inputs": ["1"]}'),
    "'outputs' is missing",
  ),
  (
    PRIME,
    damaged_prime(ground_truth='{"inputs": ["1", "2"], "outputs": ["1"]}'),
    'shorter',
  ),
  (
    PRIME,
    damaged_prime(
      ground_truth='{"fn_name": "f", "inputs": [1], "outputs": [1]}'
    ),
    'found tests of a function',
  ),
  (
    CODEFORCES,
    CODEFORCES | {'generated_checker': 'def check(): ...'},
    'its own checker',
  ),
  (CODEFORCES, CODEFORCES | {'input_mode': 'file'}, 'standard input'),
  (
    CODEFORCES,
    CODEFORCES | {'interaction_format': 'Print ? and read.'},
    'without interaction',
  ),
  (
    CODEFORCES,
    CODEFORCES | {'official_tests': [{'input': '1', 'output': None}]},
    "expected text, found 'None'",
  ),
  (VERIFIABLE, VERIFIABLE | {'verification_info': None}, 'subscriptable'),
  (PRIME, damaged_prime(ground_truth='[1]'), "no attribute 'get'"),
  (PRIME, damaged_prime(ground_truth='1'), "no attribute 'get'"),
]


@pytest.mark.parametrize(
  'suffix, good, bad, message',
  [
    (suffix, *case)
    for suffix in files.SUFFIXES
    for case in DAMAGED
    # In Parquet, a column has one type and a value in every row.
    if suffix != '.parquet' or "expected text, found '7'" not in case[2]
    if suffix != '.parquet' or case[2] != "'question' is missing"
  ],
)
def test_damaged_rows_are_reported_and_skipped(
  suffix, good, bad, message, tmp_path, caplog
):
  path = write(tmp_path / f'rows{suffix}', [good, bad, good])
  assert len(files.read_examples(path)) == 2
  (record,) = caplog.records
  assert f'{path}:2: ' in record.getMessage()
  assert message in record.getMessage()


@pytest.mark.parametrize(
  'row, message',
  [
    ('{"question": "a", "answer": NaN}', 'a finite answer, found nan'),
    ('{"question": "a", "answer": -Infinity}', 'a finite answer, found -inf'),
    (
      '{"question": "a", "tests": ["ab"]}',
      "an input and an output, found 'ab'",
    ),
  ],
)
def test_invalid_values_in_valid_json(tmp_path, row, message):
  path = tmp_path / 'rows.jsonl'
  path.write_text(row)
  with pytest.raises(ValueError, match=f'jsonl:1: expected {message}'):
    files.read_examples(path)


def test_directories_are_refused(tmp_path):
  (tmp_path / 'rows.jsonl').mkdir()
  with pytest.raises(ValueError, match='expected a file'):
    files.read_examples(tmp_path / 'rows.jsonl')


def test_invalid_json_and_utf8_lines(tmp_path, caplog):
  good = json.dumps(OURS).encode()
  lines = [good, b'{"question": ', b'\xff\xfe', b'[]', b'7', b'', good]
  path = tmp_path / 'rows.jsonl'
  path.write_bytes(b'\xef\xbb\xbf' + b'\r\n'.join(lines))
  assert files.read_examples(path) == (types.Example('1 + 1', '2'),) * 2
  messages = [record.getMessage() for record in caplog.records]
  assert [message.split(':')[2] for message in messages] == ['2', '3', '4', '5']


def test_lone_surrogates_are_damage(tmp_path, caplog):
  path = tmp_path / 'rows.jsonl'
  path.write_text('{"question": "\\ud800", "answer": "1"}\n' + json.dumps(OURS))
  assert len(files.read_examples(path)) == 1
  assert f'{path}:1: ' in caplog.text


def test_many_damaged_rows_are_counted(tmp_path, caplog):
  path = write(tmp_path / 'rows.jsonl', [OURS, *[{'question': ''}] * 20])
  assert len(files.read_examples(path)) == 1
  assert len(caplog.records) == 6
  assert 'skipped 20 damaged rows, read 1 rows' in caplog.text


def test_ten_tests_are_kept_per_program(tmp_path):
  tests = [[str(i), str(i)] for i in range(30)]
  path = write(tmp_path / 'rows.jsonl', [{'question': 'Echo.', 'tests': tests}])
  (example,) = files.read_examples(path)
  assert example.tests == tuple(types.TestCase(*case) for case in tests[:10])


@pytest.mark.parametrize(
  'name, content, message',
  [
    ('rows.jsonl', b'', 'found no rows'),
    ('rows.jsonl', b'{"prompt": "hi"}\n', 'unknown columns prompt'),
    ('rows.json', b'{"question": "a"}', 'expected a list'),
    ('rows.json', b'[', 'expected JSON in UTF-8'),
    ('rows.parquet', b'PAR1 not', 'expected Parquet'),
    ('rows.csv', b'a,b', r'expected a file that ends in \.json, \.jsonl, \.p'),
  ],
)
def test_unreadable_files_are_refused(name, content, message, tmp_path):
  path = tmp_path / name
  path.write_bytes(content)
  with pytest.raises(ValueError, match=message) as error:
    files.read_examples(path)
  assert str(path) in str(error.value)


def test_rows_after_a_damaged_row_group_are_read(tmp_path, caplog):
  """The file has groups of four rows, the second of which is damaged."""
  rows = [CODEFORCES | {'description': f'Problem {i}.'} for i in range(12)]
  path = tmp_path / 'rows.parquet'
  parquet.write_table(pa.Table.from_pylist(rows), path, row_group_size=4)
  column = parquet.ParquetFile(path).metadata.row_group(1).column(2)
  assert column.path_in_schema == 'description'
  first = column.dictionary_page_offset
  content = bytearray(path.read_bytes())
  content[first : first + column.total_compressed_size] = (
    b'\xff' * column.total_compressed_size
  )
  path.write_bytes(content)
  questions = [
    example.question.split('.')[0] for example in files.read_examples(path)
  ]
  assert questions == [f'Problem {i}' for i in (0, 1, 2, 3, 8, 9, 10, 11)]
  (record,) = caplog.records
  assert f'{path}:5-8: rows that cannot be read' in record.getMessage()


@pytest.mark.parametrize('suffix', ['.parquet', '.jsonl'])
def test_truncated_files(suffix, tmp_path, caplog):
  """Truncated JSON lines lose one row; truncated Parquet has no footer."""
  path = write(tmp_path / f'rows{suffix}', [CODEFORCES] * 3)
  path.write_bytes(path.read_bytes()[:-20])
  if suffix == '.jsonl':
    assert len(files.read_examples(path)) == 2
    assert f'{path}:3: expected JSON' in caplog.text
    return
  with pytest.raises(ValueError, match='expected Parquet') as error:
    files.read_examples(path)
  assert str(path) in str(error.value)


@pytest.mark.parametrize(
  'changes',
  [
    {'verification_info': {'test_cases': ['1']}},
    {'gold_standard_solution': 5},
  ],
)
def test_rows_with_values_of_wrong_types(changes, tmp_path, caplog):
  path = write(tmp_path / 'rows.jsonl', [VERIFIABLE | changes, VERIFIABLE])
  assert len(files.read_examples(path)) == 1
  assert f'{path}:1: ' in caplog.text


def test_missing_file(tmp_path):
  with pytest.raises(FileNotFoundError, match=r'none\.jsonl: no such file'):
    files.read_examples(tmp_path / 'none.jsonl')


VALUES = st.recursive(
  st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=6)
  ),
  lambda inner: st.one_of(
    st.lists(inner, max_size=3),
    st.dictionaries(
      st.sampled_from(['role', 'content', 'input', 'output', 'test_cases']),
      inner,
      max_size=3,
    ),
  ),
  max_leaves=8,
)
NAMES = sorted({name for layout in files.LAYOUTS for name in layout.columns})


@hypothesis.given(row=st.dictionaries(st.sampled_from(NAMES), VALUES))
@hypothesis.settings(
  max_examples=40,
  suppress_health_check=[
    hypothesis.HealthCheck.function_scoped_fixture,
    hypothesis.HealthCheck.too_slow,
  ],
)
def test_any_row_is_read_or_refused(row, tmp_path):
  path = tmp_path / 'rows.jsonl'
  path.write_text(json.dumps(row) + '\n')
  try:
    examples = files.read_examples(path)
  except ValueError:
    examples = ()
  for example in examples:
    assert example.question.strip()
    assert example.answer.strip() or example.tests
