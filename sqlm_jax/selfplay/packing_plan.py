"""Packs the responses of a batch, so that padding costs less computation."""

import itertools
from typing import NamedTuple

import jax
import numpy as np

from sqlm_jax.engine import groups
from sqlm_jax.ops import integers, packing


def bucket(length: int) -> int:
  """Rounds a length up to 8, 12, 16, 24, 32, 48, ...

  Above 8, at most a third of the bucket is padding.
  """
  sizes = (size << k for k in itertools.count() for size in (8, 12))
  return next(size for size in sizes if size >= length)


class Layout(NamedTuple):
  """The division of a batch into microbatches and shards.

  Attributes:
    groups_per_microbatch: maximum number of groups of a microbatch.
    shards: number of shards that the rows of a microbatch are split into, if
      the number of its groups is divisible by it.
  """

  groups_per_microbatch: int
  shards: int

  def microbatch_size(self, num_groups: int) -> int:
    """Returns the number of groups of a microbatch."""
    return min(self.groups_per_microbatch, num_groups)

  def part_size(self, num_groups: int) -> int:
    """Returns the number of groups that are packed together, on one shard."""
    size = self.microbatch_size(num_groups)
    return size if size % self.shards else size // self.shards


def pack_batch(
  batch: groups.GroupBatch[np.ndarray], layout: Layout
) -> groups.GroupBatch[np.ndarray]:
  """Packs responses and balances the number of tokens of the parts.

  Args:
    batch: host arrays of full microbatches. The first `batch.num_groups`
      groups are trained on.
    layout: layout of the batch.

  Returns:
    The batch with its groups reordered, and with their packing. The packing is
    None if it would not save any tokens.
  """
  # Number of tokens that predict a later token, in rows with a weight.
  inputs_QG = np.where(batch.weights != 0, batch.lengths - 1, 0).clip(0)
  num_groups = len(inputs_QG)
  microbatch_size = layout.microbatch_size(num_groups)
  part_size = layout.part_size(num_groups)
  num_microbatches = integers.ceil_div(int(batch.num_groups), microbatch_size)
  num_parts = num_microbatches * microbatch_size // part_size
  order = spread(inputs_QG.sum(axis=1), num_parts, part_size)
  batch = _in_order(batch, order)
  width = batch.tokens.shape[2] - 1
  packed = _pack_parts(inputs_QG[order], width, batch.prompts, layout)
  return batch._replace(packing=packed)


def pack_texts(
  texts: groups.Texts[np.ndarray], lengths_QG: np.ndarray, layout: Layout
) -> groups.Texts[np.ndarray]:
  """Packs the responses of texts, if that saves tokens.

  Args:
    texts: host arrays of full microbatches.
    lengths_QG: number of tokens of each response.
    layout: layout of the texts.
  """
  live_Q1 = np.arange(len(lengths_QG))[:, None] < texts.num_groups
  inputs_QG = np.where(live_Q1, lengths_QG - 1, 0).clip(0)
  width = texts.tokens.shape[2] - 1
  packed = _pack_parts(inputs_QG, width, texts.prompts, layout)
  return texts._replace(packing=packed)


def _pack_parts(
  inputs_QG: np.ndarray,
  width: int,
  prompts: groups.Prompts[np.ndarray],
  layout: Layout,
) -> packing.Packing[np.ndarray] | None:
  """Packs all parts with the same capacity, that of the fullest part.

  The capacity is rounded up to a bucket because every capacity is compiled
  separately. It is never below the number of prompt tokens of a part, because a
  smaller capacity would save little compared with the cost of the prompts.

  Returns:
    The packing, or None if it would not save any tokens.
  """
  part_size = layout.part_size(len(inputs_QG))
  inputs_AB = inputs_QG.reshape(len(inputs_QG) // part_size, -1)
  prompt_tokens = prompts.prefix_tokens.size + prompts.tokens[:part_size].size
  capacity = bucket(max(int(inputs_AB.sum(axis=1).max()), prompt_tokens))
  if capacity >= inputs_AB.shape[1] * width:
    return None
  return make_packing(inputs_AB, width, capacity)


def spread(sizes: np.ndarray, parts: int, part_size: int) -> np.ndarray:
  """Orders groups so that consecutive parts have about the same total size.

  Groups are assigned in order of decreasing size, each to the part with the
  smallest total so far (Graham, 1969).

  Args:
    sizes: size of each group. Groups after the first `parts * part_size` keep
      their position.
    parts: number of parts.
    part_size: number of groups per part.

  Returns:
    The order of all groups, part by part.
  """
  count = parts * part_size
  members, totals = [[] for _ in range(parts)], [0] * parts
  for group in np.argsort(-sizes[:count], kind='stable'):
    part = min(
      (part for part in range(parts) if len(members[part]) < part_size),
      key=lambda part: totals[part],
    )
    members[part].append(group)
    totals[part] += sizes[group]
  # Restore the original order within each part; order parts by first group.
  ordered = sorted(sorted(part) for part in members)
  rest = np.arange(count, len(sizes))
  return np.concatenate([*ordered, rest]).astype(int)


def make_packing(
  lengths_AB: np.ndarray, width: int, capacity: int
) -> packing.Packing[np.ndarray]:
  """Builds the packing of right-padded rows into parts of a fixed capacity.

  Args:
    lengths_AB: number of tokens of each row of each part.
    width: capacity of a row, in tokens.
    capacity: capacity of a part, in tokens, at least the sum of its lengths.
  """
  parts, rows = lengths_AB.shape
  live_ABT = np.arange(width) < lengths_AB[..., None]
  slots = np.full((parts, capacity), rows * width, np.int32)
  places_ABT = np.full((parts, rows, width), capacity, np.int32)
  for part, live_BT in enumerate(live_ABT):
    count = live_BT.sum()
    slots[part, :count] = np.flatnonzero(live_BT)
    places_ABT[part][live_BT] = np.arange(count)
  return packing.Packing(slots, places_ABT)


def _in_order(
  batch: groups.GroupBatch[np.ndarray], order: np.ndarray
) -> groups.GroupBatch[np.ndarray]:
  """Reorders the groups of a batch."""
  fields = batch._asdict()
  del fields['prompts'], fields['num_groups']
  ordered = jax.tree.map(lambda x: x[order], fields)
  return batch._replace(prompts=batch.prompts.take(order), **ordered)
