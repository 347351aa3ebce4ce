"""Writes and reads the files of a run in its workdir.

  config.json      the config that the run was started with
  metrics.jsonl    one line per step: {"step": 12, "solver/reward": 0.5, ...}
  eval.jsonl       one line per evaluation
  tensorboard/     the metrics as TensorBoard events
  evaluations/     one directory per evaluation, see `evaluation_files`
  rollouts/        one Parquet file per step with the columns of
                   `ROLLOUT_SCHEMA`; with several processes, one file per step
                   and process, such as step_00000012-00000-of-00002.parquet

All files except the two JSONL files, which are appended to, are written to a
temporary name and renamed. After a run is killed, they are complete or absent.
"""

import contextlib
import json
import math
import re
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
from etils import epath
from pyarrow import parquet
from tensorboardX import event_file_writer, summary
from tensorboardX.proto import event_pb2

from sqlm_jax.text import json_text
from sqlm_jax.workdir import storage

_ROLLOUT_FILE = r'step_(\d+)(-\d+-of-\d+)?\.parquet'


def _column(name: str, kind: pa.DataType, about: str, nullable: bool = False):
  return pa.field(name, kind, nullable, metadata={'about': about})


# One row per sampled response. The descriptions are stored in the files.
ROLLOUT_SCHEMA = pa.schema(
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
    _column('question', pa.string(), 'parsed question; null: none', True),
    _column('tests', pa.string(), 'unit tests of the question, as JSON', True),
    _column('answer', pa.string(), 'canonical answer; null: unparsed', True),
    _column('vote', pa.string(), 'majority answer; null: none', True),
    _column('vote_share', pa.float32(), 'fraction that gave it', True),
    _column('tests_passed', pa.float32(), 'fraction of tests passed', True),
    _column('reward', pa.float32(), 'null: no reward', True),
    _column('trained_on', pa.bool_(), 'true: in a batch of its role'),
    _column('reason', pa.string(), 'why it is invalid or unrewarded', True),
  ]
)


class RunWriter:
  """Writes the files of a run step by step.

  Every process writes its own rollouts; process 0 writes all other files.

  Attributes:
    workdir: Directory of the run, created if it does not exist.
  """

  def __init__(
    self, workdir: epath.PathLike, process: int = 0, num_processes: int = 1
  ):
    self.workdir = epath.Path(workdir)
    self._is_first = process == 0
    self._part = ''
    if num_processes > 1:
      self._part = f'-{process:05d}-of-{num_processes:05d}'
    (self.workdir / 'rollouts').mkdir(parents=True, exist_ok=True)
    self._events = None
    # Events of an earlier start are discarded from this step on.
    self._purge_step = None

  def metrics(self, step: int, values: Mapping[str, float]) -> None:
    """Appends a line to metrics.jsonl and a point to every TensorBoard curve.

    A value that is not finite becomes null, because JSON cannot represent it,
    and leaves a gap in its curve.

    Args:
      step: Self-play step, counted from 0.
      values: Metrics by name; Python numbers or arrays of one element.
    """
    if not self._is_first:
      return
    numbers = {name: float(values[name]) for name in sorted(values)}
    line = _line({'step': step} | numbers)
    storage.append(self.workdir / 'metrics.jsonl', line)
    self._draw(step, numbers)

  def evaluation(self, record: Mapping[str, Any]) -> None:
    """Appends a line to eval.jsonl, and its figures to TensorBoard.

    Args:
      record: Record of an evaluation, with the number of self-play steps that
        the weights were trained for as 'step'.
    """
    if not isinstance(record.get('step'), int):
      raise ValueError(f'record={dict(record)!r}: expected a whole "step"')
    if not self._is_first:
      return
    path = self.workdir / 'eval.jsonl'
    if path.exists() and not path.read_bytes().endswith(b'\n'):
      # Removes an incomplete last line before another line is appended.
      storage.write_text(path, ''.join(map(_line, read_jsonl(path))))
    storage.append(path, _line(record))
    self._draw(record['step'], evaluation_metrics(record))

  def evaluations(self) -> list[dict[str, Any]]:
    """Returns the records in eval.jsonl, oldest first."""
    path = self.workdir / 'eval.jsonl'
    return read_jsonl(path) if path.exists() else []

  def find_evaluation(
    self, settings: Mapping[str, Any]
  ) -> dict[str, Any] | None:
    """Returns the record in eval.jsonl with these settings, or None."""
    settings = as_stored(settings)
    lines = self.evaluations()
    return next((x for x in lines if x.get('settings') == settings), None)

  def rollouts(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes the responses of a step, and replaces an earlier file of the step.

    Args:
      step: Self-play step, counted from 0.
      rows: One row per response, with the columns of `ROLLOUT_SCHEMA` except
        the step. Nullable columns may be left out.

    Raises:
      ValueError: If a row has an unknown column or lacks a required column.
    """
    known = set(ROLLOUT_SCHEMA.names) - {'step'}
    needed = {x.name for x in ROLLOUT_SCHEMA if not x.nullable} - {'step'}
    for row in rows:
      given = {name for name, value in row.items() if value is not None}
      if wrong := (row.keys() - known) | (needed - given):
        raise ValueError(
          f'row={sorted(row)!r}: expected the columns of a rollout, unknown '
          f'or missing: {", ".join(sorted(wrong))}'
        )
    table = pa.Table.from_pylist(
      [{'step': step} | dict(row) for row in rows], schema=ROLLOUT_SCHEMA
    )
    name = f'step_{step:08d}{self._part}.parquet'
    path = self.workdir / 'rollouts' / name
    with storage.replacing(path) as temporary, temporary.open('wb') as file:
      parquet.write_table(table, file, compression='zstd')

  def rewind(self, step: int) -> None:
    """Removes output that was written after a checkpoint, to resume from it.

    Removes metrics and rollouts of step `step` and later, evaluations of
    weights that were trained for more than `step` steps, and incomplete lines.

    Args:
      step: Number of steps of the checkpoint.
    """
    if not self._is_first:
      return
    for name, end in (('metrics.jsonl', step), ('eval.jsonl', step + 1)):
      path = self.workdir / name
      if path.exists():
        kept = [row for row in read_jsonl(path) if row['step'] < end]
        storage.write_text(path, ''.join(map(_line, kept)))
    pattern = _ROLLOUT_FILE + r'(\.tmp)?'
    for path in storage.entries(self.workdir / 'rollouts', pattern):
      if _step_of(path) >= step or path.suffix == '.tmp':
        path.unlink()
    self._close_events()
    self._purge_step = step
    for record in self.evaluations():
      if record['step'] == step:  # kept, but the purge discards its points
        self._draw(step, evaluation_metrics(record))

  def close(self) -> None:
    """Closes the TensorBoard file; all other files are already complete."""
    self._close_events()

  def _draw(self, step: int, numbers: Mapping[str, float]):
    """Adds a point to every TensorBoard curve."""
    with storage.named(self.workdir / 'tensorboard'):
      if self._events is None:
        self._events = _open_events(self.workdir / 'tensorboard')
        if self._purge_step is not None:
          start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
          self._events.write_event(
            event_pb2.Event(step=self._purge_step, session_log=start)
          )
      for name, value in numbers.items():
        if math.isfinite(value):
          self._events.write_event(
            event_pb2.Event(
              wall_time=time.time(),
              step=step,
              summary=summary.scalar(name, value),
            )
          )
      self._events.flush()

  def _close_events(self):
    if self._events is not None:
      with contextlib.suppress(OSError):  # a full disk was already reported
        self._events.close()
      self._events = None


def _open_events(directory: epath.Path) -> event_file_writer.EventsWriter:
  """Opens an event file without a writer thread.

  If the thread died, for example because of a full disk, the run would stop.
  """
  directory.mkdir(parents=True, exist_ok=True)
  return event_file_writer.EventsWriter(
    str(directory / 'events'),
    # Otherwise two starts within a second would write to the same file.
    f'.{time.time_ns()}',
  )


def rollout_files(workdir: epath.PathLike, *, before: int) -> list[epath.Path]:
  """Returns the rollout files of the steps before `before`, oldest first."""
  directory = epath.Path(workdir) / 'rollouts'
  files = storage.entries(directory, _ROLLOUT_FILE)
  return sorted(
    (path for path in files if _step_of(path) < before),
    key=lambda path: (_step_of(path), path),
  )


def read_jsonl(path: epath.PathLike) -> list[dict[str, Any]]:
  """Reads a file with one JSON object per line.

  An incomplete last line, as left by a killed run, is ignored.

  Raises:
    ValueError: If any other line is not a JSON object.
  """
  # Split as bytes, because a line may end in the middle of a character.
  lines = epath.Path(path).read_bytes().split(b'\n')
  rows = []
  for number, line in enumerate(lines, start=1):
    try:
      row = json.loads(line.decode())
    except ValueError:
      row = None
    if isinstance(row, dict):
      rows.append(row)
    elif number < len(lines):  # the last line of a complete file is empty
      raise ValueError(f'{path}:{number}: expected a JSON object, not {line!r}')
  return rows


def evaluation_metrics(record: Mapping[str, Any]) -> dict[str, float]:
  """Returns the figures of an evaluation by metric name."""
  prefix = f'eval/{record.get("task")}/{record.get("set")}'
  return {f'{prefix}/{name}': record[name] for name in _figures(record)}


def accuracies(record: Mapping[str, Any]) -> str:
  """Formats the greedy accuracy and mean@k of a record as text."""
  shown = [
    f'{record[name]:.1%} {name}'
    for name in _figures(record)
    if name == 'greedy' or name.startswith('mean@')
  ]
  return ', '.join(shown)


def _figures(record: Mapping[str, Any]) -> list[str]:
  """Returns the names of the figures, which are the entries with intervals."""
  return list(record.get('intervals', ()))


def read_config(workdir: epath.PathLike) -> dict[str, Any] | None:
  """Reads the config that a run was started with; returns None without a run.

  Raises:
    ValueError: If config.json is damaged.
  """
  path = epath.Path(workdir) / 'config.json'
  if not path.exists():
    return None
  try:
    return json.loads(path.read_text(encoding='utf-8'))
  except ValueError as error:
    raise ValueError(f'{path}: expected JSON, {error}') from None


def check_config(
  workdir: epath.PathLike,
  config: Mapping[str, Any],
  *,
  may_change: Collection[str] = (),
  complete: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda old: old,
) -> None:
  """Checks that a workdir does not contain a run with another config.

  Args:
    workdir: Directory of the run, which need not exist.
    config: JSON-serializable nested dicts.
    may_change: Dotted keys whose values may differ from the stored config.
    complete: Adds the defaults of keys that a config stored by an earlier
      version lacks.

  Raises:
    ValueError: If another key differs. The message has the key and both values.
  """
  workdir = epath.Path(workdir)
  old = read_config(workdir)
  if old is None:
    return
  before, after = (
    dict(_flatten(as_stored(tree))) for tree in (complete(old), config)
  )
  differing = [
    f'  {key}: {_differ(before, after, key)}'
    for key in sorted(before.keys() | after.keys())
    if before.get(key, _ABSENT) != after.get(key, _ABSENT)
    and key not in may_change
  ]
  if differing:
    raise ValueError(
      f'workdir={str(workdir)!r}: expected the config of the run that is '
      'in it, or another --workdir; these differ (there -> now):\n'
      + '\n'.join(differing)
    )


def write_config(workdir: epath.PathLike, config: Mapping[str, Any]) -> None:
  """Writes config.json, unless it already has the same content.

  Args:
    workdir: Directory of the run, created if it does not exist.
    config: JSON-serializable nested dicts.
  """
  workdir = epath.Path(workdir)
  if read_config(workdir) != as_stored(config):
    workdir.mkdir(parents=True, exist_ok=True)
    storage.write_text(
      workdir / 'config.json', json_text.dumps(config, indent=2) + '\n'
    )


def as_stored(config: Mapping[str, Any]) -> dict[str, Any]:
  """Converts a config to JSON and back, which turns tuples into lists."""
  return json.loads(json.dumps(config))


_ABSENT = object()  # differs from None, which may be a value


def _flatten(tree: Mapping, prefix: str = '') -> Iterable[tuple[str, Any]]:
  for name, value in tree.items():
    if isinstance(value, dict) and value:
      yield from _flatten(value, f'{prefix}{name}.')
    else:
      yield prefix + name, value


def _differ(before: Mapping, after: Mapping, key: str, width: int = 50) -> str:
  """Formats both values; long values are cut to where they begin to differ."""
  values = [
    repr(tree[key]) if key in tree else 'no such key'
    for tree in (before, after)
  ]
  start = 0
  if max(map(len, values)) > width:
    pairs = enumerate(zip(*values, strict=False))
    start = next((i for i, (a, b) in pairs if a != b), 0)
    start = max(start - 10, 0)
  cut = [value[start : start + width] for value in values]
  cut = [
    '…' * (start > 0) + part + '…' * (start + width < len(value))
    for part, value in zip(cut, values, strict=True)
  ]
  return ' -> '.join(cut)


def _line(row: Mapping[str, Any]) -> str:
  return json_text.dumps(_finite(row), allow_nan=False) + '\n'


def _finite(value):
  if isinstance(value, Mapping):
    return {name: _finite(v) for name, v in value.items()}
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value


def _step_of(path: epath.Path) -> int:
  return int(re.match(_ROLLOUT_FILE, path.name)[1])
