"""Writes and reads metrics.jsonl, with one line per step.

{"step": 12, "solver/reward": 0.5, ...}
"""

from collections.abc import Mapping
from typing import Any

from etils import epath

from sqlm_jax.workdir import jsonl


def append(workdir: epath.Path, step: int, values: Mapping[str, float]) -> None:
  """Appends the metrics of a step.

  A value that is not finite becomes null, because JSON cannot represent it.
  """
  jsonl.append(_path(workdir), [{'step': step} | dict(values)])


def rewind(workdir: epath.Path, step: int) -> None:
  """Removes the metrics of step `step` and later, and an incomplete line."""
  path = _path(workdir)
  if path.exists():
    jsonl.rewrite(path, (row for row in jsonl.read(path) if row['step'] < step))


def last_step(workdir: epath.Path) -> int | None:
  """Returns the last step that has metrics, None without any."""
  rows = read(workdir)
  return rows[-1]['step'] if rows else None


def read(workdir: epath.Path) -> list[dict[str, Any]]:
  """Returns the metrics of all steps, in order."""
  path = _path(workdir)
  return jsonl.read(path) if path.exists() else []


def _path(workdir: epath.Path) -> epath.Path:
  return workdir / 'metrics.jsonl'
