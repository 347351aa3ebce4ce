"""Compares two checkpoints on the same questions."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from etils import epath

from sqlm_jax import display
from sqlm_jax.config import schema as config_lib
from sqlm_jax.distributed import processes
from sqlm_jax.evaluation import comparison, report
from sqlm_jax.modes import evaluate
from sqlm_jax.run import build, saved_models
from sqlm_jax.workdir import config_json, storage

# Matches the end of a checkpoint name. `pair` splits only after such a name,
# because a workdir may contain commas.
_CHECKPOINT = re.compile(r'(^|@)(latest|best|[0-9]+)$')


def compare(
  parts: build.Parts,
  pieces: Sequence[str],
  *,
  dataset: str,
  workdir: epath.PathLike | None,
) -> tuple[dict[str, Any], epath.Path]:
  """Evaluates two checkpoints and compares them, question by question.

  Args:
    parts: Parts of the run in `workdir`; both checkpoints are evaluated with
      its evaluation settings.
    pieces: Names of the two checkpoints, see `pair` and `parse`.
    dataset: Name of the evaluation set, see `evaluate.find_set`.
    workdir: Directory of the run, None if both names contain a workdir.

  Returns:
    The comparison, and the directory that it was written to.

  Raises:
    ValueError: If there are not two names, or a checkpoint does not exist.
  """
  build.check(parts)
  names = pair(pieces)
  sides = []
  for name in names:
    model_workdir, which = parse(name, workdir)
    model_parts = parts
    if model_workdir != workdir:
      model_parts = _other_run(model_workdir, parts)
    model = saved_models.find(model_parts, model_workdir, which)
    display.message(f'{name}: {model.about}')
    sides.append(
      evaluate.evaluate(
        model_parts,
        model,
        evaluate.find_set(model_parts, dataset),
        workdir=model_workdir,
      )
    )
  first, second = sides
  compared = comparison.compare(
    first.rows,
    second.rows,
    names=names,
    settings=(first.settings, second.settings),
  )
  first_workdir, _ = parse(names[0], workdir)
  slug = '-vs-'.join(re.sub(r'[^\w.@-]+', '_', name) for name in names)
  slug += '-' + re.sub(r'[^\w.-]+', '_', dataset)
  directory = epath.Path(workdir or first_workdir) / 'comparisons' / slug[-200:]
  if processes.is_first():
    report.write(directory, compared)
  return compared, directory


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
  model_workdir, separator, which = name.rpartition('@')
  if separator:
    model_workdir = storage.expand(model_workdir)
    storage.check(model_workdir, '--compare')
    return model_workdir, which
  if workdir is None:
    raise ValueError(
      f'--compare={name}: expected WORKDIR@CHECKPOINT, or --workdir'
    )
  return workdir, which


def _other_run(workdir: epath.PathLike, parts: build.Parts) -> build.Parts:
  """Builds another run's parts with the evaluation settings of this run."""
  stored = config_json.read(workdir)
  if stored is None:
    raise ValueError(f'{workdir}: expected a run with a config.json')
  config = config_lib.from_dict(stored)
  config = dataclasses.replace(config, evaluation=parts.config.evaluation)
  return build.build(config)
