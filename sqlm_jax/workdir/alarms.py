"""Writes and reads alarms.jsonl, with one line per alarm raised or ended.

{"step": 7, "name": "one_answer", "event": "raised",
 "signal": "solver/answer_share_max", "value": 0.97, "sign": ">",
 "threshold": 0.9, "since": 6, "action": "not_best", "detail": ""}

The file does not exist before the first alarm.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from etils import epath

from sqlm_jax.workdir import jsonl


def append(workdir: epath.Path, events: Sequence[Mapping[str, Any]]) -> None:
  """Appends the alarms of a step."""
  if events:
    jsonl.append(_path(workdir), events)


def read(workdir: epath.PathLike) -> list[dict[str, Any]]:
  """Returns the alarms, oldest first."""
  path = _path(epath.Path(workdir))
  return jsonl.read(path) if path.exists() else []


def rewind(workdir: epath.Path, step: int) -> None:
  """Removes the alarms of step `step` and later, and an incomplete line."""
  path = _path(workdir)
  if path.exists():
    jsonl.rewrite(path, [row for row in read(workdir) if row['step'] < step])


def is_raised(
  events: Sequence[Mapping[str, Any]], step: int, names: Collection[str]
) -> bool:
  """Returns True if an alarm holds for the model after `step` steps.

  The metrics of step n are those of the model after n steps of training, so an
  alarm since step n is about this model.

  Args:
    events: Lines of alarms.jsonl, oldest first.
    step: Number of steps that the model was trained for.
    names: Names of the alarms that count.
  """
  last = {
    (event['name'], event['signal'], event['since']): event
    for event in events
    if event['name'] in names
  }
  return any(
    since <= step and (event['event'] == 'raised' or step <= event['step'])
    for (_, _, since), event in last.items()
  )


def _path(workdir: epath.Path) -> epath.Path:
  return workdir / 'alarms.jsonl'
