"""Row scheduling for decoding: assigns responses to rows, on the host.

Decoding works on A slots of J rows each. The rows of a slot continue the same
prompt, whose keys and values the slot holds once. At first, J is the size of a
group. When most responses of a group have finished, narrower slots waste fewer
rows, and a group with more than J unfinished responses occupies several slots.
A row of a finished response costs as much as any other row, so responses are
packed again as soon as this saves time.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

# Repacking must increase the share of occupied rows at least by this factor: it
# copies the caches, and a new shape may have to be compiled.
_WORTH_IT = 1.25

EMPTY = -1


class Layout(NamedTuple):
  """An assignment of responses to rows.

  Responses are numbered from 0 across all groups.
  """

  prompts: np.ndarray  # [A], index of the prompt that a slot holds
  rows: np.ndarray  # [A, J], index of the response in each row, or EMPTY


class Shapes(NamedTuple):
  """The set of batch and cache shapes that decoding is compiled for.

  Attributes:
    part: divisor between one number of rows and the next smaller one (2 halves
      it), and likewise between widths of slots.
    fewest: number of rows per device below which fewer rows save little time.
    rooms: the smallest capacities for keys and values, in chunks.
    factor: growth factor of the larger capacities: they are all of `rooms` but
      the first, times the powers of `factor`.
  """

  part: int
  fewest: int
  rooms: tuple[int, ...]
  factor: int

  def room(self, length: int, chunk: int, most: float = math.inf) -> int:
    """Returns the smallest capacity for `length` tokens.

    Args:
      length: number of tokens to hold.
      chunk: tokens per chunk, the unit of capacities.
      most: last slot at which a chunk may start; limits the capacity to
        `most + chunk`.
    """
    first, *steps = self.rooms
    sizes = itertools.chain(
      [first],
      (size * self.factor**k for k in itertools.count() for size in steps),
    )
    room = next(size * chunk for size in sizes if size * chunk >= length)
    return min(room, most + chunk)


# Capacities of 1, 2, 3, 4, 6, 8, 12, ... chunks.
FINE = Shapes(part=2, fewest=1, rooms=(1, 2, 3), factor=2)
# Capacities of 4, 16, 64, ... chunks, for policies that read live slots only:
# unused capacity costs only memory, while every shape costs a compilation. A
# GPU takes 1.5 ms per token for 64 rows and 2.0 ms for 256
# (docs/dev/speed_notes.md).
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

  To limit compilations, the number of rows is `max_rows` divided repeatedly by
  `shapes.part`, and the width of a slot is the group size divided repeatedly by
  it. For the same number of rows, the widest slots are preferred, because they
  hold the fewest copies of a prompt.

  Args:
    running: responses that have started. All of them get a row.
    waiting: responses that have not started, in order of priority. If they do
      not all fit, as many as possible get a row.
    group_size: G; response i belongs to prompt i // G.
    max_rows: maximum number of rows, at least G and at least the number of
      running responses.
    multiple: divisor of the number of slots, so that they can be split over
      devices. Rounding up to it may exceed `max_rows`.
    shapes: shapes to choose from.
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
  return best  # not None: slots of width 1 hold all running responses


def repack(
  layout: Layout | None,
  unfinished: np.ndarray,
  *,
  static: bool = False,
  **limits: int,
) -> Layout:
  """Returns the layout for the next tokens.

  This is `layout` itself if a new layout would save too little.

  Args:
    layout: the previous layout, or None.
    unfinished: running and waiting responses.
    static: keep the layout until all of its responses have finished.
    **limits: keyword arguments of `pack`.
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
  """Returns, for each row of `after`, its source row in `before`, [A * J].

  The source is row 0 for empty rows and for responses not in `before`.
  """
  seats = {response: i for i, response in enumerate(before.rows.flat)}
  seats[EMPTY] = 0
  return np.array([seats.get(r, 0) for r in after.rows.flat], np.int32)


def _parts(number: int, part: int) -> Iterator[int]:
  """Yields `number` divided repeatedly by `part`, rounded up, down to 1."""
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
  """Assigns responses to slots in order until all slots are used."""
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
