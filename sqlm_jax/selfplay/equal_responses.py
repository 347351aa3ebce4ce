"""Merges equal responses of a group into one row of the same total weight.

Equal responses have the same log-probabilities and, if their rewards are equal,
the same advantage. A sum over them is therefore one term times their number.
Merging changes neither the loss nor its gradients, and it makes training on
groups with few distinct answers cheap.
"""

import numpy as np

from sqlm_jax.engine import groups


def merge(
  batch: groups.GroupBatch[np.ndarray],
) -> groups.GroupBatch[np.ndarray]:
  """Moves the weights of equal responses to the first of them.

  Responses of a group are equal if their tokens and advantages are equal.

  Args:
    batch: host arrays, without values of a value function.

  Returns:
    The batch with `counts`, the number of responses that each row represents.
    Rows without a weight, and rows merged into another row, have count 0 and
    weight 0.
  """
  counts = np.zeros(batch.lengths.shape, np.int32)
  weights = np.zeros_like(batch.weights)
  for group in range(int(batch.num_groups)):
    first = {}
    for row in np.flatnonzero(batch.weights[group]):
      tokens = batch.tokens[group, row, : batch.lengths[group, row]]
      key = tokens.tobytes(), batch.advantages[group, row].tobytes()
      representative = group, first.setdefault(key, row)
      counts[representative] += 1
      weights[representative] += batch.weights[group, row]
  return batch._replace(weights=weights, counts=counts)
