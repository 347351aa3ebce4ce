"""Unstacked decoder parameters for decoding, with a separate tree per layer.

On a GPU, a slice of stacked weights is copied before each product, and thus
again for every token. Unstacked layers are read one by one, without a scan.
"""

from typing import Any

import jax

from sqlm_jax.models import layers

# Keys in the tree of parameters.
STACKED, UNSTACKED = 'layers', 'unstacked_layers'
# For each submodule of a layer, the linear maps that have the same input, and
# the axis of their outputs.
_JOINED = {
  'attention': (('query', 'key', 'value'), -2),
  'mlp': (('gate', 'up'), -1),
}


def unstack(params: dict[str, Any], *, join: bool = True) -> dict[str, Any]:
  """Unstacks the layers of a policy into one tree of parameters per layer.

  Args:
    params: parameters of the policy, with stacked layers.
    join: if True, concatenate the weights of linear maps with the same input,
      so that there is only one product. Use False if outputs are sharded over
      devices: the parts of the concatenated output would have to be moved
      between devices.

  Returns:
    The parameters, with the layers under `UNSTACKED` by index instead of under
    `STACKED`.
  """
  stacked = params[STACKED]
  if join:
    stacked = stacked | {
      name: layers.join(stacked[name], *how) for name, how in _JOINED.items()
    }
  count = len(jax.tree.leaves(stacked)[0])
  unstacked = {
    str(i): jax.tree.map(lambda x, i=i: x[i], stacked) for i in range(count)
  }
  rest = {name: x for name, x in params.items() if name != STACKED}
  return rest | {UNSTACKED: unstacked}
