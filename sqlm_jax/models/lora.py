"""Low-rank adapters in the tree of parameters, Hu et al. (2021).

An adapted linear map has the leaves `lora_a` and `lora_b` in addition to its
`kernel`. Only these leaves are trained, as a separate tree. All other leaves
are the frozen base.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from sqlm_jax.models import layers

Params = dict[str, Any]
_NAMES = ('lora_a', 'lora_b')


def adapters(params: Params) -> Params:
  """Returns the tree of adapters only, without empty branches."""
  return _filter(params, lambda name: name in _NAMES)


def base(params: Params) -> Params:
  """Returns the tree of all parameters except the adapters."""
  return _filter(params, lambda name: name not in _NAMES)


def join(base: Params, adapters: Params) -> Params:
  """Merges two trees that have no leaf in common, without copying arrays."""
  joined = dict(base)
  for name, branch in adapters.items():
    base_branch = joined.get(name)
    joined[name] = branch if base_branch is None else join(base_branch, branch)
  return joined


def merge(
  params: Params, lora: layers.Lora, dtype: str | None = None
) -> Params:
  """Adds the adapters to their kernels: kernel + alpha / r a b.

  Args:
    params: parameters of a model with adapters.
    lora: rank and scale of the adapters.
    dtype: dtype of the result, which is summed in float32; defaults to the
      dtype of the kernel. The dtype of a frozen kernel may have too few bits
      for the small change that an adapter makes.

  Returns:
    The parameters without adapters.
  """
  if 'lora_a' not in params:
    return {
      name: merge(leaf, lora, dtype) if isinstance(leaf, dict) else leaf
      for name, leaf in params.items()
    }
  kernel, a, b = (params[name] for name in ('kernel', *_NAMES))
  # Flatten to [L, in, r] and [L, r, out]; inputs and outputs may have several
  # dimensions.
  flat_a = a.reshape(a.shape[0], -1, a.shape[-1])
  flat_b = b.reshape(*b.shape[:2], -1)
  delta = jnp.matmul(flat_a, flat_b, precision=jax.lax.Precision.HIGHEST)
  delta = delta.reshape(kernel.shape) * (lora.alpha / lora.rank)
  merged = kernel.astype(jnp.float32) + delta
  return base(params) | {'kernel': merged.astype(dtype or kernel.dtype)}


def _filter(params: Params, keep: Callable[[str], bool]) -> Params:
  filtered = {}
  for name, leaf in params.items():
    if isinstance(leaf, dict):
      if branch := _filter(leaf, keep):
        filtered[name] = branch
    elif keep(name):
      filtered[name] = leaf
  return filtered
