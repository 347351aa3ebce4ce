"""The rollout buffer of a sampler call, held in host memory."""

import math
from collections.abc import Callable

import numpy as np

from sqlm_jax.engine import decoding, dedup, groups, row_scheduler

_NO_TOKEN = -1


def asked(
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


class Record:
  """The responses of a sampler call as drawn so far, in NumPy arrays."""

  def __init__(self, shape: tuple[int, int], slots: int, states: np.dtype):
    num_rows = math.prod(shape)
    wide = (num_rows, slots)
    self._shape = shape  # Q, G
    self._told_Q = np.zeros(shape[:1], bool)
    self.drawn = decoding.Drawn(
      np.zeros(wide, np.int32),
      np.zeros(wide, np.float32),
      np.zeros(wide, np.float32),
    )
    zeros = np.zeros((num_rows,), np.int32)
    # Responses count as stopped until `add` sets their progress.
    self.progress = decoding.Progress(
      zeros, zeros.copy(), np.full((num_rows,), decoding.STOPPED, states)
    )

  def add(
    self,
    rows_B: np.ndarray,
    progress: decoding.Progress,
    drawn: decoding.Drawn,
  ) -> None:
    """Appends the tokens drawn for the responses `rows_B`, skipping EMPTY.

    Args:
      rows_B: indices of the responses.
      progress: their progress after the tokens were drawn.
      drawn: the drawn tokens, starting at each response's previous length.
    """
    begun_B1 = self.progress.lengths[rows_B][:, None]
    slots_BC = begun_B1 + np.arange(drawn.tokens.shape[1])
    new_BC = slots_BC < progress.lengths[:, None]
    new_BC &= (rows_B != row_scheduler.EMPTY)[:, None]
    rows_BC = np.broadcast_to(rows_B[:, None], new_BC.shape)
    for whole, part in zip(self.drawn, drawn, strict=True):
      whole[rows_BC[new_BC], slots_BC[new_BC]] = part[new_BC]
    there_B = rows_B != row_scheduler.EMPTY
    for whole, part in zip(self.progress, progress, strict=True):
      whole[rows_B[there_B]] = part[there_B]

  def unfinished(self, limit: int) -> np.ndarray:
    """Returns the indices of responses that neither stopped nor hit `limit`."""
    stopped_N = self.progress.stop_state == decoding.STOPPED
    return np.flatnonzero(~stopped_N & (self.progress.lengths < limit))

  def of(self, rows_B: np.ndarray) -> decoding.Progress:
    """Returns the progress of responses; EMPTY counts as stopped."""
    empty_B = rows_B == row_scheduler.EMPTY
    last, lengths, stop_state = (x[rows_B] for x in self.progress)
    return decoding.Progress(
      last,
      np.where(empty_B, 1, lengths),
      np.where(
        empty_B, np.array(decoding.STOPPED, stop_state.dtype), stop_state
      ),
    )

  def firsts(
    self, rows_B: np.ndarray, prompts: groups.Prompts
  ) -> tuple[np.ndarray, np.ndarray]:
    """Finds rows with equal prompts and tokens so far.

    Equal prompts count as the same prompt, because a batch may contain a
    question more than once.

    Returns:
      For each row, [B] each: the first row that is equal to it, and True if its
      response has not stopped.
    """
    progress = self.of(rows_B)
    prompt_Q = dedup.firsts(
      np.zeros(self._shape[:1], np.int32),
      _written(np.asarray(prompts.tokens), np.asarray(prompts.lengths)),
    )
    prompts_B = prompt_Q[rows_B // self._shape[1]]
    first_B = dedup.firsts(
      np.where(rows_B == row_scheduler.EMPTY, row_scheduler.EMPTY, prompts_B),
      _written(self.drawn.tokens[rows_B], progress.lengths),
    )
    return first_B, progress.stop_state != decoding.STOPPED

  def tell(
    self,
    unfinished: np.ndarray,
    num_prompts: int | None,
    on_ended: Callable[..., None],
  ) -> None:
    """Calls `on_ended` with the groups that have finished since the last call.

    Args:
      unfinished: indices of the unfinished responses.
      num_prompts: number of prompts that are not padding; None means all.
      on_ended: called with `(which_Q, tokens_QGR, lengths_QG)`, unless no
        further group has finished.
    """
    ended_Q = ~self._told_Q
    if num_prompts is not None:
      ended_Q[num_prompts:] = False
    ended_Q[unfinished // self._shape[1]] = False
    self._told_Q |= ended_Q
    if ended_Q.any():
      which_Q = np.flatnonzero(ended_Q)
      of = lambda x: x.reshape(*self._shape, *x.shape[1:])[which_Q]
      on_ended(which_Q, of(self.drawn.tokens), of(self.progress.lengths))

  def rollout(self) -> groups.Rollout:
    group = lambda x: x.reshape(*self._shape, *x.shape[1:])
    return groups.Rollout(
      *map(group, self.drawn),
      lengths=group(self.progress.lengths),
      finished=group(self.progress.stop_state == decoding.STOPPED),
    )


def _written(tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
  """Returns tokens [N, S], with `_NO_TOKEN` after each row's length."""
  slots_S = np.arange(tokens.shape[1])
  return np.where(slots_S < lengths[:, None], tokens, _NO_TOKEN)
