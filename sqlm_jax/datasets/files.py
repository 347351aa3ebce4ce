"""Reads files of labeled questions, in our layout and in published ones.

A layout is recognized by its columns:

  ours           question, and answer or tests
  OMEGA          messages, ground_truth
  PRIME          prompt, reward_model (Eurus-2 data: mathematics and programs)
  open-r1        description, official_tests (codeforces)
  open-r1        prompt, verification_info (verifiable coding problems)

A damaged row is reported with its file and row number and is left out. If a
page of a Parquet file is damaged, all later rows of its row group are left out.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import pyarrow as pa
from absl import logging
from etils import epath
from pyarrow import parquet

from sqlm_jax.game import types
from sqlm_jax.text import code_blocks

SUFFIXES = ('.json', '.jsonl', '.parquet')
_MAX_TESTS = 10  # tests per program, as in the paper's code
_MAX_REPORTS = 5

# Errors that are raised when a row does not have the expected structure.
DAMAGE = (AttributeError, KeyError, RecursionError, TypeError, ValueError)

Row = Mapping[str, Any]


class Layout(NamedTuple):
  """The layout of a file.

  Attributes:
    name: name for error messages.
    columns: columns by which the layout is recognized.
    read: a function that converts a row to an example. It raises one of the
      errors in `DAMAGE` if the row is damaged.
  """

  name: str
  columns: frozenset[str]
  read: Callable[[Row], types.Example]


def read_examples(path: epath.PathLike) -> tuple[types.Example, ...]:
  """Reads the examples of a file, in order.

  Args:
    path: a .jsonl file with one object per line, a .json file with a list of
      objects, or a .parquet file.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if the file has another suffix or layout, or if none of its rows
      can be read.
  """
  path = epath.Path(path)
  if not path.exists():
    raise FileNotFoundError(f'{path}: no such file')
  readers = {'.jsonl': _lines, '.json': _list, '.parquet': _table}
  if path.suffix not in readers or path.is_dir():
    raise ValueError(
      f'{path}: expected a file that ends in {", ".join(SUFFIXES)}'
    )
  examples, damaged, columns, layout = [], [], set(), None
  for number, row in readers[path.suffix](path):
    try:
      if isinstance(row, Exception):
        raise row
      if not isinstance(row, Mapping):
        raise TypeError('expected an object')
      columns |= row.keys()
      # Recognized once per file, because rows may leave out empty columns.
      layout = layout or _recognize(row)
      if layout is None:
        raise ValueError(f'unknown columns {", ".join(map(str, row))}')
      examples.append(_check(layout.read(row)))
    except DAMAGE as error:
      reason = f'{error} is missing' if isinstance(error, KeyError) else error
      damaged.append(f'{path}:{number}: {reason}')
  for report in damaged[:_MAX_REPORTS]:
    logging.warning('Skipping a damaged row: %s', report)
  if len(damaged) > _MAX_REPORTS:
    logging.warning(
      '%s: skipped %d damaged rows, read %d rows',
      path,
      len(damaged),
      len(examples),
    )
  if not examples:
    layouts = '; '.join(
      f'{x.name}: {", ".join(sorted(x.columns))}' for x in LAYOUTS
    )
    raise ValueError(
      f'{path}: expected rows in one of the layouts ({layouts}), found '
      f'{damaged[0] if damaged else "no rows"}'
    )
  return tuple(examples)


def _recognize(row: Row) -> Layout | None:
  return next((x for x in LAYOUTS if x.columns <= row.keys()), None)


def _check(example: types.Example) -> types.Example:
  """Checks that all fields are text, and that the example can be graded.

  Raises:
    TypeError: if a field is not text.
    ValueError: if a text is not valid Unicode, the question is empty, or there
      is neither an answer nor a test.
  """
  pairs = [text for case in example.tests for text in case]
  for text in (example.question, example.answer, example.solution, *pairs):
    if not isinstance(text, str):
      raise TypeError(f'expected text, found {str(text)[:60]!r}')
    text.encode()  # raises for an unpaired surrogate
  if not example.question.strip():
    raise ValueError('expected a question')
  if not (example.answer.strip() or example.tests):
    raise ValueError('expected an answer or tests')
  return example


def _ours(row: Row) -> types.Example:
  tests = row.get('tests') or ()
  answer = row.get('answer')
  if isinstance(answer, int | float) and not isinstance(answer, bool):
    if not math.isfinite(answer):
      raise ValueError(f'expected a finite answer, found {answer}')
    answer = str(answer)
  return types.Example(
    row['question'],
    '' if answer is None else answer,
    _cases(tests),
    row.get('solution') or '',
  )


def _omega(row: Row) -> types.Example:
  return types.Example(_asked(row['messages']), row['ground_truth'])


def _prime(row: Row) -> types.Example:
  truth = row['reward_model']['ground_truth']
  question = _asked(row['prompt'])
  if row.get('ability') != 'code':
    return types.Example(question, truth)
  table = json.loads(truth)
  if table.get('fn_name'):
    raise ValueError('expected tests of a program, found tests of a function')
  pairs = zip(table['inputs'], table['outputs'], strict=True)
  return types.Example(question, tests=_cases(list(pairs)))


def _codeforces(row: Row) -> types.Example:
  if row.get('generated_checker'):
    raise ValueError(
      'several outputs are right, so the problem needs its own checker'
    )
  if row.get('input_mode') == 'file':
    raise ValueError('expected standard input, found files')
  if row.get('interaction_format'):
    raise ValueError('expected a problem without interaction')
  parts = [row['description']]
  for title, name in (
    ('Input', 'input_format'),
    ('Output', 'output_format'),
    ('Note', 'note'),
  ):
    if row.get(name):
      parts.append(f'{title}\n{row[name]}')
  for example in row.get('examples') or ():
    parts.append(
      f'Example input\n{example["input"]}\nExample output\n{example["output"]}'
    )
  tests = row['official_tests'] or row.get('examples') or ()
  return types.Example('\n\n'.join(parts), tests=_cases(tests))


def _verifiable(row: Row) -> types.Example:
  info = row['verification_info']
  cases = info['test_cases']
  if any(case.get('fn_name') for case in cases):
    raise ValueError('expected tests of a program, found tests of a function')
  return types.Example(
    row['prompt'],
    tests=_cases(cases),
    solution=code_blocks.find('', row.get('gold_standard_solution') or '')
    or '',
  )


def _asked(messages: Iterable[Row]) -> str:
  """Returns the content of the last message of the user."""
  asked = [x['content'] for x in messages if x['role'] == 'user']
  if not asked:
    raise ValueError('expected a message with the role "user"')
  return asked[-1]


def _cases(tests: Iterable[Any]) -> tuple[types.TestCase, ...]:
  """Converts the first tests, which are pairs or objects, to test cases."""
  cases = []
  for test in tests:
    if isinstance(test, Mapping):
      test = (test['input'], test['output'])
    elif isinstance(test, str):
      raise TypeError(f'expected an input and an output, found {test[:60]!r}')
    given, expected = test
    cases.append(types.TestCase(given, expected))
  return tuple(cases[:_MAX_TESTS])


LAYOUTS = (
  Layout('ours', frozenset({'question', 'answer'}), _ours),
  Layout('ours', frozenset({'question', 'tests'}), _ours),
  Layout('OMEGA', frozenset({'messages', 'ground_truth'}), _omega),
  Layout('PRIME', frozenset({'prompt', 'reward_model'}), _prime),
  Layout(
    'open-r1 codeforces',
    frozenset({'description', 'official_tests'}),
    _codeforces,
  ),
  Layout(
    'open-r1 verifiable',
    frozenset({'prompt', 'verification_info'}),
    _verifiable,
  ),
)


def _lines(path: epath.Path) -> Iterator[tuple[int, Any]]:
  content = path.read_bytes().removeprefix(b'\xef\xbb\xbf')
  for number, line in enumerate(content.split(b'\n'), start=1):
    if not line.strip():
      continue
    try:
      yield number, json.loads(line.decode())
    except (ValueError, RecursionError) as error:
      yield number, ValueError(f'expected JSON in UTF-8: {error}')


def _list(path: epath.Path) -> Iterator[tuple[int, Any]]:
  try:
    rows = json.loads(path.read_bytes().decode('utf-8-sig'))
  except (ValueError, RecursionError) as error:
    raise ValueError(f'{path}: expected JSON in UTF-8: {error}') from None
  if not isinstance(rows, list):
    raise ValueError(f'{path}: expected a list of objects')
  yield from enumerate(rows, start=1)


def _table(path: epath.Path) -> Iterator[tuple[int | str, Any]]:
  with path.open('rb') as file:
    try:
      table = parquet.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
      raise ValueError(f'{path}: expected Parquet: {error}') from None
    end = 0
    for group in range(table.num_row_groups):
      number, end = end, end + table.metadata.row_group(group).num_rows
      try:
        # In batches, because tests of a few thousand problems are gigabytes.
        for batch in table.iter_batches(64, row_groups=[group]):
          for i in range(batch.num_rows):
            number += 1
            yield number, _row(batch, i)
      except (pa.ArrowException, OSError) as error:
        # A damaged page also loses all later rows of its row group.
        rows = f'{number + 1}-{end}'
        yield rows, ValueError(f'rows that cannot be read, {error}')


def _row(batch: pa.RecordBatch, i: int) -> Any:
  try:
    return batch.slice(i, 1).to_pylist()[0]
  except (ValueError, pa.ArrowException) as error:  # text is not UTF-8
    return ValueError(str(error))
