"""Writes the files of a run into its workdir, and reads them again.

  config.json      what the run was started with
  metrics.jsonl    a line a step: {"step": 12, "solver/reward": 0.5, ...}
  eval.jsonl       a line an evaluation
  tensorboard/     the metrics once more, as TensorBoard events
  evaluations/     a directory an evaluation, see `evaluation_files`
  rollouts/        a Parquet file a step, with the columns of `ROLLOUT_SCHEMA`;
                   of several processes each writes one, -00000-of-00002 and on

All files but the two that grow line by line are written under another name
first: whenever a run is killed, the next start finds them complete or absent.
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

from sqlm_jax import json_text
from sqlm_jax.workdir import storage

_ROLLOUT_FILE = r'step_(\d+)(-\d+-of-\d+)?\.parquet'


def _column(name: str, kind: pa.DataType, about: str, nullable: bool = False):
  return pa.field(name, kind, nullable, metadata={'about': about})


# A row a sampled response. The files carry the descriptions, too.
ROLLOUT_SCHEMA = pa.schema(
  [
    _column('step', pa.int64(), 'self-play step, counted from 0'),
    _column('role', pa.string(), 'who wrote it: proposer, solver, voter'),
    _column('group', pa.int32(), 'prompt in the step, one group each'),
    _column('sample', pa.int32(), 'response in the group'),
    _column('seed', pa.int64(), 'the run; keys derive from it and the above'),
    _column('policy_step', pa.int64(), 'optimizer steps of the weights used'),
    _column('prompt', pa.string(), 'as the model read it'),
    _column('response', pa.string(), 'as the model wrote it'),
    _column('finished', pa.bool_(), 'ended by itself, not cut off'),
    _column('num_tokens', pa.int32(), 'of the response, with its stop token'),
    _column('logprob', pa.float32(), 'of the response: sum over its tokens'),
    _column('question', pa.string(), 'asked or answered, as it was read', True),
    _column('tests', pa.string(), 'of the question, as JSON', True),
    _column('answer', pa.string(), 'as it was read; null: none', True),
    _column('vote', pa.string(), "the question's majority; null: none", True),
    _column('vote_share', pa.float32(), 'its share of the group', True),
    _column('passed', pa.float32(), 'share of the tests', True),
    _column('reward', pa.float32(), 'null: none was given', True),
    _column('counted', pa.bool_(), 'whether the response trains its role'),
    _column('why_not', pa.string(), 'why it was not asked or paid', True),
  ]
)


class RunWriter:
  """Writes the files of a run, step by step.

  Of several processes, each writes its rollouts, and the first all other files.

  Attributes:
    workdir: the run's directory, made if it does not exist.
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
    self._purge_step = None  # where the events of an earlier start are void

  def metrics(self, step: int, values: Mapping[str, float]) -> None:
    """Appends a line to metrics.jsonl and a point to every TensorBoard curve.

    A value that is not finite becomes null, as JSON has no other word for
    it, and leaves a gap in its curve.

    Args:
      step: of self-play, counted from 0.
      values: by name; Python numbers or arrays of one element.
    """
    if not self._is_first:
      return
    numbers = {name: float(values[name]) for name in sorted(values)}
    line = _line({'step': step} | numbers)
    storage.append(self.workdir / 'metrics.jsonl', line)
    self._draw(step, numbers)

  def evaluation(self, record: Mapping[str, Any]) -> None:
    """Appends a line to eval.jsonl, and its accuracies to TensorBoard.

    Args:
      record: with a 'step', the self-play steps that the weights had seen.
    """
    if not isinstance(record.get('step'), int):
      raise ValueError(f'record={dict(record)!r}: expected a whole "step"')
    if not self._is_first:
      return
    path = self.workdir / 'eval.jsonl'
    if path.exists() and not path.read_bytes().endswith(b'\n'):
      # A killed evaluation left half a line, which must stay the last one.
      storage.write_text(path, ''.join(map(_line, read_jsonl(path))))
    storage.append(path, _line(record))
    self._draw(record['step'], evaluation_metrics(record))

  def evaluations(self) -> list[dict[str, Any]]:
    """The lines of eval.jsonl, oldest first."""
    path = self.workdir / 'eval.jsonl'
    return read_jsonl(path) if path.exists() else []

  def find_evaluation(
    self, settings: Mapping[str, Any]
  ) -> dict[str, Any] | None:
    """The line of eval.jsonl with these settings, None if there is none."""
    settings = as_stored(settings)
    lines = self.evaluations()
    return next((x for x in lines if x.get('settings') == settings), None)

  def rollouts(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes the responses of a step, replacing an earlier file of the step.

    Args:
      step: of self-play, counted from 0.
      rows: one a response, with the columns of `ROLLOUT_SCHEMA` but for the
        step; those that may be null may be left out.

    Raises:
      ValueError: for a row with an unknown, or without a needed column.
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
    """Removes what was written after a checkpoint, before a run goes on.

    Removes metrics and rollouts of steps from `step` on, evaluations of weights
    that have seen more than `step` steps, and half-written lines.

    Args:
      step: number of steps that the checkpoint has seen.
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
      if record['step'] == step:  # stays, but its points would go
        self._draw(step, evaluation_metrics(record))

  def close(self) -> None:
    """Ends the TensorBoard events; everything is written already."""
    self._close_events()

  def _draw(self, step: int, numbers: Mapping[str, float]):
    """A point on every TensorBoard curve."""
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
      with contextlib.suppress(OSError):  # of a full disk: that was told
        self._events.close()
      self._events = None


def _open_events(directory: epath.Path) -> event_file_writer.EventsWriter:
  """Opens a file of events without a thread, whose death would stop a run."""
  directory.mkdir(parents=True, exist_ok=True)
  return event_file_writer.EventsWriter(
    str(directory / 'events'),
    # Two starts within a second would write the same file.
    f'.{time.time_ns()}',
  )


def rollout_files(workdir: epath.PathLike, *, before: int) -> list[epath.Path]:
  """The rollout files of the steps before a step, oldest first."""
  directory = epath.Path(workdir) / 'rollouts'
  files = storage.entries(directory, _ROLLOUT_FILE)
  return sorted(
    (path for path in files if _step_of(path) < before),
    key=lambda path: (_step_of(path), path),
  )


def read_jsonl(path: epath.PathLike) -> list[dict[str, Any]]:
  """Reads a file of one JSON object a line, oldest first.

  A last line that a killed run left half-written is left out.

  Raises:
    ValueError: for any other line that is not a JSON object.
  """
  # As bytes: a line may have been cut in the middle of a character.
  lines = epath.Path(path).read_bytes().split(b'\n')
  rows = []
  for number, line in enumerate(lines, start=1):
    try:
      row = json.loads(line.decode())
    except ValueError:
      row = None
    if isinstance(row, dict):
      rows.append(row)
    elif number < len(lines):  # a complete file ends with an empty one
      raise ValueError(f'{path}:{number}: expected a JSON object, not {line!r}')
  return rows


def evaluation_metrics(record: Mapping[str, Any]) -> dict[str, float]:
  """Returns the figures of an evaluation under their metric names."""
  prefix = f'eval/{record.get("task")}/{record.get("set")}'
  return {f'{prefix}/{name}': record[name] for name in _figures(record)}


def accuracies(record: Mapping[str, Any]) -> str:
  """Mean of the samples and greedy, for people."""
  shown = [
    f'{record[name]:.1%} {name}'
    for name in _figures(record)
    if name == 'greedy' or name.startswith('mean@')
  ]
  return ', '.join(shown)


def _figures(record: Mapping[str, Any]) -> list[str]:
  """Returns the names of the figures, which are those with an interval."""
  return list(record.get('intervals', ()))


def read_config(workdir: epath.PathLike) -> dict[str, Any] | None:
  """Reads the config that a run was started with; None without a run.

  Raises:
    ValueError: if its config.json is damaged.
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
  """Makes sure that a workdir holds no other run; changes nothing.

  Args:
    workdir: the run's directory; it need not exist.
    config: nested dicts of what JSON can hold.
    may_change: dotted keys in which a later start may differ from the first.
    complete: adds what keys of an older version stand for by default.

  Raises:
    ValueError: if another key differs, by key, old and new value.
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
  """Writes config.json, unless it says the same already.

  Args:
    workdir: the run's directory, made if it does not exist.
    config: nested dicts of what JSON can hold.
  """
  workdir = epath.Path(workdir)
  if read_config(workdir) != as_stored(config):
    workdir.mkdir(parents=True, exist_ok=True)
    storage.write_text(
      workdir / 'config.json', json_text.dumps(config, indent=2) + '\n'
    )


def as_stored(config: Mapping[str, Any]) -> dict[str, Any]:
  """Converts to JSON and back, which makes lists of tuples."""
  return json.loads(json.dumps(config))


_ABSENT = object()  # unlike None, which a config may hold


def _flatten(tree: Mapping, prefix: str = '') -> Iterable[tuple[str, Any]]:
  for name, value in tree.items():
    if isinstance(value, dict) and value:
      yield from _flatten(value, f'{prefix}{name}.')
    else:
      yield prefix + name, value


def _differ(before: Mapping, after: Mapping, key: str, width: int = 50) -> str:
  """Both values; of long ones, the part where they begin to differ."""
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
