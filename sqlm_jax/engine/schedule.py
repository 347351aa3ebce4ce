"""Which responses are decoded side by side: on the host, numbers alone.

Decoding works on A slots of J rows each. The rows of a slot continue the same
prompt, whose keys and values it holds once. At first J is the group's size;
when most of a group's responses have ended, narrower slots waste less, and a
group with more than J of them left occupies several. A row that has ended
costs as much as one that has not, so that responses are packed anew as soon as
that pays.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

# Packing anew copies the caches, and a new shape may cost a compilation.
_WORTH_IT = 1.25

EMPTY = -1


class Layout(NamedTuple):
  """Who sits where. Responses are numbered through all groups, from 0."""

  prompts: np.ndarray  # [A], whose prompt a slot holds
  rows: np.ndarray  # [A, J], the response of each row, or EMPTY


def pack(
  running: Sequence[int],
  waiting: Sequence[int],
  *,
  group_size: int,
  max_rows: int,
  multiple: int = 1,
  part: int = 2,
  fewest: int = 1,
) -> Layout:
  """Packs responses into as few rows as possible.

  There are few shapes: `max_rows`, a half of it, a quarter and so on, each in
  slots of the group's size, half of it and so on. Among equals the widest
  slots are taken: they hold the fewest copies of a prompt.

  Args:
    running: responses that have begun. They find room, whatever happens.
    waiting: responses that have not; those in front come first. Where there
      is no room for all, as many as possible come along.
    group_size: G; response i belongs to prompt i // G.
    max_rows: at least G and as many as are running.
    multiple: the number of slots is a multiple of it, if need be with more
      rows than `max_rows`; devices share them.
    part: of its size that is left of a shape in the next one, 2 is a half.
    fewest: rows, where there are as many: fewer would not be faster.
  """
  groups = [_by_prompt(part, group_size) for part in (running, waiting)]
  total = len(running) + len(waiting)
  best, most_placed = None, 0
  for rows in reversed(list(_parts(max_rows, part))):
    if rows < min(max(total, fewest), max_rows):
      continue
    for width in _parts(min(group_size, rows), part):
      slots = -(-rows // width)
      slots += -slots % multiple
      layout = _fill(*groups, width, slots)
      placed = np.count_nonzero(layout.rows != EMPTY)
      if placed == total:
        return layout
      has_all_running = np.isin(running, layout.rows).all()
      if rows == max_rows and has_all_running and placed > most_placed:
        best, most_placed = layout, placed
  return best  # in slots of width 1 there is room for all that run


def repack(
  layout: Layout | None,
  unfinished: np.ndarray,
  *,
  static: bool = False,
  **limits: int,
) -> Layout:
  """The layout for the next tokens; the same one where little would be won.

  Args:
    layout: the one before, if there is one.
    unfinished: responses that have tokens to go, waiting ones included.
    static: change nothing while one of the layout's responses is unfinished.
    **limits: see `pack`.
  """
  if layout is None:
    return pack([], unfinished.tolist(), **limits)
  runs = np.isin(unfinished, layout.rows)
  running, waiting = unfinished[runs].tolist(), unfinished[~runs].tolist()
  size = layout.rows.size
  if running and (static or size < _WORTH_IT * len(running)):
    return layout
  packed = pack(running, waiting, **limits)
  used = np.count_nonzero(packed.rows != EMPTY) / packed.rows.size
  return packed if used * size >= _WORTH_IT * len(running) else layout


def sources(before: Layout, after: Layout) -> np.ndarray:
  """For each row of `after` the row of `before` it comes from, [A J].

  Whatever was not there before comes from row 0.
  """
  seats = {response: i for i, response in enumerate(before.rows.flat)}
  seats[EMPTY] = 0
  return np.array([seats.get(r, 0) for r in after.rows.flat], np.int32)


def _parts(number: int, part: int) -> Iterator[int]:
  """The number, a part of it rounded up, a part of that, ..., 1."""
  while number > 1:
    yield number
    number = -(-number // part)
  yield 1


def _by_prompt(
  responses: Sequence[int], group_size: int
) -> list[tuple[int, list[int]]]:
  groups = {}
  for response in responses:
    groups.setdefault(response // group_size, []).append(response)
  return list(groups.items())


def _fill(running, waiting, width: int, slots: int) -> Layout:
  """Fills slots from the first on, until there are no more."""
  layout = Layout(
    np.zeros((slots,), np.int32), np.full((slots, width), EMPTY, np.int32)
  )
  parts = (
    (prompt, members[first : first + width])
    for prompt, members in (*running, *waiting)
    for first in range(0, len(members), width)
  )
  for slot, (prompt, part) in zip(range(slots), parts):  # noqa: B905
    layout.prompts[slot] = prompt
    layout.rows[slot, : len(part)] = part
  return layout
