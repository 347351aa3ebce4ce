"""Sums of gradients: over the microbatches of a batch, and with a penalty."""

from typing import ParamSpec, Protocol

import jax
import jax.numpy as jnp

from sqlm_jax.engine import groups
from sqlm_jax.models import policy as policy_lib
from sqlm_jax.ops import integers

# Parameters that a loss takes in addition to the trained ones.
Frozen = ParamSpec('Frozen')


class Penalty(Protocol[Frozen]):
  """Computes the gradient of a loss that does not depend on the batch."""

  def __call__(
    self,
    trained: policy_lib.Params,
    *frozen: Frozen.args,
    **named: Frozen.kwargs,
  ) -> tuple[policy_lib.Params, groups.Metrics] | None:
    """Returns the gradient, and metrics that include the loss.

    It returns None if there is nothing to add.

    Args:
      trained: parameters with respect to which the loss is differentiated.
      *frozen: further parameters, as for `learner.LossFunction`.
      **named: further parameters by name.
    """


class Gradients(Protocol):
  """Computes gradients and metrics of a microbatch."""

  def __call__(
    self, microbatch: groups.GroupBatch
  ) -> tuple[policy_lib.Params, groups.Metrics]: ...


def sum_microbatches(
  gradients: Gradients,
  microbatches: groups.GroupBatch,
  num_groups: jax.Array,
) -> tuple[policy_lib.Params, groups.Metrics]:
  """Adds up gradients and metrics over microbatches.

  Args:
    gradients: computes them for one microbatch.
    microbatches: stacked microbatches.
    num_groups: number of groups to learn from. Microbatches after these groups
      are not computed.
  """
  count, size = microbatches.tokens.shape[:2]

  def gradients_at(
    i: jax.Array | int,
  ) -> tuple[policy_lib.Params, groups.Metrics]:
    return gradients(jax.tree.map(lambda x: x[i], microbatches))

  if count == 1:
    # The TPU compiler may hoist parts out of a loop and compute them twice.
    return gradients_at(0)
  zeros = jax.tree.map(
    lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(gradients_at, 0)
  )
  return jax.lax.fori_loop(
    0,
    integers.ceil_div(num_groups, size),
    lambda i, total: jax.tree.map(jnp.add, total, gradients_at(i)),
    zeros,
  )


def add_penalty(
  grads: policy_lib.Params,
  metrics: groups.Metrics,
  penalty_grads: policy_lib.Params,
  penalty_metrics: groups.Metrics,
) -> tuple[policy_lib.Params, groups.Metrics]:
  """Adds the gradient and the loss of a penalty to those of a batch."""
  loss = jax.tree.map(jnp.add, metrics['loss'], penalty_metrics['loss'])
  grads = jax.tree.map(jnp.add, grads, penalty_grads)
  return grads, metrics | penalty_metrics | {'loss': loss}
