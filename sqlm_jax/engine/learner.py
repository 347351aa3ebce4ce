"""The learner: one policy-gradient update from a batch of groups.

From a call of `train_step` to the gradient:

1. `make_train_step`, which `run.build.make_game` calls, defines the loss,
   `policy_loss.policy_loss`, as a function of the trained parameters, and gives
   it to `make_update`.
2. `update` splits the batch into microbatches and adds up their gradients
   (`gradients.sum_microbatches`), each of which is `jax.grad` of the loss.
3. `_apply_gradients` takes one step of the optimizer, and shortens it if it
   would move the policy too far (`kl_bound`).
"""

import functools
from typing import NamedTuple, ParamSpec, Protocol

import jax
import jax.numpy as jnp
import optax

from sqlm_jax.distributed import sharding
from sqlm_jax.engine import (
  gradients,
  groups,
  in_place,
  kl_bound,
  policy_loss,
)
from sqlm_jax.engine import optimizer as optimizer_lib
from sqlm_jax.models import lora
from sqlm_jax.models import policy as policy_lib

# Parameters that a loss takes in addition to the trained ones.
Frozen = ParamSpec('Frozen')


class TrainState(NamedTuple):
  """The state that training updates. It contains arrays only."""

  step: jax.Array  # [], number of optimizer steps taken
  params: policy_lib.Params
  opt_state: optax.OptState


class TrainStep(Protocol):
  """Updates a policy on a batch."""

  def __call__(
    self,
    state: TrainState,
    batch: groups.GroupBatch,
    reference_params: policy_lib.Params | None = None,
    base_params: policy_lib.Params | None = None,
    kl_batch: groups.GroupBatch | None = None,
    anchor_batch: groups.GroupBatch | None = None,
    coefficients: policy_loss.Coefficients | None = None,
  ) -> tuple[TrainState, groups.Metrics]:
    """Returns the next state and the metrics of the update, see `Update`.

    Args:
      state: state of the policy; its buffers are donated.
      batch: groups to learn from.
      reference_params: parameters of the reference policy; None without a KL
        penalty.
      base_params: frozen parameters that the trained ones are joined with; None
        if all parameters are trained.
      kl_batch: groups of another role with the same weights. The bound on the
        KL of the update, if there is one, applies to them as well.
      anchor_batch: answers of the initial model, see
        `policy_loss.anchor_loss`; None without an anchor.
      coefficients: replace those of the settings, by name; None replaces none.
    """


class LossFunction(Protocol[Frozen]):
  """Computes the loss of a microbatch."""

  def __call__(
    self,
    trained: policy_lib.Params,
    batch: groups.GroupBatch,
    *frozen: Frozen.args,
    **named: Frozen.kwargs,
  ) -> tuple[jax.Array, groups.Metrics]:
    """Returns the loss, and metrics that include it.

    Args:
      trained: parameters with respect to which the loss is differentiated.
      batch: a microbatch. The loss is a sum over its tokens.
      *frozen: further parameters.
      **named: further parameters by name.
    """


class Update(Protocol[Frozen]):
  """Takes one optimizer step on a loss."""

  def __call__(
    self,
    state: TrainState,
    batch: groups.GroupBatch,
    *frozen: Frozen.args,
    **named: Frozen.kwargs,
  ) -> tuple[TrainState, groups.Metrics]:
    """Returns the next state and the metrics of the update.

    Gradients are accumulated over the microbatches that contain the first
    `batch.num_groups` groups (at least 1). The remaining microbatches are not
    computed. If the loss, the gradient or a metric is not finite, the update is
    skipped: the returned state equals the given one bit for bit.

    Args:
      state: state to update; its buffers are donated.
      batch: groups to learn from.
      *frozen: further parameters that the loss takes.
      **named: further parameters by name.
    """


def init_state(
  params: policy_lib.Params, optimizer: optax.GradientTransformation
) -> TrainState:
  """Returns the state before the first update."""
  return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def make_train_step(
  policy: policy_lib.Policy,
  optimizer: optax.GradientTransformation,
  mesh: jax.sharding.Mesh,
  settings: policy_loss.LossSettings,
  *,
  groups_per_microbatch: int,
  max_update_kl: float = 0.0,
  anchor_kl_coef: float = 0.0,
) -> TrainStep:
  """Returns the program that updates the policy on a batch.

  Args:
    policy: policy to train.
    optimizer: optimizer of the trained parameters.
    mesh: mesh that microbatches are split over.
    settings: settings of the loss.
    groups_per_microbatch: number of groups in memory at once.
    max_update_kl: largest KL of an update, in nats per token; larger updates
      are shortened, see `kl_bound.KLBound`. 0 is no limit. The KL is measured
      on the first microbatch of the batch and on that of `kl_batch`, and the
      larger KL counts.
    anchor_kl_coef: coefficient of `policy_loss.anchor_loss`.
  """
  chunk = settings.logits_chunk * sharding.row_shards(mesh)
  settings = settings._replace(logits_chunk=chunk)

  def loss_of(
    trained: policy_lib.Params,
    batch: groups.GroupBatch,
    reference_params: policy_lib.Params | None = None,
    base_params: policy_lib.Params | None = None,
    kl_batch: groups.GroupBatch | None = None,
    anchor_batch: groups.GroupBatch | None = None,
    coefficients: policy_loss.Coefficients | None = None,
  ) -> tuple[jax.Array, groups.Metrics]:
    del kl_batch, anchor_batch
    params = lora.join(base_params or {}, trained)
    return policy_loss.policy_loss(
      params,
      batch,
      reference_params,
      policy=policy,
      settings=settings,
      coefficients=coefficients,
    )

  def kl_from(
    trained: policy_lib.Params,
    batch: groups.GroupBatch,
    reference_params: policy_lib.Params | None = None,
    base_params: policy_lib.Params | None = None,
    kl_batch: groups.GroupBatch | None = None,
    anchor_batch: groups.GroupBatch | None = None,
    coefficients: policy_loss.Coefficients | None = None,
  ) -> kl_bound.KLOfParams:
    del reference_params, anchor_batch, coefficients
    batches = [batch]
    if kl_batch is not None:
      split = groups.split(kl_batch, groups_per_microbatch, mesh)
      batches.append(_first(split))

    def logprobs(
      params: policy_lib.Params, batch: groups.GroupBatch
    ) -> jax.Array:
      params = lora.join(base_params or {}, params)
      return policy_loss.response_logprobs(policy, params, batch, chunk=chunk)[
        0
      ]

    before = [logprobs(trained, batch) for batch in batches]

    def kl_of(params: policy_lib.Params) -> jax.Array:
      kls = [
        policy_loss.mean_kl(batch, old, logprobs(params, batch))
        for batch, old in zip(batches, before, strict=True)
      ]
      return jnp.max(jnp.stack(kls))

    return kl_of

  bound = kl_bound.KLBound(max_update_kl, kl_from) if max_update_kl else None
  return make_update(
    loss_of,
    optimizer,
    mesh,
    groups_per_microbatch=groups_per_microbatch,
    bound=bound,
    penalty=_make_penalty(
      policy,
      mesh,
      kl_coef=anchor_kl_coef,
      chunk=chunk,
      groups_per_microbatch=groups_per_microbatch,
    ),
  )


def _make_penalty(
  policy: policy_lib.Policy,
  mesh: jax.sharding.Mesh,
  *,
  kl_coef: float,
  chunk: int,
  groups_per_microbatch: int,
) -> gradients.Penalty:
  """Returns the function that computes the gradient of the anchor's loss."""

  def anchor_loss(
    trained: policy_lib.Params,
    batch: groups.GroupBatch,
    base_params: policy_lib.Params,
  ) -> tuple[jax.Array, groups.Metrics]:
    return policy_loss.anchor_loss(
      lora.join(base_params, trained),
      batch,
      policy=policy,
      kl_coef=kl_coef,
      logits_chunk=chunk,
    )

  anchor_grad = jax.jit(jax.grad(anchor_loss, has_aux=True))

  def penalty(
    trained: policy_lib.Params,
    reference_params: policy_lib.Params | None = None,
    base_params: policy_lib.Params | None = None,
    kl_batch: groups.GroupBatch | None = None,
    anchor_batch: groups.GroupBatch | None = None,
    coefficients: policy_loss.Coefficients | None = None,
  ) -> tuple[policy_lib.Params, groups.Metrics] | None:
    del reference_params, kl_batch, coefficients
    if anchor_batch is None:
      return None
    return gradients.sum_microbatches(
      lambda microbatch: anchor_grad(trained, microbatch, base_params or {}),
      groups.split(anchor_batch, groups_per_microbatch, mesh),
      anchor_batch.num_groups,
    )

  return penalty


def make_update(
  loss_of: LossFunction[Frozen],
  optimizer: optax.GradientTransformation,
  mesh: jax.sharding.Mesh,
  *,
  groups_per_microbatch: int,
  bound: kl_bound.KLBound[Frozen] | None = None,
  penalty: gradients.Penalty[Frozen] | None = None,
) -> Update[Frozen]:
  """Returns the program that takes one optimizer step on a loss.

  Args:
    loss_of: the loss of a microbatch.
    optimizer: optimizer of the trained parameters.
    mesh: mesh that microbatches are split over.
    groups_per_microbatch: number of groups in memory at once.
    bound: limit on how far an update may move the policy; None does not measure
      the KL.
    penalty: loss in addition to that of the batch; None adds none.
  """
  # The inner jit makes JAX trace the gradient once instead of twice.
  grad = jax.jit(jax.grad(loss_of, has_aux=True))

  @functools.partial(
    jax.jit, donate_argnums=0, compiler_options=in_place.compiler_options(mesh)
  )
  def update(
    state: TrainState,
    batch: groups.GroupBatch,
    *frozen: Frozen.args,
    **named: Frozen.kwargs,
  ) -> tuple[TrainState, groups.Metrics]:
    microbatches = groups.split(batch, groups_per_microbatch, mesh)

    def of_microbatch(
      microbatch: groups.GroupBatch,
    ) -> tuple[policy_lib.Params, groups.Metrics]:
      grads, metrics = grad(state.params, microbatch, *frozen, **named)
      return sharding.constrain_like_parameters(grads, grads, mesh), metrics

    grads, metrics = gradients.sum_microbatches(
      of_microbatch, microbatches, batch.num_groups
    )
    extra = penalty(state.params, *frozen, **named) if penalty else None
    if extra is not None:
      grads, metrics = gradients.add_penalty(grads, metrics, *extra)
      grads = sharding.constrain_like_parameters(grads, grads, mesh)
    loss, _ = metrics['loss']
    metrics['loss'] = _once_per_update(loss)
    metrics['grad_norm'] = _once_per_update(optax.tree.norm(grads))
    with jax.named_scope('optimizer'):
      measure_kl = None
      if bound:
        measure_kl = bound.kl_from(
          state.params, _first(microbatches), *frozen, **named
        )
      new_state, bound_metrics = _apply_gradients(
        state,
        grads,
        optimizer,
        measure_kl=measure_kl,
        max_kl=bound.max_kl if bound else 0.0,
      )
    metrics |= bound_metrics
    is_finite = jnp.isfinite(jnp.stack(jax.tree.leaves(metrics))).all()
    metrics['skipped_rate'] = _once_per_update(1.0 - is_finite)
    new_state = jax.tree.map(
      lambda new, old: jnp.where(is_finite, new, old), new_state, state
    )
    # Pins the output sharding; otherwise XLA may replicate sharded parameters.
    new_state = sharding.constrain_like_parameters(
      new_state, state.params, mesh
    )
    return new_state, metrics

  return update


def _first(microbatches: groups.GroupBatch) -> groups.GroupBatch:
  """Returns the first of stacked microbatches."""
  return jax.tree.map(lambda x: x[0], microbatches)


def _apply_gradients(
  state: TrainState,
  grads: policy_lib.Params,
  optimizer: optax.GradientTransformation,
  *,
  measure_kl: kl_bound.KLOfParams | None,
  max_kl: float,
) -> tuple[TrainState, groups.Metrics]:
  """Takes one step of the optimizer.

  Args:
    state: state before the step.
    grads: gradients of the trained parameters.
    optimizer: the optimizer.
    measure_kl: measures the KL after a step; None does not limit the step.
    max_kl: limit of the KL.

  Returns:
    The state after the step, and the KL and the scale of a limited step.
  """
  updates, opt_state = optimizer.update(grads, state.opt_state, state.params)

  def step(scale: jax.Array | float) -> policy_lib.Params:
    scaled = jax.tree.map(lambda x: scale * x, updates)
    return optimizer_lib.apply_updates(state.params, scaled, state.step)

  metrics, scale = {}, 1.0
  if measure_kl is not None:
    scale, kl = kl_bound.find_scale(
      lambda scale: measure_kl(step(scale)), max_kl
    )
    metrics = {
      'update_kl': _once_per_update(kl),
      'update_scale': _once_per_update(scale),
    }
  return TrainState(state.step + 1, step(scale), opt_state), metrics


def _once_per_update(x: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns the sum and the count of a metric with one value per update."""
  return x, jnp.ones(())
