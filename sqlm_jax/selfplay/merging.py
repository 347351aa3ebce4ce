"""Equal responses of a group are learned from as one that weighs as much.

They have one log-probability and, as they were paid alike, one advantage: a sum
over them is one of them, times their number. So neither values nor gradients
change, and a vote in which few answers differ is cheap to learn from.
"""

import numpy as np

from sqlm_jax.engine import groups


def merge(
  batch: groups.GroupBatch, *, groups_per_microbatch: int
) -> groups.GroupBatch:
  """The same batch with half as many rows a group, where that is less work.

  A group with more different responses than that becomes several with the
  same prompt, which may also fill a microbatch better. There are two shapes
  and no more: each costs a compilation.

  Args:
    batch: host arrays, of whole microbatches, without a value function.
    groups_per_microbatch: groups that are computed at once.

  Returns:
    [Q, G / 2, ...] with the number of responses of each row, or the batch.
  """
  size, group_size, length = batch.tokens.shape
  width = -(-group_size // 2)
  slots = [
    (group, rows[first : first + width])
    for group in range(int(batch.num_groups))
    for rows in [_equal_rows(batch, group)]
    for first in range(0, len(rows), width)
  ]
  at_once = min(groups_per_microbatch, size)
  work = lambda count, rows: (
    -(-count // at_once) * (batch.prompts.tokens.shape[1] + rows * length)
  )
  merged_work = work(len(slots), width)
  if len(slots) > size or merged_work >= work(batch.num_groups, group_size):
    return batch
  return _take(batch, slots, width)


def _equal_rows(batch: groups.GroupBatch, group: int) -> list[list[int]]:
  """The group's responses that count, equal ones together."""
  equal = {}
  for row, length in enumerate(batch.lengths[group]):
    if batch.weights[group, row] != 0:
      tokens = batch.tokens[group, row, :length].tobytes()
      advantages = batch.advantages[group, row].tobytes()
      equal.setdefault((tokens, advantages), []).append(row)
  return list(equal.values())


def _take(
  batch: groups.GroupBatch,
  slots: list[tuple[int, list[list[int]]]],
  width: int,
) -> groups.GroupBatch:
  """Puts rows into slots; what is left of them weighs nothing."""
  shape = (len(batch.tokens), width)
  of_slot = np.zeros(shape[:1], np.int32)
  of_row, counts = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
  for slot, (group, rows) in enumerate(slots):
    of_slot[slot] = group
    of_row[slot, : len(rows)] = [equal[0] for equal in rows]
    counts[slot, : len(rows)] = list(map(len, rows))
  take = lambda x: x[of_slot[:, None], of_row]
  return batch._replace(
    prompts=batch.prompts._replace(
      tokens=batch.prompts.tokens[of_slot],
      lengths=batch.prompts.lengths[of_slot],
    ),
    tokens=take(batch.tokens),
    lengths=take(batch.lengths),
    old_logprobs=take(batch.old_logprobs),
    advantages=take(batch.advantages),
    weights=take(batch.weights) * counts,
    num_groups=np.int32(len(slots)),
    counts=counts,
  )
