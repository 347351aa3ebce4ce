"""Tests of the moves of keys and values between chunks."""

import jax
import numpy as np
import pytest

from sqlm_jax.distributed import sharding
from sqlm_jax.engine import kv_cache, row_scheduler
from tests import tiny

LIMITS = row_scheduler.Limits(group_size=2, max_rows=4)
WIDTH = 2  # tokens of a chunk


@pytest.fixture(scope='module')
def mover():
  mesh = sharding.make_mesh(
    {'data': 1, 'fsdp': 1, 'tensor': 1}, jax.devices()[:1]
  )
  return kv_cache.CacheMover(tiny.tiny_policy(), mesh, row_scheduler.FINE)


def pair(seed, rows, slots):
  """Random keys and values [L, B, K, S, H]."""
  rng = np.random.default_rng(seed)
  shape = 2, rows, 2, slots, 8
  keys, values = rng.normal(size=(2, *shape)).astype(np.float32)
  return jax.device_put(keys), jax.device_put(values)


def test_the_first_chunk_needs_no_cache(mover):
  assert mover.empty(4, WIDTH, 8) is None


@pytest.mark.parametrize('starts', [[2, 2, 2, 2], [2, 1, 0, 2]])
@pytest.mark.parametrize('slots', [2, 4])
def test_a_chunk_is_appended_at_each_rows_start(mover, starts, slots):
  layout = row_scheduler.pack([], range(4), LIMITS)
  stored, recent = pair(0, 4, slots), pair(1, 4, WIDTH)
  expected = [np.zeros((2, 4, 2, 4, 8), np.float32) for _ in range(2)]
  for array, old, new in zip(expected, stored, recent, strict=True):
    array[:, :, :, :slots] = old
    for row, start in enumerate(starts):
      array[:, row, :, start : start + WIDTH] = new[:, row]
  moved = mover.move(
    stored,
    kv_cache.Recent(recent, np.array(starts)),
    layout,
    layout,
    unfinished=np.arange(4),
    max_start=8,
  )
  for found, array in zip(moved, expected, strict=True):
    np.testing.assert_array_equal(found, array)


def test_unfinished_responses_move_to_their_new_rows(mover):
  before = row_scheduler.pack([], range(4), LIMITS)
  after = row_scheduler.pack([3, 1], [], LIMITS)
  recent = pair(1, 4, WIDTH)
  keys, _ = mover.move(
    None,
    kv_cache.Recent(recent, np.zeros(4, np.int32)),
    before,
    after,
    unfinished=np.array([1, 3]),
    max_start=8,
  )
  assert keys.shape == (2, 2, 2, WIDTH, 8)
  for row, response in enumerate(after.rows.flat):
    np.testing.assert_array_equal(keys[:, row], recent[0][:, response])


def test_finished_responses_leave_no_cache(mover):
  layout = row_scheduler.pack([], range(4), LIMITS)
  recent = kv_cache.Recent(pair(1, 4, WIDTH), np.zeros(4, np.int32))
  assert (
    mover.move(
      None,
      recent,
      layout,
      row_scheduler.pack([], [6, 7], LIMITS),
      unfinished=np.array([6, 7]),
      max_start=8,
    )
    is None
  )
