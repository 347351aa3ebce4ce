"""The rollout buffer of a sampler call, held in host memory.

N here is the number of responses of the call, Q * G.
"""

import math
from typing import Protocol

import numpy as np

from sqlm_jax.engine import decoding, dedup, groups, row_scheduler

_NO_TOKEN = -1


class OnEnded(Protocol):
  """Receives the responses to prompts while others are still being sampled."""

  def __call__(
    self, which_Q: np.ndarray, tokens_QGR: np.ndarray, lengths_QG: np.ndarray
  ) -> None:
    """Is called with the prompts whose responses have all finished.

    Args:
      which_Q: indices of the prompts.
      tokens_QGR: tokens of their responses.
      lengths_QG: number of tokens of their responses.
    """


def response_indices(
  num_groups: int, group_size: int, num_prompts: int | None
) -> np.ndarray:
  """Returns the indices of all responses, EMPTY for those of padding prompts.

  Args:
    num_groups: Q.
    group_size: G.
    num_prompts: number of prompts that are not padding; None means all.
  """
  rows_N = np.arange(num_groups * group_size)
  if num_prompts is not None:
    rows_N[num_prompts * group_size :] = row_scheduler.EMPTY
  return rows_N


class RolloutBuffer:
  """The responses of a sampler call as drawn so far, in NumPy arrays."""

  def __init__(
    self,
    shape: tuple[int, int],
    *,
    slots: int,
    state_dtype: np.dtype,
    num_prompts: int | None = None,
  ) -> None:
    """Creates an empty buffer.

    Args:
      shape: Q and G.
      slots: R, capacity of a response in tokens.
      state_dtype: dtype of the states of the stop table.
      num_prompts: number of prompts that are not padding; None means all.
    """
    num_rows = math.prod(shape)
    self._shape = shape
    self._is_pending_Q = np.ones(shape[:1], bool)  # not yet notified
    if num_prompts is not None:
      self._is_pending_Q[num_prompts:] = False
    self.drawn = decoding.Drawn(
      np.zeros((num_rows, slots), np.int32),
      np.zeros((num_rows, slots), np.float32),
      np.zeros((num_rows, slots), np.float32),
    )
    # Responses count as stopped until `add` sets their progress.
    self.progress = decoding.Progress(
      np.zeros((num_rows,), np.int32),
      np.zeros((num_rows,), np.int32),
      np.full((num_rows,), decoding.STOPPED, state_dtype),
    )

  def add(
    self,
    rows_B: np.ndarray,
    progress: decoding.Progress[np.ndarray],
    drawn: decoding.Drawn[np.ndarray],
  ) -> None:
    """Appends the tokens drawn for the responses `rows_B`, skipping EMPTY.

    Args:
      rows_B: indices of the responses.
      progress: their progress after the tokens were drawn.
      drawn: the drawn tokens, starting at each response's previous length.
    """
    is_used_B = rows_B != row_scheduler.EMPTY
    starts_B1 = self.progress.lengths[rows_B][:, None]
    slots_BC = starts_B1 + np.arange(drawn.tokens.shape[1])
    is_new_BC = slots_BC < progress.lengths[:, None]
    is_new_BC &= is_used_B[:, None]
    rows_BC = np.broadcast_to(rows_B[:, None], is_new_BC.shape)
    for buffer, new in zip(self.drawn, drawn, strict=True):
      buffer[rows_BC[is_new_BC], slots_BC[is_new_BC]] = new[is_new_BC]
    for buffer, new in zip(self.progress, progress, strict=True):
      buffer[rows_B[is_used_B]] = new[is_used_B]

  def unfinished(self, limit: int) -> np.ndarray:
    """Returns the indices of responses that neither stopped nor hit `limit`."""
    stopped_N = self.progress.stop_state == decoding.STOPPED
    return np.flatnonzero(~stopped_N & (self.progress.lengths < limit))

  def progress_of(self, rows_B: np.ndarray) -> decoding.Progress[np.ndarray]:
    """Returns the progress of responses; EMPTY counts as stopped."""
    is_empty_B = rows_B == row_scheduler.EMPTY
    last, lengths, stop_state = (x[rows_B] for x in self.progress)
    stopped = np.array(decoding.STOPPED, stop_state.dtype)
    return decoding.Progress(
      last,
      np.where(is_empty_B, 1, lengths),
      np.where(is_empty_B, stopped, stop_state),
    )

  def first_equal(
    self, rows_B: np.ndarray, prompts: groups.Prompts
  ) -> tuple[np.ndarray, np.ndarray]:
    """Finds rows with equal prompts and tokens so far.

    Equal prompts count as the same prompt, because a batch may contain a
    question more than once.

    Returns:
      Two arrays [B] with a value for each row, which are the first row that is
      equal to it, and True if its response has not stopped.
    """
    progress = self.progress_of(rows_B)
    prompt_Q = dedup.first_equal(
      np.zeros(self._shape[:1], np.int32),
      _mark_padding(np.asarray(prompts.tokens), np.asarray(prompts.lengths)),
    )
    prompts_B = prompt_Q[rows_B // self._shape[1]]
    first_B = dedup.first_equal(
      np.where(rows_B == row_scheduler.EMPTY, row_scheduler.EMPTY, prompts_B),
      _mark_padding(self.drawn.tokens[rows_B], progress.lengths),
    )
    return first_B, progress.stop_state != decoding.STOPPED

  def notify(self, unfinished: np.ndarray, on_ended: OnEnded) -> None:
    """Reports the groups that have finished since the last call.

    Args:
      unfinished: indices of the unfinished responses.
      on_ended: called unless no further group has finished.
    """
    finished_Q = self._is_pending_Q.copy()
    finished_Q[unfinished // self._shape[1]] = False
    self._is_pending_Q &= ~finished_Q
    if finished_Q.any():
      which_Q = np.flatnonzero(finished_Q)
      tokens_QGR = self._by_group(self.drawn.tokens)
      lengths_QG = self._by_group(self.progress.lengths)
      on_ended(which_Q, tokens_QGR[which_Q], lengths_QG[which_Q])

  def rollout(self) -> groups.Rollout[np.ndarray]:
    """Returns the responses, by group."""
    return groups.Rollout(
      *map(self._by_group, self.drawn),
      lengths=self._by_group(self.progress.lengths),
      finished=self._by_group(self.progress.stop_state == decoding.STOPPED),
    )

  def _by_group(self, x_N: np.ndarray) -> np.ndarray:
    """Reshapes [N, ...] to [Q, G, ...]."""
    return x_N.reshape(*self._shape, *x_N.shape[1:])


def _mark_padding(tokens_BR: np.ndarray, lengths_B: np.ndarray) -> np.ndarray:
  """Returns the tokens, with `_NO_TOKEN` after each row's length."""
  positions_R = np.arange(tokens_BR.shape[1])
  return np.where(positions_R < lengths_B[:, None], tokens_BR, _NO_TOKEN)
