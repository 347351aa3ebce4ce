"""Batches in which the learner reads tokens, not the padding between them."""

from collections.abc import Callable

import jax
import numpy as np

from sqlm_jax.engine import groups
from sqlm_jax.ops import packing


def pack(
  batch: groups.GroupBatch,
  *,
  groups_per_microbatch: int,
  parts: int,
  bucket: Callable[[int], int],
) -> groups.GroupBatch:
  """Puts responses side by side, and as much into each microbatch.

  Args:
    batch: host arrays of whole microbatches, those groups first that count.
    groups_per_microbatch: groups that are computed at once.
    parts: that the rows of a microbatch are split into, if they can be.
    bucket: the room of each part, from the tokens in the fullest one. As each
      room costs a compilation there is none for less than the prompts take.

  Returns:
    The same groups in another order, and their packing; none if there is no
    room to be saved.
  """
  at_once = min(groups_per_microbatch, len(batch.lengths))
  parts = parts if at_once % parts == 0 else 1
  # What predicts the tokens behind the first one, of rows that count.
  inputs_QG = np.where(batch.weights != 0, batch.lengths - 1, 0).clip(0)
  used = -(-int(batch.num_groups) // at_once) * parts
  order = spread(inputs_QG.sum(axis=1), used, at_once // parts)
  batch = _in_order(batch, order)
  width = batch.tokens.shape[-1] - 1
  inputs_AB = inputs_QG[order].reshape(len(order) * parts // at_once, -1)
  prompts = batch.prompts.prefix_tokens.size
  prompts += batch.prompts.tokens[: at_once // parts].size
  room = bucket(max(int(inputs_AB.sum(axis=1).max()), prompts))
  if room >= inputs_AB.shape[1] * width:
    return batch
  return batch._replace(packing=make_packing(inputs_AB, width, room))


def spread(sizes: np.ndarray, parts: int, room: int) -> np.ndarray:
  """Orders groups so that as many of them in turn are about as large.

  The largest go first, each to the part with the least so far (Graham, 1969).

  Args:
    sizes: of all groups. Behind `parts * room` they stay where they are.
    parts: among which they are shared out.
    room: groups a part.

  Returns:
    The order of all groups, part by part.
  """
  count = parts * room
  members, totals = [[] for _ in range(parts)], [0] * parts
  for group in np.argsort(-sizes[:count], kind='stable'):
    part = min(
      (part for part in range(parts) if len(members[part]) < room),
      key=lambda part: totals[part],
    )
    members[part].append(group)
    totals[part] += sizes[group]
  # As they came, but for that.
  ordered = sorted(sorted(part) for part in members)
  rest = np.arange(count, len(sizes))
  return np.concatenate([*ordered, rest]).astype(int)


def make_packing(
  lengths_AB: np.ndarray, width: int, room: int
) -> packing.Packing:
  """Packs rows with the first so many of `width` tokens into parts of a room.

  Args:
    lengths_AB: tokens of each row of each part.
    width: tokens that a row has room for.
    room: tokens that a part has room for, at least as many as there are.
  """
  parts, rows = lengths_AB.shape
  live_ABT = np.arange(width) < lengths_AB[..., None]
  slots = np.full((parts, room), rows * width, np.int32)
  places_ABT = np.full((parts, rows, width), room, np.int32)
  for part, live_BT in enumerate(live_ABT):
    count = live_BT.sum()
    slots[part, :count] = np.flatnonzero(live_BT)
    places_ABT[part][live_BT] = np.arange(count)
  return packing.Packing(slots, places_ABT)


def _in_order(batch: groups.GroupBatch, order: np.ndarray) -> groups.GroupBatch:
  """The same groups in another order."""
  prompts = batch.prompts
  prompts = prompts._replace(
    tokens=prompts.tokens[order], lengths=prompts.lengths[order]
  )
  of_groups = batch._replace(prompts=None, num_groups=None)
  ordered = jax.tree.map(lambda x: x[order], of_groups)
  return ordered._replace(prompts=prompts, num_groups=batch.num_groups)
