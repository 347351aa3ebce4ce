"""What an evaluation leaves in a workdir, and how it goes on from there.

  evaluations/00000012-test-4f1c09ab/
    settings.json    what was asked, of whom, how: the name ends in its hash
    lock             held by the process that asks
    answers.jsonl    a line a question: responses, answers, which are right
    result.json      the figures, when all is answered
    ...              the same for people, as Markdown and plots

An evaluation with the same settings is the same evaluation: what is answered
already is not asked again.
"""

import contextlib
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath

from sqlm_jax import json_text
from sqlm_jax.workdir import storage, writers

Row = dict[str, Any]


class Files(NamedTuple):
  """An evaluation's directory.

  Attributes:
    directory: where it is, None keeps nothing.
    settings: what was asked, of whom, how.
    rows: a question each, those that were answered before.
  """

  directory: epath.Path | None
  settings: Mapping[str, Any]
  rows: list[Row]


def find(workdir: epath.PathLike | None, settings: Mapping[str, Any]) -> Files:
  """What there is of an evaluation; writes nothing.

  Args:
    workdir: of the run, None to keep nothing.
    settings: with 'step' and 'set'; what JSON can hold.

  Raises:
    ValueError: if the answers are damaged.
  """
  if workdir is None:
    return Files(None, settings, [])
  text = json.dumps(settings, sort_keys=True)
  digest = hashlib.sha256(text.encode()).hexdigest()[:8]
  name = re.sub(r'[^\w.-]+', '_', settings['set']).strip('_')[-60:]
  directory = epath.Path(workdir) / 'evaluations'
  directory /= f'{settings["step"]:08d}-{name}-{digest}'
  path = directory / 'answers.jsonl'
  rows = writers.read_jsonl(path) if path.exists() else []
  if [row.get('index') for row in rows] != list(range(len(rows))):
    raise ValueError(
      f'{path}: expected one line a question, in order; remove '
      f'{directory.name} to begin anew'
    )
  return Files(directory, settings, rows)


def start(files: Files, stack: contextlib.ExitStack) -> None:
  """Makes the directory, locked until `stack` ends; a cut line goes.

  Raises:
    RuntimeError: if another process asks the same.
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
  """Adds the answers to some more questions."""
  files.rows.extend(rows)
  if files.directory is not None:
    text = ''.join(json_text.dumps(row) + '\n' for row in rows)
    storage.append(files.directory / 'answers.jsonl', text)


def forget_after(workdir: epath.PathLike, step: int) -> None:
  """Removes evaluations of weights that have seen more than `step` steps."""
  directory = epath.Path(workdir) / 'evaluations'
  for path in storage.entries(directory, r'\d{8,}-.*'):
    if int(path.name.partition('-')[0]) > step:
      path.rmtree()
