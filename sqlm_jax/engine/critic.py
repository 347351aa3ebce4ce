"""The critic: a value function with its own weights, for PPO.

V_t is the expected reward of the response before token t is drawn. It is a
linear function of the decoder's hidden state at that position.

A and M are the parts of a batch and the tokens of a part, as in `groups`.
"""

from typing import Protocol

import jax
import jax.numpy as jnp
import optax

from sqlm_jax.engine import groups, learner
from sqlm_jax.models import lora
from sqlm_jax.models import policy as policy_lib
from sqlm_jax.ops import losses, masked, returns


class Values(Protocol):
  """Computes the values of response tokens."""

  def __call__(
    self,
    texts: groups.Texts,
    params: policy_lib.Params,
    base_params: policy_lib.Params | None = None,
  ) -> jax.Array:
    """Returns the value [Q, G, R] before each token, see `groups.Evaluate`.

    Args:
      texts: the groups.
      params: trained parameters of the critic.
      base_params: frozen parameters that the trained ones are joined with; None
        if all parameters are trained.
    """


class CriticStep(Protocol):
  """Updates the critic on a batch."""

  def __call__(
    self,
    state: learner.TrainState,
    batch: groups.GroupBatch,
    base_params: policy_lib.Params | None = None,
  ) -> tuple[learner.TrainState, groups.Metrics]:
    """Returns the next state and the metrics, see `learner.Update`.

    Args:
      state: state of the critic; its buffers are donated.
      batch: groups to learn from.
      base_params: as for `Values`.
    """


def init_params(params: policy_lib.Params, width: int) -> policy_lib.Params:
  """Returns the parameters of a critic with the weights of `params` and V = 0.

  Args:
    params: the language model's parameters that the critic trains: all of
      them, or the adapters.
    width: D.
  """
  # A critic predicts no tokens.
  body = {name: x for name, x in params.items() if name != 'unembed'}
  head = {'kernel': jnp.zeros((width,), jnp.float32)}
  return body | {'value_head': head}


def response_values(
  policy: policy_lib.Policy,
  params: policy_lib.Params,
  batch: groups.Batch,
) -> jax.Array:
  """Computes the value [Q, G, R] before every response token, in float32.

    V_t = w . h_{t-1}

  h_{t-1} is the hidden state of the previous token; h_{-1} is that of the last
  token of the prompt. V_t, the baseline of token t's advantage, therefore does
  not depend on token t.
  """
  first_QD, later_AMD = groups.response_hidden(policy, params, batch)

  def value(hidden: jax.Array) -> jax.Array:
    return jnp.einsum(
      '...d,d->...',
      hidden.astype(jnp.float32),
      params['value_head']['kernel'],
      precision=jax.lax.Precision.HIGHEST,
    )

  values_QG = jnp.broadcast_to(value(first_QD)[:, None], batch.tokens.shape[:2])
  return groups.by_response(batch, values_QG, value(later_AMD))


def value_loss(
  params: policy_lib.Params,
  batch: groups.GroupBatch,
  *,
  policy: policy_lib.Policy,
  value_clip: float,
) -> tuple[jax.Array, groups.Metrics]:
  """Computes the value function's loss, aggregated like the policy loss.

    loss = sum_t weight_t clipped_value_loss_t

  The sum is over the tokens of all responses whose weight is not 0 (Schulman
  et al., 2017, eq. 9).

  Returns:
    The loss and its metrics.
  """
  mask_QGR = groups.learned_tokens(batch)
  old_QGR, targets_QGR = _values_and_targets(batch)
  values_QGR = response_values(policy, params, batch)
  # Padding may hold any value, and a masked nan still makes the gradient nan.
  fixed_QGR = jax.lax.stop_gradient(values_QGR)
  loss_QGR, clipped_QGR = losses.clipped_value_loss(
    values_QGR,
    jnp.where(mask_QGR, old_QGR, fixed_QGR),
    jnp.where(mask_QGR, targets_QGR, fixed_QGR),
    value_clip=value_clip,
  )
  loss = masked.total(loss_QGR * batch.weights[..., None], mask_QGR)
  return loss, {
    'loss': (loss, jnp.zeros(())),
    'clip_fraction': masked.sum_and_count(clipped_QGR * 1.0, mask_QGR),
    'value': masked.sum_and_count(fixed_QGR, mask_QGR),
  }


def _values_and_targets(
  batch: groups.GroupBatch,
) -> tuple[jax.Array, jax.Array]:
  """Returns the fields of a batch that exist only with a value function."""
  assert batch.old_values is not None
  assert batch.value_targets is not None
  return batch.old_values, batch.value_targets


def make_values(
  policy: policy_lib.Policy,
  mesh: jax.sharding.Mesh,
  *,
  groups_per_microbatch: int,
) -> Values:
  """Returns the program that computes the values of response tokens.

  Args:
    policy: language model whose hidden states the critic uses.
    mesh: mesh that microbatches are split over.
    groups_per_microbatch: maximum number of groups in memory at once.
  """

  def of_microbatch(
    texts: groups.Texts,
    params: policy_lib.Params,
    base_params: policy_lib.Params | None = None,
  ) -> jax.Array:
    return response_values(policy, lora.join(base_params or {}, params), texts)

  return groups.make_evaluate(
    of_microbatch, mesh, groups_per_microbatch=groups_per_microbatch
  )


def make_critic_step(
  policy: policy_lib.Policy,
  optimizer: optax.GradientTransformation,
  mesh: jax.sharding.Mesh,
  *,
  value_clip: float,
  groups_per_microbatch: int,
) -> CriticStep:
  """Returns the function that updates the critic on a batch.

  Args:
    policy: language model whose hidden states the critic uses.
    optimizer: optimizer of the critic's trained parameters.
    mesh: mesh that microbatches are split over.
    value_clip: see `losses.clipped_value_loss`.
    groups_per_microbatch: maximum number of groups in memory at once.
  """

  def loss_of(
    trained: policy_lib.Params,
    batch: groups.GroupBatch,
    base_params: policy_lib.Params | None = None,
  ) -> tuple[jax.Array, groups.Metrics]:
    params = lora.join(base_params or {}, trained)
    return value_loss(params, batch, policy=policy, value_clip=value_clip)

  update = learner.make_update(
    loss_of, optimizer, mesh, groups_per_microbatch=groups_per_microbatch
  )

  @jax.jit
  def explained_variance(
    batch: groups.GroupBatch,
  ) -> tuple[jax.Array, jax.Array]:
    return returns.explained_variance(
      *_values_and_targets(batch), groups.learned_tokens(batch)
    )

  def critic_step(
    state: learner.TrainState,
    batch: groups.GroupBatch,
    base_params: policy_lib.Params | None = None,
  ) -> tuple[learner.TrainState, groups.Metrics]:
    # Computed once for the batch, from the values used for the advantages: it
    # is not a sum over microbatches.
    explained = explained_variance(batch)
    state, metrics = update(state, batch, base_params)
    return state, metrics | {'explained_variance': explained}

  return critic_step
