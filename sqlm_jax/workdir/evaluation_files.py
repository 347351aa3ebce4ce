"""Reads and writes the files of an evaluation in a workdir.

  evaluations/00000012-test-4f1c09ab/
    settings.json    the settings, whose hash ends the directory's name
    lock             a lock that is held by the evaluating process
    answers.jsonl    one line per question: responses, answers, correctness
    result.json      the figures, written when all questions are answered
    ...              the figures as Markdown and plots

Evaluations with the same settings share a directory, so an interrupted
evaluation continues with the questions that are not answered yet.
"""

import contextlib
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath

from sqlm_jax.text import json_text
from sqlm_jax.workdir import run_writer, storage

Row = dict[str, Any]


class Files(NamedTuple):
  """The directory of an evaluation, and its contents.

  Attributes:
    directory: Path of the directory, None if nothing is stored.
    settings: Settings of the evaluation.
    rows: One row for each question that has been answered.
  """

  directory: epath.Path | None
  settings: Mapping[str, Any]
  rows: list[Row]


def find(workdir: epath.PathLike | None, settings: Mapping[str, Any]) -> Files:
  """Finds the directory and rows of an evaluation, without writing anything.

  Args:
    workdir: Directory of the run, None to store nothing.
    settings: JSON-serializable settings, including 'step' and 'set'.

  Raises:
    ValueError: If the file of answers is damaged.
  """
  if workdir is None:
    return Files(None, settings, [])
  text = json.dumps(settings, sort_keys=True)
  digest = hashlib.sha256(text.encode()).hexdigest()[:8]
  name = re.sub(r'[^\w.-]+', '_', settings['set']).strip('_')[-60:]
  directory = epath.Path(workdir) / 'evaluations'
  directory /= f'{settings["step"]:08d}-{name}-{digest}'
  path = directory / 'answers.jsonl'
  rows = run_writer.read_jsonl(path) if path.exists() else []
  if [row.get('index') for row in rows] != list(range(len(rows))):
    raise ValueError(
      f'{path}: expected one line a question, in order; remove '
      f'{directory.name} to begin anew'
    )
  return Files(directory, settings, rows)


def start(files: Files, stack: contextlib.ExitStack) -> None:
  """Creates the directory and locks it until `stack` is closed.

  The file of answers is rewritten, which removes an incomplete last line.

  Raises:
    RuntimeError: If another process is running the same evaluation.
  """
  if files.directory is None:
    return
  stack.enter_context(storage.locked(files.directory))
  storage.write_text(
    files.directory / 'settings.json',
    json_text.dumps(files.settings, indent=2) + '\n',
  )
  text = ''.join(json_text.dumps(row) + '\n' for row in files.rows)
  storage.write_text(files.directory / 'answers.jsonl', text)


def append(files: Files, rows: Sequence[Row]) -> None:
  """Adds rows of newly answered questions."""
  files.rows.extend(rows)
  if files.directory is not None:
    text = ''.join(json_text.dumps(row) + '\n' for row in rows)
    storage.append(files.directory / 'answers.jsonl', text)


def forget_after(workdir: epath.PathLike, step: int) -> None:
  """Removes evaluations after more than `step` steps of training."""
  directory = epath.Path(workdir) / 'evaluations'
  for path in storage.entries(directory, r'\d{8,}-.*'):
    if int(path.name.partition('-')[0]) > step:
      path.rmtree()
