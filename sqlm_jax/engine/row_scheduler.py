"""Row scheduling for decoding: assigns responses to rows, on the host.

Decoding works on A blocks of J rows each. The rows of a block continue the same
prompt, whose keys and values the block holds once. At first, J is the size of a
group. When most responses of a group have finished, narrower blocks waste fewer
rows, and a group with more than J unfinished responses occupies several blocks.
A row of a finished response costs as much as any other row, so responses are
packed again as soon as this saves time.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from sqlm_jax.ops import integers

# Repacking must increase the share of occupied rows at least by this factor: it
# copies the caches, and a new shape may have to be compiled.
_MIN_GAIN = 1.25

EMPTY = -1

# A prompt and its responses, in order of priority.
_Group = tuple[int, list[int]]


class Layout(NamedTuple):
  """An assignment of responses to rows.

  Responses are numbered from 0 across all groups.
  """

  prompts: np.ndarray  # [A], index of the prompt that a block holds
  rows: np.ndarray  # [A, J], index of the response in each row, or EMPTY


class Shapes(NamedTuple):
  """The set of batch and cache shapes that decoding is compiled for.

  Attributes:
    divisor: ratio of one number of rows to the next smaller one, and likewise
      of the widths of blocks.
    min_rows: number of rows per device below which fewer rows save little time.
    capacities: the smallest capacities for keys and values, in chunks.
    factor: growth factor of the larger capacities: they are all of `capacities`
      but the first, times the powers of `factor`.
  """

  divisor: int
  min_rows: int
  capacities: tuple[int, ...]
  factor: int

  def capacity(
    self, length: int, chunk: int, max_start: float = math.inf
  ) -> int:
    """Returns the smallest capacity for `length` tokens.

    Args:
      length: number of tokens to hold.
      chunk: tokens per chunk, the unit of capacities.
      max_start: last slot at which a chunk may start; limits the capacity to
        `max_start + chunk`.
    """
    first, *steps = self.capacities
    sizes = itertools.chain(
      [first],
      (size * self.factor**k for k in itertools.count() for size in steps),
    )
    capacity = next(size * chunk for size in sizes if size * chunk >= length)
    return int(min(capacity, max_start + chunk))


# Capacities of 1, 2, 3, 4, 6, 8, 12, ... chunks.
FINE = Shapes(divisor=2, min_rows=1, capacities=(1, 2, 3), factor=2)
# Capacities of 4, 16, 64, ... chunks, for policies that read live slots only:
# unused capacity costs only memory, while every shape costs a compilation. A
# GPU takes 1.5 ms per token for 64 rows and 2.0 ms for 256
# (docs/dev/speed_notes.md).
COARSE = Shapes(divisor=4, min_rows=64, capacities=(4, 16), factor=4)


class Limits(NamedTuple):
  """Bounds on layouts.

  Attributes:
    group_size: G; response i belongs to prompt i // G.
    max_rows: maximum number of rows, at least G and at least the number of
      running responses.
    multiple: divisor of the number of blocks, so that they can be split over
      devices. Rounding up to it may exceed `max_rows`.
    shapes: shapes to choose from.
  """

  group_size: int
  max_rows: int
  multiple: int = 1
  shapes: Shapes = FINE


def pack(
  running: Sequence[int], waiting: Sequence[int], limits: Limits
) -> Layout:
  """Packs responses into as few rows as possible.

  To limit compilations, the number of rows is `max_rows` divided repeatedly by
  `shapes.divisor`, and the width of a block is the group size divided
  repeatedly by it. For the same number of rows, the widest blocks are
  preferred, because they hold the fewest copies of a prompt.

  Args:
    running: responses that have started. All of them get a row.
    waiting: responses that have not started, in order of priority. If they do
      not all fit, as many as possible get a row.
    limits: bounds on the layout.
  """
  group_size, max_rows, multiple, shapes = limits
  groups = [
    *_group_by_prompt(running, group_size),
    *_group_by_prompt(waiting, group_size),
  ]
  total = len(running) + len(waiting)
  best, max_placed = None, 0
  min_rows = min(max(total, shapes.min_rows * multiple), max_rows)
  for rows in reversed(list(_repeated_quotients(max_rows, shapes.divisor))):
    if rows < min_rows:
      continue
    for width in _repeated_quotients(min(group_size, rows), shapes.divisor):
      blocks = integers.ceil_div(rows, width)
      blocks = multiple * integers.ceil_div(blocks, multiple)
      layout = _fill(groups, blocks=blocks, width=width)
      placed = np.count_nonzero(layout.rows != EMPTY)
      if placed == total:
        return layout
      has_all_running = np.isin(running, layout.rows).all()
      if rows == max_rows and has_all_running and placed > max_placed:
        best, max_placed = layout, placed
  assert best is not None  # blocks of width 1 hold all running responses
  return best


def repack(
  layout: Layout,
  unfinished: np.ndarray,
  limits: Limits,
  *,
  static: bool = False,
) -> Layout:
  """Returns the layout for the next tokens.

  This is `layout` itself if a new layout would save too little.

  Args:
    layout: the previous layout.
    unfinished: running and waiting responses.
    limits: bounds on the layout.
    static: keep the layout until all of its responses have finished.
  """
  is_running = np.isin(unfinished, layout.rows)
  running = unfinished[is_running].tolist()
  waiting = unfinished[~is_running].tolist()
  size = layout.rows.size
  if running and (static or size < _MIN_GAIN * len(running)):
    return layout
  packed = pack(running, waiting, limits)
  used = np.count_nonzero(packed.rows != EMPTY) / packed.rows.size
  return packed if used * size >= _MIN_GAIN * len(running) else layout


def sources(before: Layout, after: Layout) -> np.ndarray:
  """Returns, for each row of `after`, its source row in `before`, [A * J].

  The source is row 0 for empty rows and for responses not in `before`.
  """
  source = {response: row for row, response in enumerate(before.rows.flat)}
  source[EMPTY] = 0
  return np.array([source.get(r, 0) for r in after.rows.flat], np.int32)


def _repeated_quotients(number: int, divisor: int) -> Iterator[int]:
  """Yields `number` divided repeatedly by `divisor`, rounded up, down to 1."""
  while number > 1:
    yield number
    number = integers.ceil_div(number, divisor)
  yield 1


def _group_by_prompt(responses: Sequence[int], group_size: int) -> list[_Group]:
  groups = {}
  for response in responses:
    groups.setdefault(response // group_size, []).append(response)
  return list(groups.items())


def _fill(groups: Sequence[_Group], *, blocks: int, width: int) -> Layout:
  """Assigns responses to blocks in order until all blocks are used."""
  layout = Layout(
    np.zeros((blocks,), np.int32), np.full((blocks, width), EMPTY, np.int32)
  )
  parts = (
    (prompt, responses[first : first + width])
    for prompt, responses in groups
    for first in range(0, len(responses), width)
  )
  for block, (prompt, responses) in enumerate(itertools.islice(parts, blocks)):
    layout.prompts[block] = prompt
    layout.rows[block, : len(responses)] = responses
  return layout
