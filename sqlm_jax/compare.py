"""Did it improve? Two checkpoints on the same questions, side by side."""

import contextlib
import dataclasses
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from etils import epath

from sqlm_jax import display, evaluate
from sqlm_jax.config import schema as config_lib
from sqlm_jax.distributed import hosts
from sqlm_jax.evaluation import comparison, report
from sqlm_jax.run import assemble, evaluation_sets, open_run
from sqlm_jax.workdir import storage, writers

# How the name of a checkpoint ends. Any other comma is part of a workdir.
_CHECKPOINT = re.compile(r'(^|@)(latest|best|[0-9]+)$')


class Evaluated(NamedTuple):
  """A record, and the rows that it was made of."""

  record: dict[str, Any]
  rows: list[dict[str, Any]]
  settings: dict[str, Any]


def find_set(
  parts: assemble.Parts, dataset: str
) -> evaluation_sets.EvaluationSet:
  """'test' or 'validation' of the config, or a dataset.

  Raises:
    ValueError: if there is none.
  """
  assemble.check(parts)
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
  parts: assemble.Parts,
  saved: open_run.Saved,
  asked: evaluation_sets.EvaluationSet,
  workdir: epath.PathLike | None,
) -> Evaluated:
  """Evaluates a checkpoint, showing how far it is, and writes it down.

  What was evaluated before with the same settings is read, not evaluated.
  """
  assemble.check(parts)
  planned = evaluate.plan(parts, asked, step=saved.step, workdir=workdir)
  if planned.is_answered:
    record = evaluate.evaluate(planned, None)
  else:
    params = saved.load('solver')
    title = f'Evaluating on {asked.name}'
    with display.progress(title, len(asked.examples)) as progress:
      record = evaluate.evaluate(planned, params, progress=progress)
  if workdir and hosts.is_first():
    with contextlib.closing(writers.RunWriter(workdir)) as writer:
      # It may have been killed between its last answer and this line.
      if writer.find_evaluation(planned.files.settings) is None:
        writer.evaluation(record)
  return Evaluated(record, planned.files.rows, dict(planned.files.settings))


def compare(
  parts: assemble.Parts,
  names: Sequence[str],
  *,
  dataset: str,
  workdir: epath.PathLike | None,
) -> tuple[dict[str, Any], epath.Path]:
  """Evaluates two checkpoints and compares them, question by question.

  Args:
    parts: of the run in `workdir`; its evaluation settings hold for both.
    names: of the checkpoints, see `parse`.
    dataset: see `find_set`.
    workdir: of the run, None if both names have theirs.

  Returns:
    The comparison, and where it was written.

  Raises:
    ValueError: if there are not two names, or no such checkpoints.
  """
  assemble.check(parts)
  names = pair(names)
  sides = []
  for name in names:
    of, which = parse(name, workdir)
    own = parts if of == workdir else _other(of, parts)
    saved = open_run.find(own, of, which)
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
  if hosts.is_first():
    report.write(directory, found)
  return found, directory


def pair(pieces: Sequence[str]) -> tuple[str, str]:
  """Joins the pieces of `--compare` to two names of checkpoints.

  A comma separates the two names, but a workdir may contain commas, too.

  Args:
    pieces: the value of `--compare`, split at all commas.

  Raises:
    ValueError: if the pieces do not make two names, or could in several ways.
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
  """Workdir and checkpoint of a name: 'best', '12' or 'runs/other@best'.

  Raises:
    ValueError: for a name without a workdir, if there is no other.
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


def _other(workdir: epath.PathLike, parts: assemble.Parts) -> assemble.Parts:
  """The parts of another run, evaluated like this one."""
  stored = writers.read_config(workdir)
  if stored is None:
    raise ValueError(f'{workdir}: expected a run, with a config.json')
  config = config_lib.from_dict(stored)
  config = dataclasses.replace(config, evaluation=parts.config.evaluation)
  return assemble.build(config)
