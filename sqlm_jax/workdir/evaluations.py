"""Writes and reads the evaluations of a run.

  eval.jsonl         one line per evaluation: its result, as a dict with 'step',
                     'task', 'set', 'settings', the figures by name, and
                     'intervals' with the ends of each figure's interval
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
from sqlm_jax.workdir import config_json, jsonl, storage

Result = Mapping[str, Any]  # a line of eval.jsonl
Row = dict[str, Any]  # a line of answers.jsonl


def append_result(workdir: epath.PathLike, result: Result) -> None:
  """Appends the result of an evaluation to eval.jsonl.

  Raises:
    ValueError: If the result has no integer 'step', the number of self-play
      steps that the model was trained for.
  """
  check_result(result)
  path = _results_path(workdir)
  if path.exists() and not path.read_bytes().endswith(b'\n'):
    # Removes an incomplete last line before another line is appended.
    jsonl.rewrite(path, jsonl.read(path))
  jsonl.append(path, [result])


def check_result(result: Result) -> None:
  if not isinstance(result.get('step'), int):
    raise ValueError(f'result={dict(result)!r}: expected an integer "step"')


def read_results(workdir: epath.PathLike) -> list[dict[str, Any]]:
  """Returns the results in eval.jsonl, oldest first."""
  path = _results_path(workdir)
  return jsonl.read(path) if path.exists() else []


def find_result(
  workdir: epath.PathLike, settings: Mapping[str, Any]
) -> dict[str, Any] | None:
  """Returns the first result in eval.jsonl with these settings, or None."""
  settings = config_json.as_stored(settings)
  for result in read_results(workdir):
    if result.get('settings') == settings:
      return result
  return None


def to_metrics(result: Result) -> dict[str, float]:
  """Returns the figures of an evaluation by metric name."""
  prefix = f'eval/{result.get("task")}/{result.get("set")}'
  return {f'{prefix}/{name}': result[name] for name in figure_names(result)}


def format_accuracies(result: Result) -> str:
  """Formats the greedy accuracy and mean@k of an evaluation as text."""
  shown = [
    f'{result[name]:.1%} {name}'
    for name in figure_names(result)
    if name == 'greedy' or name.startswith('mean@')
  ]
  return ', '.join(shown)


def figure_names(result: Result) -> list[str]:
  """Returns the names of the figures, which are the entries with intervals."""
  return list(result.get('intervals', ()))


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


def find_files(
  workdir: epath.PathLike | None, settings: Mapping[str, Any]
) -> Files:
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
  rows = jsonl.read(path) if path.exists() else []
  if [row.get('index') for row in rows] != list(range(len(rows))):
    raise ValueError(
      f'{path}: expected one line per question, in order. Remove the directory '
      f'{directory.name} to repeat the evaluation from the beginning.'
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
  jsonl.rewrite(files.directory / 'answers.jsonl', files.rows)


def append_answers(files: Files, rows: Sequence[Row]) -> None:
  """Adds rows of newly answered questions."""
  files.rows.extend(rows)
  if files.directory is not None:
    jsonl.append(files.directory / 'answers.jsonl', rows)


def rewind(workdir: epath.PathLike, step: int) -> None:
  """Removes evaluations of models trained for more than `step` steps."""
  path = _results_path(workdir)
  if path.exists():
    results = jsonl.read(path)
    jsonl.rewrite(path, (row for row in results if row['step'] <= step))
  directory = epath.Path(workdir) / 'evaluations'
  for path in storage.entries(directory, r'\d{8,}-.*'):
    if int(path.name.partition('-')[0]) > step:
      path.rmtree()


def _results_path(workdir: epath.PathLike) -> epath.Path:
  return epath.Path(workdir) / 'eval.jsonl'
