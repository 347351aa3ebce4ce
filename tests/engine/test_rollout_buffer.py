"""Tests of the rollout buffer."""

import numpy as np

from sqlm_jax.engine import decoding, groups, rollout_buffer, row_scheduler


def test_rows_are_equal_if_prompt_and_tokens_are():
  buffer = rollout_buffer.RolloutBuffer(
    (4, 2), slots=3, state_dtype=np.dtype(np.int32)
  )
  drawn = np.array(
    [[7, 8], [7, 9], [7, 8], [7, 8], [7, 8], [7, 0], [7, 8], [7, 8]], np.int32
  )
  lengths = np.array([2, 2, 2, 2, 2, 1, 2, 2], np.int32)
  running = np.full((8,), 1 + decoding.STOPPED, np.int32)
  rows = np.arange(8)
  buffer.add(
    rows,
    decoding.Progress(drawn[:, 0], lengths, running),
    decoding.Drawn(drawn, drawn * 0.1, drawn * 0.1),
  )
  # The third prompt equals the first; the fourth is a prefix of it.
  prompts = groups.Prompts(
    prefix_tokens=np.zeros((1, 0), np.int32),
    prefix_lengths=np.zeros((1,), np.int32),
    tokens=np.array([[3, 0], [4, 0], [3, 0], [3, 0]], np.int32),
    lengths=np.array([2, 2, 2, 1], np.int32),
  )
  first, runs = buffer.first_equal(rows, prompts)
  # Row 5 has drawn one token, the other rows two.
  np.testing.assert_array_equal(first, [0, 1, 2, 2, 0, 5, 6, 6])
  assert runs.all()
  # A row without a response equals no other row.
  empty = row_scheduler.EMPTY
  first, runs = buffer.first_equal(np.array([empty, 4, 0, empty]), prompts)
  np.testing.assert_array_equal(first, [0, 1, 1, 3])
  np.testing.assert_array_equal(runs, [False, True, True, False])
