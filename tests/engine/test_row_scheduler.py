"""Packing responses into rows."""

import numpy as np
import pytest

from sqlm_jax.engine import row_scheduler

LIMITS = {'group_size': 4, 'max_rows': 16}


def there(layout):
  return sorted(r for r in layout.rows.flat if r != row_scheduler.EMPTY)


def check(layout):
  """Every row continues the prompt of its slot, and nobody sits twice."""
  for prompt, rows in zip(layout.prompts, layout.rows, strict=True):
    live = rows[rows != row_scheduler.EMPTY]
    assert (live // 4 == prompt).all()
  assert len(set(there(layout))) == len(there(layout))


def test_at_first_a_slot_is_a_group():
  layout = row_scheduler.pack([], range(16), **LIMITS)
  np.testing.assert_array_equal(layout.rows, np.arange(16).reshape(4, 4))
  assert layout.prompts.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
  'running, slots, width',
  [
    (range(8), 2, 4),
    ([0, 1, 2, 3, 9], 2, 4),
    ([0, 5, 10, 15], 4, 1),  # one of each group: narrow slots
    ([0, 1, 4, 5], 2, 2),
    ([0, 1, 2, 4, 8, 12], 8, 1),  # six rows do not fit into four
    ([7], 1, 1),
  ],
)
def test_as_few_rows_as_it_takes_and_then_wide_slots(running, slots, width):
  layout = row_scheduler.pack(list(running), [], **LIMITS)
  check(layout)
  assert layout.rows.shape == (slots, width)
  assert there(layout) == sorted(running)


def test_who_runs_stays_and_others_come_in_their_order():
  layout = row_scheduler.pack([1, 6, 11], range(16, 64), **LIMITS)
  check(layout)
  assert layout.rows.size == 16
  assert {1, 6, 11} <= set(there(layout))
  came = [r for r in there(layout) if r >= 16]
  assert came == list(range(16, 16 + len(came)))
  assert len(came) >= 10  # in wide slots the three would fill all but one


def test_every_division_has_room_for_all_that_run():
  rng = np.random.default_rng(0)
  for _ in range(200):
    running = np.sort(rng.choice(40, rng.integers(1, 17), replace=False))
    waiting = range(40, 40 + int(rng.integers(0, 30)))
    layout = row_scheduler.pack(running.tolist(), waiting, **LIMITS)
    check(layout)
    assert set(running.tolist()) <= set(there(layout))
    if layout.rows.size < 16:
      assert set(waiting) <= set(there(layout))


def test_slots_are_shared_by_devices():
  layout = row_scheduler.pack([0, 1, 2, 3, 4], [], multiple=8, **LIMITS)
  assert layout.rows.shape[0] == 8
  check(layout)


@pytest.mark.parametrize(
  'running, shape',
  [
    (range(16), (4, 4)),
    ([0, 1, 2, 3, 4], (4, 4)),  # no room in a quarter
    ([0, 4, 8, 12], (4, 1)),
    ([7], (1, 4)),  # not in one row, which would not be faster
    ([0, 1, 2], (1, 4)),
  ],
)
def test_few_shapes(running, shape):
  few = row_scheduler.FEW._replace(fewest=4)
  layout = row_scheduler.pack(list(running), [], shapes=few, **LIMITS)
  check(layout)
  assert layout.rows.shape == shape
  assert there(layout) == sorted(running)


@pytest.mark.parametrize('devices, rows', [(1, 4), (2, 8), (8, 16)])
def test_fewest_rows_are_those_of_a_device(devices, rows):
  few = row_scheduler.FEW._replace(fewest=4)
  layout = row_scheduler.pack([7], [], shapes=few, multiple=devices, **LIMITS)
  assert layout.rows.size >= rows


def test_rooms():
  lengths = [0, 1, 32, 33, 128, 129, 511, 512, 513, 1024]
  assert [row_scheduler.FINE.room(n, 32) for n in lengths] == [
    *(32, 32, 32, 64, 128, 192, 512, 512, 768, 1024)
  ]
  assert [row_scheduler.FEW.room(n, 32) for n in lengths] == [
    *(128, 128, 128, 128, 128, 512, 512, 512, 2048, 2048)
  ]
  assert row_scheduler.FEW.room(513, 32, most=1024) == 1056


def test_nothing_moves_for_little():
  full = row_scheduler.pack([], range(16), **LIMITS)
  again = lambda left, **kwargs: row_scheduler.repack(
    full, np.array(left), **LIMITS, **kwargs
  )
  assert again(range(16)) is full
  assert again(range(3, 16)) is full
  # Nine do not fit into half of the rows.
  assert again(range(9)) is full
  assert again(range(8)).rows.size == 8
  # One has ended and one waits.
  assert again(range(1, 17)) is full
  assert len(there(again(range(8, 24)))) == 16


def test_static_batching_waits_for_the_last_one():
  full = row_scheduler.pack([], range(16), **LIMITS)
  left = lambda *rows: row_scheduler.repack(
    full, np.array(rows), static=True, **LIMITS
  )
  assert left(3, 16, 17) is full
  assert there(left(16, 17)) == [16, 17]


def test_sources_say_where_rows_were():
  before = row_scheduler.pack([], range(16), **LIMITS)
  after = row_scheduler.pack([2, 9], range(16, 30), **LIMITS)
  found = row_scheduler.sources(before, after)
  for response, source in zip(after.rows.flat, found, strict=True):
    if response in (2, 9):
      assert before.rows.reshape(-1)[source] == response
    else:
      assert source == 0
