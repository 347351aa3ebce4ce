"""Which responses are decoded side by side: on the host, numbers alone.

Decoding works on A slots of J rows each. The rows of a slot continue the same
prompt, whose keys and values it holds once. At first J is the group's size;
when most of a group's responses have ended, narrower slots waste less, and a
group with more than J of them left occupies several. A row that has ended
costs as much as one that has not, so that responses are packed anew as soon as
that pays.
"""

import itertools
import math
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


class Shapes(NamedTuple):
  """Which shapes there are of what is decoded.

  Attributes:
    part: rows that are left of a number in the next lower one, 2 is a half;
      and a slot's, too.
    fewest: rows of a device beside which fewer would save little.
    rooms: the first ones for keys and values, in chunks.
    factor: by which those behind them grow.
  """

  part: int
  fewest: int
  rooms: tuple[int, ...]
  factor: int

  def room(self, length: int, chunk: int, most: float = math.inf) -> int:
    """The least room for so many tokens.

    No more than it takes where no chunk begins behind so many at `most`.
    """
    first, *steps = self.rooms
    sizes = itertools.chain(
      [first],
      (size * self.factor**k for k in itertools.count() for size in steps),
    )
    room = next(size * chunk for size in sizes if size * chunk >= length)
    return min(room, most + chunk)


# Rooms for 1, 2, 3, 4, 6, 8, 12, ... chunks.
FINE = Shapes(part=2, fewest=1, rooms=(1, 2, 3), factor=2)
# 4, 16, 64, ... chunks, where what is not live is not read: room costs memory
# alone, a further shape another compilation. 64 rows take a GPU 1.5 ms a token,
# and 256 take it 2.0 (docs/benchmarks.md).
FEW = Shapes(part=4, fewest=64, rooms=(4, 16), factor=4)


def pack(
  running: Sequence[int],
  waiting: Sequence[int],
  *,
  group_size: int,
  max_rows: int,
  multiple: int = 1,
  shapes: Shapes = FINE,
) -> Layout:
  """Packs responses into as few rows as possible.

  There are few shapes: `max_rows`, a part of it, a part of that and so on, each
  in slots of the group's size, a part of it and so on. Among equals the widest
  slots are taken: they hold the fewest copies of a prompt.

  Args:
    running: responses that have begun. They find room, whatever happens.
    waiting: responses that have not; those in front come first. Where there
      is no room for all, as many as possible come along.
    group_size: G; response i belongs to prompt i // G.
    max_rows: at least G and as many as are running.
    multiple: the number of slots is a multiple of it, if need be with more
      rows than `max_rows`; devices share them.
    shapes: which there are.
  """
  groups = [_by_prompt(part, group_size) for part in (running, waiting)]
  total = len(running) + len(waiting)
  best, most_placed = None, 0
  least = min(max(total, shapes.fewest * multiple), max_rows)
  for rows in reversed(list(_parts(max_rows, shapes.part))):
    if rows < least:
      continue
    for width in _parts(min(group_size, rows), shapes.part):
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
