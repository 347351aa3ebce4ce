"""Searches the rollouts of a run for a text, newest steps first."""

import time
from typing import Any, NamedTuple

import pyarrow.compute as pc
from etils import epath

from sqlm_jax.workdir import run_reader

MAX_HITS = 50
_MAX_SECONDS = 0.7  # a page is opened in less than a second
_COLUMNS = ('step', 'role', 'group', 'question', 'answer', 'response', 'reason')


class Found(NamedTuple):
  """The hits of a search.

  Attributes:
    rows: Rows whose question or response contains the text.
    next_before: Steps before this one are not searched yet; None if all are.
    num_steps: Number of steps that were searched.
  """

  rows: list[dict[str, Any]]
  next_before: int | None
  num_steps: int


def search(
  workdir: epath.PathLike, text: str, *, before: int | None = None
) -> Found:
  """Searches for a text, in any case, for a short time.

  Args:
    workdir: Directory of the run.
    text: Text to search for; '' finds nothing.
    before: Searches only steps before this one; by default, all steps.
  """
  if not text:
    return Found([], None, 0)
  question, response = (
    # pyarrow defines this function when it is imported.
    pc.match_substring(pc.field(name), text, ignore_case=True)  # ty: ignore[missing-attribute]
    for name in ('question', 'response')
  )
  rows: list[dict[str, Any]] = []
  end = time.monotonic() + _MAX_SECONDS
  steps = [
    step
    for step in reversed(run_reader.steps(workdir))
    if before is None or step < before
  ]
  for number, step in enumerate(steps, start=1):
    table = run_reader.rollouts(
      workdir, [step], columns=_COLUMNS, where=question | response
    )
    rows += table.slice(0, MAX_HITS - len(rows)).to_pylist()
    if len(rows) >= MAX_HITS or time.monotonic() > end:
      return Found(rows, step if number < len(steps) else None, number)
  return Found(rows, None, len(steps))
