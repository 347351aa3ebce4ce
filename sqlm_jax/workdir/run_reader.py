"""Reads the files of a run that is training or has ended, or of a copy.

This module never writes. While a run is training, its files are complete except
for the last line of a JSONL file, which is then ignored. A long run has many
rows, so `rollouts` reads only the requested steps, columns and rows.
Figures of steps are read from metrics.jsonl.
"""

import bisect
import contextlib
import functools
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from etils import epath
from pyarrow import parquet

from sqlm_jax.workdir import config_json, reviews, storage
from sqlm_jax.workdir import evaluations as evaluation_files
from sqlm_jax.workdir import rollouts as rollouts_lib

Row = dict[str, Any]

# A file that lacks a column, because an earlier version wrote it, has nulls.
_SCHEMA = pa.schema(
  [field.with_nullable(True) for field in rollouts_lib.SCHEMA]
)


def config(workdir: epath.PathLike) -> dict[str, Any]:
  """Returns the config of a run as nested dicts.

  Raises:
    ValueError: If the directory has no run, or its config.json is damaged.
  """
  path = _file(workdir, 'config.json')
  stored = config_json.read(workdir)
  if stored is None:
    raise ValueError(f'{path.parent}: expected a directory with a run')
  return stored


def metrics(workdir: epath.PathLike) -> list[Row]:
  """Returns the metrics of each step, by name, oldest first."""
  return _lines(workdir, 'metrics.jsonl')


def evaluations(workdir: epath.PathLike) -> list[Row]:
  """Returns the results of the evaluations, see `workdir.evaluations`."""
  return _lines(workdir, 'eval.jsonl')


def evaluation_rows(
  workdir: epath.PathLike, result: Mapping[str, Any]
) -> list[Row]:
  """Returns the answers of an evaluation, one row for each question.

  Args:
    workdir: Directory of the run.
    result: Result of the evaluation, from `evaluations`.

  Raises:
    ValueError: If the file of answers is damaged.
  """
  settings = result.get('settings')
  if not isinstance(settings, dict):
    return []
  files = evaluation_files.find_files(workdir, settings)
  if files.directory is not None:
    _file(workdir, 'evaluations', files.directory.name)
  return files.rows


def alarms(workdir: epath.PathLike) -> list[Row]:
  """Returns the lines of alarms.jsonl."""
  return _lines(workdir, 'alarms.jsonl')


def review_events(workdir: epath.PathLike) -> list[Row]:
  """Returns the events of reviews.jsonl, see `workdir.reviews`."""
  _file(workdir, reviews.NAME)
  return [event for event in reviews.read(workdir) if event is not None]


def steps(workdir: epath.PathLike) -> list[int]:
  """Returns the steps that have rollouts, in order."""
  return sorted(_rollout_names(workdir))


def nearest_step(all_steps: Sequence[int], step: int) -> int | None:
  """Returns the last step at or before `step`, or the first one; None if none.

  Args:
    all_steps: Steps in order, from `steps`.
    step: Any number.
  """
  if not all_steps:
    return None
  return all_steps[max(bisect.bisect_right(all_steps, step) - 1, 0)]


def rollouts(
  workdir: epath.PathLike,
  steps: Iterable[int],
  *,
  columns: Sequence[str] | None = None,
  where: pc.Expression | None = None,
) -> pa.Table:
  """Reads the responses of some steps; other files are not opened.

  Args:
    workdir: Directory of the run.
    steps: Steps to read. A step without rollouts has no rows.
    columns: Columns to read, in order; by default, all columns of
      `workdir.rollouts.SCHEMA`. A column that a file lacks is null.
    where: Condition on the rows, such as `pc.field('role') == 'solver'`.

  Raises:
    ValueError: If a column is unknown, or a file is a link out of the run.
    OSError: If a file cannot be read.
  """
  columns = list(_SCHEMA.names if columns is None else columns)
  if unknown := set(columns) - set(_SCHEMA.names):
    raise ValueError(
      f'columns={sorted(unknown)!r}: expected columns of '
      f'{", ".join(_SCHEMA.names)}'
    )
  empty = pa.schema([_SCHEMA.field(name) for name in columns]).empty_table()
  names = _rollout_names(workdir)
  tables = [empty]
  for step in sorted(set(steps)):
    for name in names.get(step, ()):
      path = _file(workdir, 'rollouts', name)
      # Resumed training may remove a file after it was listed.
      with contextlib.suppress(FileNotFoundError), path.open('rb') as file:
        tables.append(
          parquet.read_table(
            file, columns=columns, filters=where, schema=_SCHEMA
          ).cast(empty.schema)
        )
  return pa.concat_tables(tables)


def footer(workdir: epath.PathLike, step: int) -> dict[str, str]:
  """Returns the footer of the rollouts of a step, by name.

  The names are those of `run.provenance.collect`. The footer is empty if the
  step has no rollouts, or if an earlier version wrote them.
  """
  for name in _rollout_names(workdir).get(step, ()):
    path = _file(workdir, 'rollouts', name)
    with contextlib.suppress(FileNotFoundError), path.open('rb') as file:
      stored = parquet.read_schema(file).metadata or {}
      return {key.decode(): value.decode() for key, value in stored.items()}
  return {}


def _rollout_names(workdir: epath.PathLike) -> dict[int, list[str]]:
  """Returns the names of the rollout files by step."""
  directory = _file(workdir, 'rollouts')
  names: dict[int, list[str]] = {}
  if storage.is_remote(directory):
    listed = [path.name for path in storage.entries(directory, '.*')]
  elif directory.is_dir():
    listed = os.listdir(directory)
  else:
    listed = []
  for name in sorted(listed):
    step = rollouts_lib.step_of_name(name)
    if step is not None:
      names.setdefault(step, []).append(name)
  return names


def _file(workdir: epath.PathLike, *names: str) -> epath.Path:
  """Returns the path of a file of the run.

  Raises:
    ValueError: If the file is a symbolic link to a place outside the run.
  """
  root = epath.Path(workdir)
  path = root.joinpath(*names)
  if not storage.is_remote(root):
    real = os.path.realpath(path)
    if not epath.Path(real).is_relative_to(os.path.realpath(root)):
      raise ValueError(
        f'{path}: expected a file of the run, not a link to {real}'
      )
  return path


def _lines(workdir: epath.PathLike, name: str) -> list[Row]:
  """Returns the JSON objects of a file, without damaged lines."""
  path = _file(workdir, name)
  try:
    return list(_cached_lines(path, _version(path)))
  except FileNotFoundError:
    return []


def _version(path: epath.Path) -> tuple[float, ...]:
  """Returns numbers that change if a run appends to a file or replaces it."""
  if storage.is_remote(path):
    remote = path.stat()
    return remote.length, remote.mtime
  local = os.stat(path)
  return local.st_size, local.st_mtime_ns, local.st_ino


@functools.lru_cache(maxsize=16)
def _cached_lines(
  path: epath.Path, version: tuple[float, ...]
) -> tuple[Row, ...]:
  del version  # part of the key only
  rows = []
  for line in path.read_bytes().split(b'\n'):
    with contextlib.suppress(ValueError):
      row = json.loads(line.decode())
      if isinstance(row, dict):
        rows.append(row)
  return tuple(rows)
