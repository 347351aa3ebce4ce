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


class KLOfParams(Protocol):
  """Measures the KL from the policy before an update to one after it."""

  def __call__(self, params: policy_lib.Params) -> jax.Array:
    """Returns the mean KL per token, in nats.

    Args:
      params: trained parameters after the update.
    """


class KLFrom(Protocol[Frozen]):
  """Returns a function that measures the KL from given parameters."""

  def __call__(
    self,
    trained: policy_lib.Params,
    batch: groups.GroupBatch,
    *frozen: Frozen.args,
    **named: Frozen.kwargs,
  ) -> KLOfParams:
    """Returns a function that measures the KL from `trained` to others.

    Args:
      trained: trained parameters before the update.
      batch: a microbatch of the update.
      *frozen: further parameters, as for `learner.LossFunction`.
      **named: further parameters by name.
    """


class KLOfScale(Protocol):
  """Measures the KL of a scaled update."""

  def __call__(self, scale: jax.Array) -> jax.Array:
    """Returns the mean KL per token of `scale` times the update.

    Args:
      scale: factor of the update, from 0 to 1.
    """


class KLBound(NamedTuple, Generic[Frozen]):
  """A bound on how far an update moves a policy.

  Attributes:
    max_kl: largest KL, in nats per token, from the policy before the update to
      the policy after it. A larger update is shortened.
    kl_from: returns the function that measures the KL. It is called with the
      first microbatch of an update.
  """

  max_kl: float
  kl_from: KLFrom[Frozen]


def find_scale(
  measure: KLOfScale, max_kl: float
) -> tuple[jax.Array, jax.Array]:
  """Finds the scale of an update that keeps its KL within a bound.

  Args:
    measure: measures the KL of a scaled update.
    max_kl: the bound; a KL of at most 1.1 times the bound is accepted.

  Returns:
    The scale, 1 for the full update, and the mean KL of the scaled update. The
    KL may still exceed the bound after `_MAX_MEASUREMENTS` measurements.
  """

  def shorten(carry: _Carry) -> _Carry:
    scale, kl, number = carry
    # For small updates, the KL is quadratic in the scale.
    scale *= jnp.where(number == 0, 1.0, jnp.sqrt(max_kl / kl))
    return scale, measure(scale), number + 1

  def is_too_large(carry: _Carry) -> jax.Array:
    _, kl, number = carry
    return (kl > 1.1 * max_kl) & (number < _MAX_MEASUREMENTS)

  start = jnp.ones(()), jnp.full((), jnp.inf), 0
  scale, kl, _ = jax.lax.while_loop(is_too_large, shorten, start)
  return scale, kl
