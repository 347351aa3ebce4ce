"""Updates of a donated state in place, on a CPU.

By default, XLA for CPU copies both optimizer moments before the update: the
parameters are computed from the old moments, and the order of the writes is not
fixed. With region analysis, which XLA uses for TPU, the parameters are computed
first and no copy is needed. The numbers are the same bit for bit.
"""

import functools

import jax

from sqlm_jax.distributed import sharding

_OPTION = 'xla_cpu_copy_insertion_use_region_analysis'


def compiler_options(mesh: jax.sharding.Mesh) -> dict[str, bool]:
  """Returns the options of `jax.jit` that update a donated state in place."""
  is_known = sharding.is_on_cpu(mesh) and compiler_knows(_OPTION)
  return {_OPTION: True} if is_known else {}


@functools.cache
def compiler_knows(option: str) -> bool:
  """Returns True if this version of XLA accepts the option.

  XLA adds and removes options, and raises an error for an unknown one.
  """
  program = jax.jit(lambda: 0, compiler_options={option: True})
  try:
    program.lower().compile()
  except jax.errors.JaxRuntimeError:
    return False
  return True
