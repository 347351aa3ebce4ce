"""Writes rollouts/, which contains every response of a run with its reward.

There is one Parquet file per step, such as step_00000012.parquet, with one row
per response and the columns of `SCHEMA`. With several processes, there is one
file per step and process, such as step_00000012-00000-of-00002.parquet.

The footer of a file describes the config, the code and the model that it was
made with, see `run.provenance`.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
from etils import epath
from pyarrow import parquet

from sqlm_jax.workdir import storage

_FILE = r'step_(\d+)(-\d+-of-\d+)?\.parquet'


def _column(
  name: str, kind: pa.DataType, about: str, *, nullable: bool = False
) -> pa.Field:
  return pa.field(name, kind, nullable, metadata={'about': about})


def _nullable(name: str, kind: pa.DataType, about: str) -> pa.Field:
  return _column(name, kind, about, nullable=True)


# The descriptions are stored in the files.
SCHEMA = pa.schema(
  [
    _column('step', pa.int64(), 'self-play step, counted from 0'),
    _column('role', pa.string(), 'proposer, solver or voter'),
    _column('group', pa.int32(), 'index of the prompt in the step'),
    _column('sample', pa.int32(), 'index of the response in its group'),
    _column('seed', pa.int64(), 'seed of the run'),
    _column('policy_step', pa.int64(), 'optimizer steps of the weights used'),
    _column('prompt', pa.string(), 'prompt with special tokens'),
    _column('response', pa.string(), 'text that the model generated'),
    _column('finished', pa.bool_(), 'false: cut off at the token limit'),
    _column('num_tokens', pa.int32(), 'tokens of the response, with its stop'),
    _column('logprob', pa.float32(), 'log-probability of the response'),
    _nullable('question', pa.string(), 'parsed question; null: none'),
    _nullable('tests', pa.string(), 'unit tests of the question, as JSON'),
    _nullable('answer', pa.string(), 'canonical answer; null: unparsed'),
    _nullable('vote', pa.string(), 'majority answer; null: none'),
    _nullable('vote_share', pa.float32(), 'fraction that gave it'),
    _nullable('true_answer', pa.string(), 'answer of a verdict; null: none'),
    _nullable('tests_passed', pa.float32(), 'fraction of tests passed'),
    _nullable('reward', pa.float32(), 'reward before advantages; null: none'),
    _column('trained_on', pa.bool_(), 'true: in a batch of its role'),
    _nullable('reason', pa.string(), 'why it is refused or unrewarded'),
    _nullable('topic', pa.string(), 'topic of the question; null: none'),
    _nullable('advantage', pa.float32(), 'advantage if trained on, or null'),
    _nullable('right', pa.bool_(), 'checker: right answer; null: unknown'),
    _nullable('leaked', pa.string(), 'reason that a leaky gate has ignored'),
  ]
)


def make_directory(workdir: epath.Path) -> None:
  (workdir / 'rollouts').mkdir(parents=True, exist_ok=True)


def part_name(process: int, num_processes: int) -> str:
  """Returns what the file names of a process end with, '' for one process."""
  if num_processes == 1:
    return ''
  return f'-{process:05d}-of-{num_processes:05d}'


def write(
  workdir: epath.Path,
  step: int,
  rows: Sequence[Mapping[str, Any]],
  *,
  part: str = '',
  footer: Mapping[str, str] | None = None,
) -> None:
  """Writes the responses of a step, and replaces an earlier file of the step.

  Args:
    workdir: Directory of the run.
    step: Self-play step, counted from 0.
    rows: One row per response, with the columns of `SCHEMA` except the step.
      Nullable columns may be left out.
    part: End of the file name, from `part_name`.
    footer: Texts by name that the footer of the file stores.

  Raises:
    ValueError: If a row has an unknown column or lacks a required column.
  """
  known = set(SCHEMA.names) - {'step'}
  required = {x.name for x in SCHEMA if not x.nullable} - {'step'}
  for row in rows:
    given = {name for name, value in row.items() if value is not None}
    if wrong := (row.keys() - known) | (required - given):
      raise ValueError(
        f'row={sorted(row)!r}: expected the columns of a rollout; unknown or '
        f'missing: {", ".join(sorted(wrong))}'
      )
  table = pa.Table.from_pylist(
    [{'step': step} | dict(row) for row in rows],
    schema=SCHEMA.with_metadata(dict(footer or {})),
  )
  path = workdir / 'rollouts' / f'step_{step:08d}{part}.parquet'
  with storage.replacing(path) as temporary, temporary.open('wb') as file:
    parquet.write_table(table, file, compression='zstd')


def files(workdir: epath.PathLike, *, before: int) -> list[epath.Path]:
  """Returns the rollout files of the steps before `before`, oldest first."""
  directory = epath.Path(workdir) / 'rollouts'
  paths = [
    path
    for path in storage.entries(directory, _FILE)
    if _step_of(path) < before
  ]
  return sorted(paths, key=lambda path: (_step_of(path), path))


def rewind(workdir: epath.Path, step: int) -> None:
  """Removes the rollouts of step `step` and later, and incomplete files."""
  for path in storage.entries(workdir / 'rollouts', _FILE + r'(\.tmp)?'):
    if _step_of(path) >= step or path.suffix == '.tmp':
      path.unlink()


def step_of_name(name: str) -> int | None:
  """Returns the step of a file in rollouts/, None for any other name."""
  match = re.fullmatch(_FILE, name)
  return int(match[1]) if match else None


def _step_of(path: epath.Path) -> int:
  match = re.match(_FILE, path.name)
  assert match is not None  # the caller has filtered the files by this pattern
  return int(match[1])
