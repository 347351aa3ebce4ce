"""Batches in which the learner reads tokens, not the padding between them."""

import itertools
from typing import NamedTuple

import jax
import numpy as np

from sqlm_jax.engine import groups
from sqlm_jax.ops import packing


def bucket(length: int) -> int:
  """The next of 8, 12, 16, 24, 32, 48, ...: at most a third is padding."""
  sizes = (size << k for k in itertools.count() for size in (8, 12))
  return next(size for size in sizes if size >= length)


class Layout(NamedTuple):
  """How batches are computed.

  Attributes:
    groups_per_microbatch: groups that are computed at once, or all if they are
      fewer.
    shards: devices that rows of a microbatch are split over, if they can be.
  """

  groups_per_microbatch: int
  shards: int

  def at_once(self, num_groups: int) -> int:
    """Groups of a microbatch."""
    return min(self.groups_per_microbatch, num_groups)

  def of_a_part(self, num_groups: int) -> int:
    """Groups whose tokens lie side by side: those that one device computes."""
    at_once = self.at_once(num_groups)
    return at_once if at_once % self.shards else at_once // self.shards


def pack_batch(batch: groups.GroupBatch, layout: Layout) -> groups.GroupBatch:
  """Puts responses side by side, and about as much into each microbatch.

  Args:
    batch: host arrays of whole microbatches, those groups first that count.
    layout: of the batch.

  Returns:
    The same groups in another order, and their packing; none if there is no
    room to be saved.
  """
  # What predicts the tokens behind the first one, of rows that count.
  inputs_QG = np.where(batch.weights != 0, batch.lengths - 1, 0).clip(0)
  num_groups = len(inputs_QG)
  at_once = layout.at_once(num_groups)
  used = -(-int(batch.num_groups) // at_once) * at_once
  of_a_part = layout.of_a_part(num_groups)
  order = spread(inputs_QG.sum(axis=1), used // of_a_part, of_a_part)
  batch = _in_order(batch, order)
  width = batch.tokens.shape[2] - 1
  found = _packing(inputs_QG[order], width, batch.prompts, layout)
  return batch._replace(packing=found)


def pack_texts(
  texts: groups.Texts, lengths_QG: np.ndarray, layout: Layout
) -> groups.Texts:
  """Puts responses of those lengths side by side, where that saves room."""
  asked_Q1 = np.arange(len(lengths_QG))[:, None] < texts.num_groups
  inputs_QG = np.where(asked_Q1, lengths_QG - 1, 0).clip(0)
  width = texts.tokens.shape[2] - 1
  found = _packing(inputs_QG, width, texts.prompts, layout)
  return texts._replace(packing=found)


def _packing(
  inputs_QG: np.ndarray, width: int, prompts: groups.Prompts, layout: Layout
) -> packing.Packing | None:
  """Of all parts, with room for the fullest.

  Each room costs a compilation. So there is none for less than the prompts of a
  part take: beside them it would save little.
  """
  of_a_part = layout.of_a_part(len(inputs_QG))
  inputs_AB = inputs_QG.reshape(len(inputs_QG) // of_a_part, -1)
  read = prompts.prefix_tokens.size + prompts.tokens[:of_a_part].size
  room = bucket(max(int(inputs_AB.sum(axis=1).max()), read))
  if room >= inputs_AB.shape[1] * width:
    return None
  return make_packing(inputs_AB, width, room)


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
  of_groups = batch._replace(prompts=None, num_groups=None)
  ordered = jax.tree.map(lambda x: x[order], of_groups)
  return ordered._replace(
    prompts=batch.prompts.take(order), num_groups=batch.num_groups
  )
