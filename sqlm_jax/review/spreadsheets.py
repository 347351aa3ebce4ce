"""Verdicts, labels and votes as files that other programs write and read."""

import csv
import functools
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from etils import epath

from sqlm_jax.config import schema
from sqlm_jax.game import verdicts
from sqlm_jax.review import decisions, entries
from sqlm_jax.text import json_text
from sqlm_jax.workdir import reviews, run_reader, storage

_COLUMNS = (
  'id',
  'step',
  'index',
  'question',
  'vote',
  'agreement',
  'pick',
  'verdict',
  'answer',
)
_LABELS = 'labels'  # name of the reviewer of imported labels
# A spreadsheet interprets a cell that begins with one of these as a formula.
_FORMULA = ('=', '+', '-', '@', '\t', '\r')


def export_queue(
  workdir: epath.PathLike, config: schema.Config, path: str
) -> int:
  """Writes the votes that need a verdict as CSV; returns their number.

  If a spreadsheet would interpret a text as a formula, the text is written with
  a leading apostrophe.
  """
  _check_new(path)
  choices = decisions.queue(workdir, config, all_steps=True)
  with (
    storage.replacing(epath.Path(path)) as temporary,
    open(temporary, 'w', encoding='utf-8-sig', newline='') as file,
  ):
    writer = csv.writer(file)
    writer.writerow(_COLUMNS)
    for ballot, pick in choices:
      writer.writerow(
        [
          ballot.id,
          ballot.step,
          ballot.index,
          _harmless(ballot.question),
          _harmless(ballot.vote or ''),
          f'{ballot.agreement:.3f}',
          pick,
          '',
          '',
        ]
      )
  return len(choices)


def import_queue(
  workdir: epath.PathLike, config: schema.Config, path: str, reviewer: str
) -> int:
  """Appends the verdicts of a file of `export_queue`; returns their number.

  A row without a verdict is ignored; a row with an answer and no verdict is a
  correction. Nothing is appended if any row is invalid.

  Raises:
    ValueError: If a row is invalid; the message has its line.
  """

  @functools.cache  # many rows are about one step
  def read_questions(step: int) -> list[entries.Question]:
    return entries.read_questions(workdir, step, num_views=config.num_prompts)

  events = []
  for number, row in _read_csv(path, required=('id', 'step', 'index')):
    kind, answer = row.get('verdict', ''), row.get('answer', '')
    kind = kind or ('correct' if answer else '')
    if not kind:
      continue
    try:
      step = _number_of(row, 'step')
      ballot = decisions.match_ballot(
        read_questions(step),
        step=step,
        index=_number_of(row, 'index'),
        id=row['id'],
      )
      events.append(
        decisions.to_event(
          config,
          ballot,
          kind=kind,
          answer=answer.removeprefix("'"),
          reviewer=reviewer,
          pick=row.get('pick', ''),
        )
      )
    except ValueError as error:
      raise ValueError(f'{path}:{number}: {error}') from None
  reviews.append(workdir, events)
  return len(events)


def import_labels(
  workdir: epath.PathLike, config: schema.Config, path: str, reviewer: str
) -> int:
  """Appends known answers as corrections; returns their number.

  Args:
    workdir: Directory of the run.
    config: Config of the run.
    path: A .csv file with the columns question and answer, or a .jsonl file
      with these entries.
    reviewer: Name of the person who knows the answers, '' for 'labels'.

  Raises:
    ValueError: If a row is invalid; the message has its line.
  """
  is_csv = path.casefold().endswith('.csv')
  rows = (_read_csv if is_csv else _read_jsonl)(
    path, required=('question', 'answer')
  )
  events = []
  for number, row in rows:
    answer = row['answer'].strip()
    if not decisions.is_readable(config, answer):
      raise ValueError(
        f'{path}:{number}: answer={answer!r}: expected an answer of the kind '
        f'{config.task.answer_kind!r}'
      )
    events.append(
      {
        'time': reviews.now(),
        'reviewer': decisions.clean_name(reviewer) or _LABELS,
        'id': verdicts.question_id(row['question']),
        'question': row['question'],
        'verdict': 'correct',
        'answer': answer,
      }
    )
  reviews.append(workdir, events)
  return len(events)


def export_votes(
  workdir: epath.PathLike, config: schema.Config, path: str
) -> int:
  """Writes every question once, with its newest vote or its true answer.

  The lines {"question", "answer", "share", "reviewed", "step"} are labels for
  other programs. Refused questions, and questions that a reviewer has rejected
  or excluded, are left out.

  Returns:
    The number of questions.
  """
  _check_new(path)
  decided = verdicts.fold(run_reader.review_events(workdir))
  labels: dict[str, dict[str, Any]] = {}
  for step in run_reader.steps(workdir):
    for question in entries.read_questions(
      workdir, step, num_views=config.num_prompts
    ):
      ballot = question.ballot
      true = decided.true_answer(ballot.question)
      answer = true or ballot.vote
      is_refused = decided.refusal(ballot.question) or not ballot.is_open
      labels.pop(ballot.id, None)
      if answer is not None and not is_refused:
        labels[ballot.id] = {
          'question': ballot.question,
          'answer': answer,
          'share': ballot.share_of(answer),
          'reviewed': bool(true),
          'step': step,
        }
  text = ''.join(json_text.dumps(label) + '\n' for label in labels.values())
  storage.write_text(epath.Path(path), text)
  return len(labels)


def _number_of(row: Mapping[str, str], name: str) -> int:
  text = row[name]
  if not (text.isascii() and text.isdecimal()):
    raise ValueError(f'{name}={text!r}: expected a number')
  return int(text)


def _check_new(path: str) -> None:
  if epath.Path(path).exists():
    raise ValueError(f'{path}: expected a new file; this one exists')


def _harmless(text: str) -> str:
  return f"'{text}" if text.startswith(_FORMULA) else text


def _read_csv(
  path: str, *, required: Iterable[str]
) -> Iterator[tuple[int, dict[str, str]]]:
  """Yields rows of a CSV file with the numbers of their last lines."""
  # A byte order mark, which spreadsheets write, is not part of a name.
  with _opened(path, 'utf-8-sig') as file:
    reader = csv.DictReader(file)
    try:
      for row in reader:
        _check_entries(path, reader.line_num, row, required)
        yield reader.line_num, {k: v or '' for k, v in row.items() if k}
    except (csv.Error, UnicodeDecodeError) as error:
      raise ValueError(f'{path}: expected CSV in UTF-8 ({error})') from None


def _read_jsonl(
  path: str, *, required: Iterable[str]
) -> Iterator[tuple[int, dict[str, str]]]:
  """Yields rows of a JSONL file with the numbers of their lines."""
  with _opened(path, 'utf-8') as file:
    for number, line in enumerate(file, start=1):
      try:
        row = json.loads(line)
      except ValueError:
        row = None
      if not isinstance(row, dict):
        raise ValueError(f'{path}:{number}: expected a JSON object')
      row = {k: v if isinstance(v, str) else str(v) for k, v in row.items()}
      _check_entries(path, number, row, required)
      yield number, row


def _opened(path: str, encoding: str) -> Any:
  try:
    return open(path, encoding=encoding, newline='')
  except OSError as error:
    raise ValueError(
      f'{path}: expected a file that can be read ({error})'
    ) from None


def _check_entries(
  path: str, number: int, row: Mapping[str, Any], required: Iterable[str]
) -> None:
  missing = [name for name in required if not row.get(name)]
  if missing:
    raise ValueError(f'{path}:{number}: expected {" and ".join(missing)}')
