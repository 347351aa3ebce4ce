"""Parameters of a decoder whose layers are trees of their own, to decode with.

A slice of stacked weights is copied on a GPU before it is multiplied, for every
token anew. Layers apart are read one by one, without a scan.
"""

import jax

from sqlm_jax.models import layers

STACKED, NAME = 'layers', 'layers_apart'  # in a tree of parameters
# Of a layer's linear maps, those of one input, and the axis of their outputs.
_JOINED = {
  'attention': (('query', 'key', 'value'), -2),
  'mlp': (('gate', 'up'), -1),
}


def take_apart(params, *, join: bool = True):
  """A tree for each layer instead of one in which they are stacked.

  Args:
    params: of the policy.
    join: weights that multiply the same become one, so that there is one
      product. Not where devices share their outputs: what belongs to the parts
      would move between them.
  """
  stacked = params[STACKED]
  if join:
    stacked = stacked | {
      name: layers.join(stacked[name], *how) for name, how in _JOINED.items()
    }
  count = len(jax.tree.leaves(stacked)[0])
  apart = {
    str(i): jax.tree.map(lambda x, i=i: x[i], stacked) for i in range(count)
  }
  rest = {name: x for name, x in params.items() if name != STACKED}
  return rest | {NAME: apart}
