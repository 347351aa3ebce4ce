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


def join(events: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
  """Joins the two lines of each alarm, when it is raised and when it ends.

  Returns:
    The last line of each alarm, in the order in which they were raised, with
    its first step `since` and the step `ended`, None while it holds.
  """
  joined: dict[tuple[str, ...], dict[str, Any]] = {}
  for event in events:
    since = event.get('since', event.get('step'))
    key = (event.get('name'), event.get('signal'), since)
    ended = event.get('step') if event.get('event') == 'ended' else None
    joined[tuple(map(str, key))] = {**event, 'since': since, 'ended': ended}
  return list(joined.values())


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
  return any(
    alarm['since'] <= step
    and (alarm['ended'] is None or step <= alarm['ended'])
    for alarm in join(events)
    if alarm['name'] in names
  )


def _path(workdir: epath.Path) -> epath.Path:
  return workdir / 'alarms.jsonl'
