"""Reads questions from files, written by people or by an earlier proposer."""

import json
import re

import pyarrow as pa
from etils import epath
from pyarrow import parquet

_SURROGATE = re.compile('[\ud800-\udfff]')  # no tokenizer accepts it


def read_questions(
  path: epath.PathLike, key: str = 'task.questions'
) -> tuple[str, ...]:
  """Reads questions in order. Empty ones are dropped, repeated ones are kept.

  Args:
    path: a .txt file with one question per line, a .jsonl file of objects with
      a 'question', a .parquet file with a column 'question', or the workdir of
      a run or its rollouts/ directory, whose readable questions are read step
      by step.
    key: config key of the path, for error messages.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if a file has another format, with its name and line in the
      message, or if there are no questions.
  """
  path = epath.Path(path)
  if not path.exists():
    raise FileNotFoundError(f'{key}={str(path)!r}: no such file')
  if path.is_dir():
    inside = path / 'rollouts'
    directory = inside if inside.is_dir() else path
    # No glob, because the path itself may contain pattern characters.
    files = sorted(
      file
      for file in directory.iterdir()
      if re.fullmatch(r'step_.*\.parquet', file.name)
    )
    questions = [question for file in files for question in _asked(file)]
  else:
    readers = {'.txt': _lines, '.jsonl': _objects, '.parquet': _column}
    if path.suffix not in readers:
      raise ValueError(
        f'{key}={str(path)!r}: expected a workdir, or a file that '
        f'ends in {", ".join(readers)}'
      )
    questions = readers[path.suffix](path)
  questions = tuple(question for question in questions if question.strip())
  if not questions:
    raise ValueError(f'{key}={str(path)!r}: expected at least one question')
  return questions


def _lines(path: epath.Path) -> list[str]:
  content = path.read_bytes()
  try:
    # `splitlines` also splits at characters that a question may contain.
    # utf-8-sig drops a byte order mark.
    return content.decode('utf-8-sig').replace('\r\n', '\n').split('\n')
  except UnicodeDecodeError as error:
    number = error.object.count(b'\n', 0, error.start) + 1
    raise ValueError(f'{path}:{number}: expected UTF-8: {error}') from None


def _objects(path: epath.Path) -> list[str]:
  questions = []
  for number, line in enumerate(_lines(path), start=1):
    if not line.strip():
      continue
    try:
      question = json.loads(line)['question']
    except (ValueError, KeyError, TypeError, RecursionError):
      question = None
    if not isinstance(question, str) or _SURROGATE.search(question):
      raise ValueError(
        f'{path}:{number}: expected an object with the text "question", '
        f'found {line[:80]!r}'
      )
    questions.append(question)
  return questions


def _column(path: epath.Path) -> list[str]:
  if path.name.startswith('step_'):  # a rollout file; read each question once
    return _asked(path)
  return [row['question'] for row in _rows(path, ['question'])]


def _asked(path: epath.Path) -> list[str]:
  """Returns the proposer's readable questions in full, including tests."""
  rows = _rows(path, ['question', 'role', 'response'])
  return [row['response'] for row in rows if row['role'] == 'proposer']


def _rows(path: epath.Path, columns: list[str]) -> list[dict]:
  try:
    with path.open('rb') as file:
      rows = parquet.read_table(file, columns=columns).to_pylist()
  except (pa.ArrowException, UnicodeDecodeError) as error:
    raise ValueError(
      f'{path}: expected Parquet with the columns {columns}: {error}'
    ) from None
  rows = [row for row in rows if row.get('question') is not None]
  for name in columns:
    if not all(isinstance(row[name], str) for row in rows):
      raise ValueError(f'{path}: expected text in the column "{name}"')
  return rows
