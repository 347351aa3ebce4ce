"""Low-rank adapters as a part of the parameters, Hu et al. (2021).

An adapted map has the leaves `lora_a` and `lora_b` beside its `kernel`. What
trains are these leaves, a tree of their own; the rest is the frozen base.
"""

from typing import Any

import jax
import jax.numpy as jnp

from sqlm_jax.models import layers

Params = dict[str, Any]
_NAMES = ('lora_a', 'lora_b')


def adapters(params: Params) -> Params:
  """The adapters alone, a tree without empty branches."""
  return _filter(params, lambda name: name in _NAMES)


def base(params: Params) -> Params:
  """Everything but the adapters."""
  return _filter(params, lambda name: name not in _NAMES)


def join(base: Params, adapters: Params) -> Params:
  """One tree of two that share no leaf; copies nothing."""
  joined = dict(base)
  for name, there in adapters.items():
    here = joined.get(name)
    joined[name] = there if here is None else join(here, there)
  return joined


def merge(
  params: Params, lora: layers.Lora, dtype: str | None = None
) -> Params:
  """Folds the adapters into their kernels: kernel + alpha / r a b.

  Args:
    params: of a model with adapters.
    lora: their rank and scale.
    dtype: what the sum, made in float32, is rounded to; default, the kernel's.
      A frozen kernel may be stored in fewer bits than a small change needs.
  """
  if 'lora_a' not in params:
    return {
      name: merge(leaf, lora, dtype) if isinstance(leaf, dict) else leaf
      for name, leaf in params.items()
    }
  kernel, a, b = (params[name] for name in ('kernel', *_NAMES))
  # [L, in, r] by [L, r, out], whatever in and out consist of.
  flat_a = a.reshape(a.shape[0], -1, a.shape[-1])
  flat_b = b.reshape(*b.shape[:2], -1)
  delta = jnp.matmul(flat_a, flat_b, precision=jax.lax.Precision.HIGHEST)
  delta = delta.reshape(kernel.shape) * (lora.alpha / lora.rank)
  merged = kernel.astype(jnp.float32) + delta
  return base(params) | {'kernel': merged.astype(dtype or kernel.dtype)}


def _filter(params: Params, keep) -> Params:
  found = {}
  for name, leaf in params.items():
    if isinstance(leaf, dict):
      if branch := _filter(leaf, keep):
        found[name] = branch
    elif keep(name):
      found[name] = leaf
  return found
