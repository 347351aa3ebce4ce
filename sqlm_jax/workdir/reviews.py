"""Writes and reads reviews.jsonl, which contains the verdicts of people.

Every line is one event and is never changed:

  {"time": "2026-12-01T09:30:00Z", "reviewer": "ann", "step": 12,
   "question": "7 + 8", "id": "0f3a...", "vote": "14", "verdict": "correct",
   "answer": "15", "pick": "uncertain"}

  reviews.jsonl         the events; pages, imports and the simulated reviewer
                        append to it
  reviews.jsonl.lock    a lock that is held while an event is appended
  reviews_read.jsonl    how many lines of reviews.jsonl a step of training had
                        read: {"step": 12, "lines": 7}

A killed process may leave an incomplete last line, which is never an event. The
next writer ends it with a line break before it appends its own lines, so that
the number of a line never changes.
"""

import datetime
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import filelock
from etils import epath

from sqlm_jax.text import json_text
from sqlm_jax.workdir import jsonl, storage

NAME = 'reviews.jsonl'
Event = dict[str, Any]

_READ_NAME = 'reviews_read.jsonl'
_LOCK_SECONDS = 30


def now() -> str:
  """Returns the current time in UTC, as it is stored in an event."""
  time = datetime.datetime.now(datetime.UTC)
  return time.isoformat(timespec='milliseconds').replace('+00:00', 'Z')


def append(
  workdir: epath.PathLike, events: Sequence[Mapping[str, Any]]
) -> None:
  """Appends events; they are on disk when this returns.

  Several processes may append at the same time.

  Raises:
    ValueError: If the workdir is in a bucket, where appending is not safe.
    OSError: If the file cannot be written or its lock is not released.
  """
  if not events:
    return
  path = epath.Path(workdir) / NAME
  if storage.is_remote(path):
    raise ValueError(
      f'{path}: expected a local directory, because two writers could '
      'overwrite the verdicts of each other in a bucket. Copy the run first.'
    )
  text = ''.join(
    json_text.dumps(dict(event), allow_nan=False) + '\n' for event in events
  )
  with _locked(path):
    storage.append(path, _line_break(path) + text)


def read(
  workdir: epath.PathLike, num_lines: int | None = None
) -> list[Event | None]:
  """Reads one entry for each complete line, None for a damaged line.

  Args:
    workdir: Directory of the run.
    num_lines: Number of lines to read; by default, all complete lines.
  """
  path = epath.Path(workdir) / NAME
  if not path.exists():
    return []
  lines = path.read_bytes().split(b'\n')[:-1]
  return [_parse(line) for line in lines[:num_lines]]


def read_counts(workdir: epath.PathLike) -> list[tuple[int, int]]:
  """Returns pairs of a step and the number of lines it had read, in order.

  A step without a pair had read as many lines as the step before it.
  """
  path = epath.Path(workdir) / _READ_NAME
  if not path.exists():
    return []
  return [(row['step'], row['lines']) for row in jsonl.read(path)]


def append_count(workdir: epath.PathLike, step: int, lines: int) -> None:
  """Records that a step has read a number of lines of reviews.jsonl."""
  path = epath.Path(workdir) / _READ_NAME
  if path.exists() and not path.read_bytes().endswith(b'\n'):
    # Removes an incomplete last line, whose step has not begun.
    jsonl.rewrite(path, jsonl.read(path))
  jsonl.append(path, [{'step': step, 'lines': lines}])


def _locked(path: epath.Path) -> filelock.BaseFileLock:
  return filelock.FileLock(f'{os.fspath(path)}.lock', timeout=_LOCK_SECONDS)


def _line_break(path: epath.Path) -> str:
  """Returns what ends an incomplete last line, '' if there is none."""
  if not path.exists() or not path.stat().length:
    return ''
  with path.open('rb') as file:
    file.seek(-1, os.SEEK_END)
    return '' if file.read(1) == b'\n' else '\n'


def _parse(line: bytes) -> Event | None:
  try:
    event = json.loads(line.decode())
  except ValueError:
    return None
  return event if isinstance(event, dict) else None
