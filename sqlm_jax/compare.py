"""Compares two checkpoints on the same questions."""

import contextlib
import dataclasses
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from etils import epath

from sqlm_jax import display, evaluate
from sqlm_jax.config import schema as config_lib
from sqlm_jax.distributed import processes
from sqlm_jax.evaluation import comparison, report
from sqlm_jax.run import build, evaluation_sets
from sqlm_jax.run import saved as saved_lib
from sqlm_jax.workdir import run_writer, storage

# Matches the end of a checkpoint name. `pair` splits only after such a name,
# because a workdir may contain commas.
_CHECKPOINT = re.compile(r'(^|@)(latest|best|[0-9]+)$')


class Evaluated(NamedTuple):
  """An evaluation record, and the rows and settings it was computed from."""

  record: dict[str, Any]
  rows: list[dict[str, Any]]
  settings: dict[str, Any]


def find_set(parts: build.Parts, dataset: str) -> evaluation_sets.EvaluationSet:
  """Returns the evaluation set that `dataset` names.

  Args:
    parts: Parts of the run.
    dataset: 'test' or 'validation' for a set of the config, otherwise a
      dataset or a file.

  Raises:
    ValueError: If there is no such evaluation set.
  """
  build.check(parts)
  if dataset not in evaluation_sets.PURPOSES:
    return evaluation_sets.of_dataset(parts.config, parts.task, dataset)
  asked = parts.sets(dataset)
  if asked is None:
    raise ValueError(
      f"evaluation.{dataset}='': expected questions to evaluate on, there or "
      'by --dataset'
    )
  return asked


def evaluate_saved(
  parts: build.Parts,
  saved: saved_lib.Saved,
  asked: evaluation_sets.EvaluationSet,
  workdir: epath.PathLike | None,
) -> Evaluated:
  """Evaluates a checkpoint with a progress bar, and writes the result.

  Answers of an earlier evaluation with the same settings are read from the
  workdir and not computed again.
  """
  build.check(parts)
  planned = evaluate.plan(parts, asked, step=saved.step, workdir=workdir)
  if planned.is_answered:
    record = evaluate.evaluate(planned, None)
  else:
    params = saved.load('solver')
    title = f'Evaluating on {asked.name}'
    with display.progress(title, len(asked.examples)) as progress:
      record = evaluate.evaluate(planned, params, progress=progress)
  if workdir and processes.is_first():
    with contextlib.closing(run_writer.RunWriter(workdir)) as writer:
      # An earlier evaluation may have been killed before it wrote its record.
      if writer.find_evaluation(planned.files.settings) is None:
        writer.evaluation(record)
  return Evaluated(record, planned.files.rows, dict(planned.files.settings))


def compare(
  parts: build.Parts,
  names: Sequence[str],
  *,
  dataset: str,
  workdir: epath.PathLike | None,
) -> tuple[dict[str, Any], epath.Path]:
  """Evaluates two checkpoints and compares them, question by question.

  Args:
    parts: Parts of the run in `workdir`; both checkpoints are evaluated with
      its evaluation settings.
    names: Names of the two checkpoints, see `parse`.
    dataset: Name of the evaluation set, see `find_set`.
    workdir: Directory of the run, None if both names contain a workdir.

  Returns:
    The comparison, and the directory that it was written to.

  Raises:
    ValueError: If there are not two names, or a checkpoint does not exist.
  """
  build.check(parts)
  names = pair(names)
  sides = []
  for name in names:
    of, which = parse(name, workdir)
    own = parts if of == workdir else _other(of, parts)
    saved = saved_lib.find(own, of, which)
    display.message(f'{name}: {saved.about}')
    sides.append(evaluate_saved(own, saved, find_set(parts, dataset), of))
  one, other = sides
  found = comparison.compare(
    one.rows,
    other.rows,
    names=tuple(names),
    settings=(one.settings, other.settings),
  )
  place, _ = parse(names[0], workdir)
  slug = '-vs-'.join(re.sub(r'[^\w.@-]+', '_', name) for name in names)
  slug += '-' + re.sub(r'[^\w.-]+', '_', dataset)
  directory = epath.Path(workdir or place) / 'comparisons' / slug[-200:]
  if processes.is_first():
    report.write(directory, found)
  return found, directory


def pair(pieces: Sequence[str]) -> tuple[str, str]:
  """Joins the pieces of `--compare` into two checkpoint names.

  A comma separates the two names, but a workdir may also contain commas.

  Args:
    pieces: The value of `--compare`, split at every comma.

  Raises:
    ValueError: If the pieces cannot be joined into two names, or if there are
      several ways to do so.
  """
  splits = [
    (','.join(pieces[:i]), ','.join(pieces[i:])) for i in range(1, len(pieces))
  ]
  if len(pieces) > 2:
    splits = [names for names in splits if all(map(_CHECKPOINT.search, names))]
  if len(splits) != 1:
    raise ValueError(
      f'--compare={",".join(pieces)}: expected two checkpoints A,B'
    )
  return splits[0]


def parse(
  name: str, workdir: epath.PathLike | None
) -> tuple[epath.PathLike, str]:
  """Splits a name such as 'best', '12' or 'runs/other@best'.

  Args:
    name: Name of a checkpoint.
    workdir: Workdir of names that do not contain one, None without a default.

  Returns:
    The workdir and the checkpoint.

  Raises:
    ValueError: If neither the name nor the arguments contain a workdir.
  """
  of, at, which = name.rpartition('@')
  if not at and workdir is None:
    raise ValueError(
      f'--compare={name}: expected WORKDIR@CHECKPOINT, or a --workdir'
    )
  if at:
    of = storage.expand(of)
    storage.check(of, '--compare')
  return (of if at else workdir), which


def _other(workdir: epath.PathLike, parts: build.Parts) -> build.Parts:
  """Builds another run's parts with the evaluation settings of this run."""
  stored = run_writer.read_config(workdir)
  if stored is None:
    raise ValueError(f'{workdir}: expected a run, with a config.json')
  config = config_lib.from_dict(stored)
  config = dataclasses.replace(config, evaluation=parts.config.evaluation)
  return build.build(config)
