"""Tests of the assignment of responses to rows."""

import numpy as np
import pytest

from sqlm_jax.engine import row_scheduler

LIMITS = row_scheduler.Limits(group_size=4, max_rows=16)


def placed(layout):
  return sorted(r for r in layout.rows.flat if r != row_scheduler.EMPTY)


def check(layout):
  """Every row continues its block's prompt; no response has two rows."""
  for prompt, rows in zip(layout.prompts, layout.rows, strict=True):
    live = rows[rows != row_scheduler.EMPTY]
    assert (live // 4 == prompt).all()
  assert len(set(placed(layout))) == len(placed(layout))


def test_at_first_a_block_is_a_group():
  layout = row_scheduler.pack([], range(16), LIMITS)
  np.testing.assert_array_equal(layout.rows, np.arange(16).reshape(4, 4))
  assert layout.prompts.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
  'running, blocks, width',
  [
    (range(8), 2, 4),
    ([0, 1, 2, 3, 9], 2, 4),
    ([0, 5, 10, 15], 4, 1),  # one of each group: narrow blocks
    ([0, 1, 4, 5], 2, 2),
    ([0, 1, 2, 4, 8, 12], 8, 1),  # six rows do not fit into four
    ([7], 1, 1),
  ],
)
def test_the_fewest_rows_then_the_widest_blocks(running, blocks, width):
  layout = row_scheduler.pack(list(running), [], LIMITS)
  check(layout)
  assert layout.rows.shape == (blocks, width)
  assert placed(layout) == sorted(running)


def test_running_responses_stay_and_waiting_ones_follow_in_order():
  layout = row_scheduler.pack([1, 6, 11], range(16, 64), LIMITS)
  check(layout)
  assert layout.rows.size == 16
  assert {1, 6, 11} <= set(placed(layout))
  added = [r for r in placed(layout) if r >= 16]
  assert added == list(range(16, 16 + len(added)))
  assert len(added) >= 10  # wide blocks would leave only one block for others


def test_every_running_response_has_a_row():
  rng = np.random.default_rng(0)
  for _ in range(200):
    running = np.sort(rng.choice(40, rng.integers(1, 17), replace=False))
    waiting = range(40, 40 + int(rng.integers(0, 30)))
    layout = row_scheduler.pack(running.tolist(), waiting, LIMITS)
    check(layout)
    assert set(running.tolist()) <= set(placed(layout))
    if layout.rows.size < 16:
      assert set(waiting) <= set(placed(layout))


def test_blocks_are_split_over_devices():
  layout = row_scheduler.pack([0, 1, 2, 3, 4], [], LIMITS._replace(multiple=8))
  assert layout.rows.shape[0] == 8
  check(layout)


@pytest.mark.parametrize(
  'running, shape',
  [
    (range(16), (4, 4)),
    ([0, 1, 2, 3, 4], (4, 4)),  # more rows than a quarter
    ([0, 4, 8, 12], (4, 1)),
    ([7], (1, 4)),  # no fewer rows, which would not be faster
    ([0, 1, 2], (1, 4)),
  ],
)
def test_coarse_shapes(running, shape):
  shapes = row_scheduler.COARSE._replace(min_rows=4)
  layout = row_scheduler.pack(list(running), [], LIMITS._replace(shapes=shapes))
  check(layout)
  assert layout.rows.shape == shape
  assert placed(layout) == sorted(running)


@pytest.mark.parametrize('devices, rows', [(1, 4), (2, 8), (8, 16)])
def test_min_rows_are_those_of_a_device(devices, rows):
  shapes = row_scheduler.COARSE._replace(min_rows=4)
  layout = row_scheduler.pack(
    [7], [], LIMITS._replace(shapes=shapes, multiple=devices)
  )
  assert layout.rows.size >= rows


def test_capacities():
  lengths = [0, 1, 32, 33, 128, 129, 511, 512, 513, 1024]
  assert [row_scheduler.FINE.capacity(n, 32) for n in lengths] == [
    *(32, 32, 32, 64, 128, 192, 512, 512, 768, 1024)
  ]
  assert [row_scheduler.COARSE.capacity(n, 32) for n in lengths] == [
    *(128, 128, 128, 128, 128, 512, 512, 512, 2048, 2048)
  ]
  assert row_scheduler.COARSE.capacity(513, 32, max_start=1024) == 1056


def test_a_layout_stays_if_a_new_one_would_save_little():
  full = row_scheduler.pack([], range(16), LIMITS)

  def again(left):
    return row_scheduler.repack(full, np.array(left), LIMITS)

  assert again(range(16)) is full
  assert again(range(3, 16)) is full
  # Nine do not fit into half of the rows.
  assert again(range(9)) is full
  assert again(range(8)).rows.size == 8
  # One response has finished, and another one is waiting.
  assert again(range(1, 17)) is full
  assert len(placed(again(range(8, 24)))) == 16


def test_static_batching_waits_for_the_last_response():
  full = row_scheduler.pack([], range(16), LIMITS)

  def left(*rows):
    return row_scheduler.repack(full, np.array(rows), LIMITS, static=True)

  assert left(3, 16, 17) is full
  assert placed(left(16, 17)) == [16, 17]


def test_sources_are_the_earlier_rows():
  before = row_scheduler.pack([], range(16), LIMITS)
  after = row_scheduler.pack([2, 9], range(16, 30), LIMITS)
  found = row_scheduler.sources(before, after)
  for response, source in zip(after.rows.flat, found, strict=True):
    if response in (2, 9):
      assert before.rows.reshape(-1)[source] == response
    else:
      assert source == 0
