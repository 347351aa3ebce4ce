"""Reads the files of a run, and decides about its votes, from Python.

run = runs.open('runs/quickstart')
run.metrics().to_pandas().plot(x='step', y='vote/accuracy')
"""

import importlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
from etils import epath

from sqlm_jax.config import schema
from sqlm_jax.game import ballots
from sqlm_jax.review import decisions
from sqlm_jax.workdir import reviews, run_reader, storage

if TYPE_CHECKING:
  import pandas as pd

__all__ = ['Rows', 'Run', 'open']

Row = TypeVar('Row')


class Rows(list[Row], Generic[Row]):
  """A list of dicts or of NamedTuples, which pandas can show as a table."""

  def to_pandas(self) -> 'pd.DataFrame':
    """Returns a data frame with one column for each key or field.

    Raises:
      ImportError: If pandas is not installed.
    """
    try:
      pandas = importlib.import_module('pandas')
    except ImportError as error:
      raise ImportError(
        'to_pandas: pandas is not installed: pip install pandas'
      ) from error
    return pandas.DataFrame(list(self))


class Run(NamedTuple):
  """A run, which may still be training; `open` returns it.

  Every call reads the files again, so its result includes new steps.

  Attributes:
    workdir: Directory of the run.
  """

  workdir: str

  def config(self) -> schema.Config:
    """Returns the config of the run."""
    return schema.from_dict(run_reader.config(self.workdir))

  def metrics(self) -> Rows[dict[str, Any]]:
    """Returns the metrics of each step, by name (docs/metrics.md)."""
    return Rows(run_reader.metrics(self.workdir))

  def evaluations(self) -> Rows[dict[str, Any]]:
    """Returns the results of the evaluations, oldest first."""
    return Rows(run_reader.evaluations(self.workdir))

  def alarms(self) -> Rows[dict[str, Any]]:
    """Returns the alarms that were raised and cleared."""
    return Rows(run_reader.alarms(self.workdir))

  def reviews(self) -> Rows[dict[str, Any]]:
    """Returns the decisions of people about votes."""
    return Rows(run_reader.review_events(self.workdir))

  def steps(self) -> list[int]:
    """Returns the steps that have rollouts, in order."""
    return run_reader.steps(self.workdir)

  def rollouts(
    self,
    steps: Iterable[int] | None = None,
    *,
    columns: Sequence[str] | None = None,
    role: str | None = None,
  ) -> pa.Table:
    """Returns the responses of some steps with their votes and rewards.

    Args:
      steps: Steps to read; by default, all.
      columns: Columns to read (docs/metrics.md); by default, all.
      role: 'proposer', 'solver' or 'voter'; by default, all.

    Returns:
      A table of pyarrow, which has a method `to_pandas`.

    Raises:
      ValueError: If a column is unknown.
    """
    return run_reader.rollouts(
      self.workdir,
      self.steps() if steps is None else steps,
      columns=columns,
      where=None if role is None else pc.field('role') == role,
    )

  def waiting(
    self, limit: int = 5, *, reviewer: str = ''
  ) -> Rows[ballots.Ballot]:
    """Returns the votes that wait for a decision, the next one first.

    Args:
      limit: Maximum number of votes.
      reviewer: Votes that this reviewer has skipped are left out.
    """
    queue = decisions.queue(self.workdir, self.config(), reviewer=reviewer)
    return Rows([choice.ballot for choice in queue[:limit]])

  def decide(
    self,
    ballot: ballots.Ballot,
    verdict: str,
    *,
    answer: str = '',
    reviewer: str = '',
  ) -> None:
    """Stores a decision about a vote, which later steps train on.

    Args:
      ballot: The vote, from `waiting`.
      verdict: 'accept', 'reject', 'exclude', 'skip', or 'correct' with an
        answer (docs/review.md).
      answer: The true answer, for 'correct'.
      reviewer: Your name.

    Raises:
      ValueError: If the decision is not possible; the message says why.
    """
    event = decisions.to_event(
      self.config(), ballot, kind=verdict, answer=answer, reviewer=reviewer
    )
    reviews.append(self.workdir, [event])


def open(workdir: epath.PathLike) -> Run:
  """Opens a run for reading.

  Args:
    workdir: Directory of the run, of a live run or of a copy.

  Raises:
    ValueError: If the directory has no run.
  """
  path = storage.expand(str(workdir))
  run_reader.config(path)
  return Run(path)
