"""A bound on how far an update moves a policy."""

from typing import Generic, NamedTuple, ParamSpec, Protocol

import jax
import jax.numpy as jnp

from sqlm_jax.engine import groups
from sqlm_jax.models import policy as policy_lib

# Parameters that a loss takes in addition to the trained ones.
Frozen = ParamSpec('Frozen')

_MAX_MEASUREMENTS = 6  # maximum number of KL measurements per update

# Scale and KL of the last measurement, and the number of measurements.
_Carry = tuple[jax.Array, jax.Array, jax.Array | int]


class KLFunction(Protocol[Frozen]):
  """Estimates how far parameters are from the policy that sampled a batch."""

  def __call__(
    self,
    trained: policy_lib.Params,
    batch: groups.GroupBatch,
    *frozen: Frozen.args,
    **named: Frozen.kwargs,
  ) -> tuple[jax.Array, jax.Array]:
    """Returns the sum of the KL over learned tokens, and their number.

    Args:
      trained: trained parameters.
      batch: a microbatch.
      *frozen: further parameters, as for `learner.LossFunction`.
      **named: further parameters by name.
    """


class KLOfParams(Protocol):
  """Measures the KL of parameters."""

  def __call__(self, params: policy_lib.Params) -> tuple[jax.Array, jax.Array]:
    """Returns the sum of the KL over learned tokens, and their number.

    Args:
      params: trained parameters.
    """


class KLOfScale(Protocol):
  """Measures the KL of a scaled update."""

  def __call__(self, scale: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the sum of the KL after `scale` times the update, and its count.

    Args:
      scale: factor of the update, from 0 to 1.
    """


class KLBound(NamedTuple, Generic[Frozen]):
  """A bound on how far an update moves a policy.

  Attributes:
    max_kl: largest KL, in nats per token, from the policy that sampled the
      batch to the policy after the update. A larger update is shortened.
    kl: measures the KL. It is called with the first microbatch of an update.
  """

  max_kl: float
  kl: KLFunction[Frozen]


def find_scale(
  measure: KLOfScale, max_kl: float
) -> tuple[jax.Array, jax.Array]:
  """Finds the scale of an update that keeps its KL within a bound.

  Args:
    measure: measures the KL of a scaled update.
    max_kl: the bound; a KL of at most 1.1 times the bound is accepted.

  Returns:
    The scale, 1 for the full update, and the mean KL of the scaled update. The
    KL may still exceed the bound after `_MAX_MEASUREMENTS` measurements, or if
    earlier updates have used up the bound.
  """

  def shorten(carry: _Carry) -> _Carry:
    scale, kl, number = carry
    # For small updates, the KL is quadratic in the scale.
    scale *= jnp.where(number == 0, 1.0, jnp.sqrt(max_kl / kl))
    kl_sum, count = measure(scale)
    return scale, kl_sum / jnp.maximum(count, 1), number + 1

  def is_too_large(carry: _Carry) -> jax.Array:
    _, kl, number = carry
    return (kl > 1.1 * max_kl) & (number < _MAX_MEASUREMENTS)

  start = jnp.ones(()), jnp.full((), jnp.inf), 0
  scale, kl, _ = jax.lax.while_loop(is_too_large, shorten, start)
  return scale, kl
