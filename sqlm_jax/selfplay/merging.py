"""Equal responses of a group are learned from as one that weighs as much.

They have one log-probability and, as they were paid alike, one advantage: a sum
over them is one of them, times their number. So neither values nor gradients
change, and a vote in which few answers differ is cheap to learn from.
"""

import numpy as np

from sqlm_jax.engine import groups


def merge(batch: groups.GroupBatch) -> groups.GroupBatch:
  """The same batch, in which the first of equal responses bears all weights.

  Args:
    batch: host arrays, without a value function.

  Returns:
    The batch with the number of responses of each row: none in one that counts
    for nothing, or that another row stands for. Its weight is 0.
  """
  counts = np.zeros(batch.lengths.shape, np.int32)
  weights = np.zeros_like(batch.weights)
  for group in range(int(batch.num_groups)):
    first = {}
    for row in np.flatnonzero(batch.weights[group]):
      tokens = batch.tokens[group, row, : batch.lengths[group, row]]
      same = tokens.tobytes(), batch.advantages[group, row].tobytes()
      stands_for_it = group, first.setdefault(same, row)
      counts[stands_for_it] += 1
      weights[stands_for_it] += batch.weights[group, row]
  return batch._replace(weights=weights, counts=counts)
