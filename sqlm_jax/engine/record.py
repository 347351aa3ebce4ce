"""What a call of the sampler has drawn so far: on the host, NumPy arrays."""

import math
from collections.abc import Callable

import numpy as np

from sqlm_jax.engine import decoding, distinct, groups, schedule

_NO_TOKEN = -1


def asked(
  num_groups: int, group_size: int, num_prompts: int | None
) -> np.ndarray:
  """Numbers of the responses, EMPTY where the prompt fills the shape."""
  rows_N = np.arange(num_groups * group_size)
  if num_prompts is not None:
    rows_N[num_prompts * group_size :] = schedule.EMPTY
  return rows_N


class Record:
  """All responses of a call, as far as they are; NumPy arrays."""

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
    # Stopped, until they are heard of.
    self.progress = decoding.Progress(
      zeros, zeros.copy(), np.full((num_rows,), decoding.STOPPED, states)
    )

  def add(
    self,
    rows_B: np.ndarray,
    progress: decoding.Progress,
    drawn: decoding.Drawn,
  ) -> None:
    """Takes in what the responses of `rows_B` have drawn; skips EMPTY."""
    begun_B1 = self.progress.lengths[rows_B][:, None]
    slots_BC = begun_B1 + np.arange(drawn.tokens.shape[1])
    new_BC = slots_BC < progress.lengths[:, None]
    new_BC &= (rows_B != schedule.EMPTY)[:, None]
    rows_BC = np.broadcast_to(rows_B[:, None], new_BC.shape)
    for whole, part in zip(self.drawn, drawn, strict=True):
      whole[rows_BC[new_BC], slots_BC[new_BC]] = part[new_BC]
    there_B = rows_B != schedule.EMPTY
    for whole, part in zip(self.progress, progress, strict=True):
      whole[rows_B[there_B]] = part[there_B]

  def unfinished(self, limit: int) -> np.ndarray:
    """The responses that have tokens to go."""
    stopped_N = self.progress.stop_state == decoding.STOPPED
    return np.flatnonzero(~stopped_N & (self.progress.lengths < limit))

  def of(self, rows_B: np.ndarray) -> decoding.Progress:
    """The progress of some; EMPTY has stopped."""
    empty_B = rows_B == schedule.EMPTY
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
    """For each row the first that is equal so far, and who runs, [B] each.

    Prompts that are equal are one: a question may be asked twice.
    """
    progress = self.of(rows_B)
    prompt_Q = distinct.firsts(
      np.zeros(self._shape[:1], np.int32),
      _written(np.asarray(prompts.tokens), np.asarray(prompts.lengths)),
    )
    prompts_B = prompt_Q[rows_B // self._shape[1]]
    first_B = distinct.firsts(
      np.where(rows_B == schedule.EMPTY, schedule.EMPTY, prompts_B),
      _written(self.drawn.tokens[rows_B], progress.lengths),
    )
    return first_B, progress.stop_state != decoding.STOPPED

  def tell(
    self,
    unfinished: np.ndarray,
    num_prompts: int | None,
    on_ended: Callable[..., None],
  ) -> None:
    """Says whose responses have all ended since the last time."""
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
  """Tokens [N, S], with no token behind a row's length."""
  slots_S = np.arange(tokens.shape[1])
  return np.where(slots_S < lengths[:, None], tokens, _NO_TOKEN)
