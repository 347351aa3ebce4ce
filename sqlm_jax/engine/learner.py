"""The learner: one policy-gradient update from a batch of groups."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from sqlm_jax.distributed import sharding
from sqlm_jax.engine import groups
from sqlm_jax.engine import optimizer as optimizer_lib
from sqlm_jax.models import lora
from sqlm_jax.models import policy as policy_lib
from sqlm_jax.ops import logprobs as logprob_ops
from sqlm_jax.ops import losses, masked

_MAX_MEASUREMENTS = 6  # maximum number of KL measurements per update

Metrics = dict[str, tuple[jax.Array, jax.Array]]  # name -> (sum, count)


class TrainState(NamedTuple):
  """The state that training updates. It contains arrays only."""

  step: jax.Array  # [], number of optimizer steps taken
  params: policy_lib.Params
  opt_state: optax.OptState


class LossSettings(NamedTuple):
  """Settings of the policy loss."""

  clip: float = 0.2
  clip_high: float | None = None  # None means `clip`
  dual_clip: float | None = None
  ratio: str = 'token'  # or 'sequence' for GSPO
  kl: float = 0.0  # weight of the KL to the reference policy
  kl_estimator: str = 'k3'
  entropy: float = 0.0  # weight of the entropy bonus
  chunk: int = 512  # rows of logits in memory at once, per device


def init_state(
  params: policy_lib.Params, optimizer: optax.GradientTransformation
) -> TrainState:
  return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def response_logprobs(
  policy: policy_lib.Policy,
  params: policy_lib.Params,
  batch: groups.Batch,
  *,
  chunk: int,
  through_entropy: bool = False,
) -> tuple[jax.Array, jax.Array]:
  """Computes the log-probability and entropy [Q, G, R] of response tokens."""
  first_QD, later_AMD = groups.response_hidden(policy, params, batch)
  chosen = functools.partial(
    logprob_ops.chosen_in_chunks,
    policy.split_logits(params),
    chunk=chunk,
    through_entropy=through_entropy,
  )
  # All first tokens of a group are drawn from the same distribution.
  tokens_Q1G = batch.tokens[:, None, :, 0]
  first_Q1G, entropy_Q1 = chosen(first_QD[:, None], tokens_Q1G)
  tokens_AM = groups.side_by_side(batch, batch.tokens[:, :, 1:])
  later_AM1, entropy_AM = chosen(later_AMD, tokens_AM[..., None])
  entropy_QG = jnp.broadcast_to(entropy_Q1, batch.tokens.shape[:2])
  return (
    groups.by_response(batch, first_Q1G[:, 0], later_AM1[..., 0]),
    groups.by_response(batch, entropy_QG, entropy_AM),
  )


def make_logprobs(
  policy: policy_lib.Policy,
  mesh: jax.sharding.Mesh,
  *,
  chunk: int,
  groups_per_microbatch: int,
) -> Callable[..., jax.Array]:
  """Returns a function that computes log-probabilities of response tokens.

  Its signature is `logprobs(texts, params) -> [Q, G, R]`. See
  `groups.make_evaluate`.
  """
  chunk *= sharding.row_shards(mesh)

  def of_batch(texts, params):
    return response_logprobs(policy, params, texts, chunk=chunk)[0]

  return groups.make_evaluate(
    of_batch, mesh, groups_per_microbatch=groups_per_microbatch
  )


def policy_loss(
  params: policy_lib.Params,
  batch: groups.GroupBatch,
  reference_params: policy_lib.Params | None,
  *,
  policy: policy_lib.Policy,
  settings: LossSettings,
) -> tuple[jax.Array, Metrics]:
  """Computes the clipped policy-gradient loss with its penalties, GRPO eq. 3.

    loss = sum_t weight_t (clipped_surrogate_t + kl KL_t - entropy H_t)

  The sum is over the tokens of all responses whose weight is not 0 (Shao et
  al., 2024; SQLM section 3). The probability ratio is per token or per response
  (GSPO), see `LossSettings.ratio`.

  Returns:
    The loss and its metrics.
  """
  mask_QGR = groups.learned_tokens(batch)
  logprobs_QGR, entropy_QGR = response_logprobs(
    policy,
    params,
    batch,
    chunk=settings.chunk,
    through_entropy=bool(settings.entropy),
  )
  # Padding must not overflow exp(): a masked nan still makes the gradient nan.
  old_QGR = jnp.where(
    mask_QGR, batch.old_logprobs, jax.lax.stop_gradient(logprobs_QGR)
  )
  new_QGR, before_QGR = logprobs_QGR, old_QGR
  if settings.ratio == 'sequence':
    new_QGR = losses.sequence_log_ratio(logprobs_QGR, old_QGR, mask_QGR)
    before_QGR = jnp.zeros_like(new_QGR)
  loss_QGR, clipped_QGR = losses.clipped_surrogate(
    new_QGR,
    before_QGR,
    batch.advantages,
    clip=settings.clip,
    clip_high=settings.clip_high,
    dual_clip=settings.dual_clip,
  )
  gap_QGR = jnp.abs(jax.lax.stop_gradient(logprobs_QGR) - old_QGR)
  times = 1.0 if batch.counts is None else batch.counts[..., None]
  count = lambda x_QGR: masked.sum_and_count(x_QGR, mask_QGR, times)
  metrics = {
    'clip_fraction': count(clipped_QGR * 1.0),
    'entropy': count(jax.lax.stop_gradient(entropy_QGR)),
    'logprob_gap': count(gap_QGR),
  }
  if settings.kl:
    reference_QGR, _ = response_logprobs(
      policy, reference_params, batch, chunk=settings.chunk
    )
    reference_QGR = jnp.where(mask_QGR, reference_QGR, logprobs_QGR)
    estimate = losses.KL_ESTIMATORS[settings.kl_estimator]
    kl_QGR = estimate(logprobs_QGR, reference_QGR)
    loss_QGR = loss_QGR + settings.kl * kl_QGR
    metrics['kl'] = count(kl_QGR)
  if settings.entropy:
    loss_QGR += losses.entropy_bonus(entropy_QGR, weight=settings.entropy)
  loss = masked.total(loss_QGR * batch.weights[..., None], mask_QGR)
  return loss, metrics | {'loss': (loss, jnp.zeros(()))}


def policy_kl(
  params: policy_lib.Params,
  batch: groups.GroupBatch,
  *,
  policy: policy_lib.Policy,
  chunk: int,
) -> tuple[jax.Array, jax.Array]:
  """Estimates the KL from the policy that sampled a batch to `params`.

  Returns:
    The sum of the k3 estimates over all learned tokens, and the number of
    these tokens.
  """
  mask_QGR = groups.learned_tokens(batch)
  logprobs_QGR, _ = response_logprobs(policy, params, batch, chunk=chunk)
  # Padding must not overflow exp().
  old_QGR = jnp.where(mask_QGR, batch.old_logprobs, logprobs_QGR)
  times = 1.0 if batch.counts is None else batch.counts[..., None]
  return masked.sum_and_count(
    losses.kl_k3(old_QGR, logprobs_QGR), mask_QGR, times
  )


def make_train_step(
  policy: policy_lib.Policy,
  optimizer: optax.GradientTransformation,
  mesh: jax.sharding.Mesh,
  settings: LossSettings,
  *,
  groups_per_microbatch: int,
  max_update_kl: float = 0.0,
) -> Callable[..., tuple[TrainState, Metrics]]:
  """Returns a function that updates the policy on a batch.

  Its signature is `train_step(state, batch, reference_params, base_params)`.
  `reference_params` is None without a KL penalty. `base_params` are the frozen
  parameters that the trained ones are joined with, None if all parameters are
  trained. See `make_update` for the other arguments and the update itself.

  Args:
    policy: policy to train.
    optimizer: optimizer of the trained parameters.
    mesh: mesh that microbatches are split over.
    settings: settings of the loss.
    groups_per_microbatch: number of groups in memory at once.
    max_update_kl: largest KL of an update, in nats per token; larger updates
      are shortened, see `KLBound`. 0 is no limit.
  """
  chunk = settings.chunk * sharding.row_shards(mesh)
  settings = settings._replace(chunk=chunk)

  def loss_of(trained, batch, reference_params=None, base_params=None):
    params = lora.join(base_params or {}, trained)
    return policy_loss(
      params, batch, reference_params, policy=policy, settings=settings
    )

  def kl_of(trained, batch, reference_params=None, base_params=None):
    del reference_params
    params = lora.join(base_params or {}, trained)
    return policy_kl(params, batch, policy=policy, chunk=settings.chunk)

  return make_update(
    loss_of,
    optimizer,
    mesh,
    groups_per_microbatch=groups_per_microbatch,
    bound=KLBound(max_update_kl, kl_of) if max_update_kl else None,
  )


class KLBound(NamedTuple):
  """A bound on how far an update moves a policy.

  Attributes:
    max_kl: largest KL, in nats per token, from the policy that sampled the
      batch to the policy after the update. A larger update is shortened.
    kl: `(trained parameters, batch, *frozen) -> (sum, number of tokens)`. It
      is called with the first microbatch of an update.
  """

  max_kl: float
  kl: Callable[..., tuple[jax.Array, jax.Array]]


def make_update(
  loss_of: Callable[..., tuple[jax.Array, Metrics]],
  optimizer: optax.GradientTransformation,
  mesh: jax.sharding.Mesh,
  *,
  groups_per_microbatch: int,
  bound: KLBound | None = None,
) -> Callable[..., tuple[TrainState, Metrics]]:
  """Returns a function that takes one optimizer step on a loss.

  Its signature is `update(state, batch, *frozen) -> (state, metrics)`.
  Gradients are accumulated over the microbatches that hold the first
  `batch.num_groups` groups, of which there must be at least one; the remaining
  microbatches are not computed. The buffers of the state are donated. If the
  loss, the gradient or a metric is not finite, the update is skipped: the
  returned state equals the given one bit for bit.

  Args:
    loss_of: `(trained parameters, batch, *frozen) -> (loss, metrics)`. The loss
      is a sum over tokens, and the metrics contain it.
    optimizer: optimizer of the trained parameters.
    mesh: mesh that microbatches are split over.
    groups_per_microbatch: number of groups in memory at once.
    bound: limit on how far an update may move the policy; None does not measure
      the KL.
  """
  # The inner jit makes JAX trace the gradient once instead of twice.
  grad = jax.jit(jax.grad(loss_of, has_aux=True))

  @functools.partial(
    jax.jit, donate_argnums=0, compiler_options=_in_place(mesh)
  )
  def update(state: TrainState, batch: groups.GroupBatch, *frozen):
    micro = groups.split(batch, groups_per_microbatch, mesh)
    size = micro.tokens.shape[1]

    def one_microbatch(i):
      one = jax.tree.map(lambda x: x[i], micro)
      grads, metrics = grad(state.params, one, *frozen)
      return sharding.constrain_like_parameters(grads, grads, mesh), metrics

    if len(micro.tokens) == 1:
      # The TPU compiler may hoist parts out of a loop and compute them twice.
      grads, metrics = one_microbatch(0)
    else:
      nothing = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(one_microbatch, 0)
      )
      grads, metrics = jax.lax.fori_loop(
        0,
        -(-batch.num_groups // size),
        lambda i, total: jax.tree.map(jnp.add, total, one_microbatch(i)),
        nothing,
      )
    loss = metrics.pop('loss')[0]
    one = jnp.ones(())
    metrics |= {
      'loss': (loss, one),
      'grad_norm': (optax.tree.norm(grads), one),
    }
    with jax.named_scope('optimizer'):
      updates, opt_state = optimizer.update(
        grads, state.opt_state, state.params
      )
      scaled = lambda scale: optimizer_lib.apply_updates(
        state.params, jax.tree.map(lambda x: scale * x, updates), state.step
      )
      if bound:
        first = jax.tree.map(lambda x: x[0], micro)
        scale, kl = _shorten(
          lambda scale: bound.kl(scaled(scale), first, *frozen), bound.max_kl
        )
        metrics |= {'update_kl': (kl, one), 'update_scale': (scale, one)}
        params = scaled(scale)
      else:
        params = scaled(1.0)
    stepped = TrainState(state.step + 1, params, opt_state)
    finite = jnp.isfinite(jnp.stack(jax.tree.leaves(metrics))).all()
    metrics['skipped_rate'] = (1.0 - finite, one)
    keep = lambda new, old: jnp.where(finite, new, old)
    stepped = jax.tree.map(keep, stepped, state)
    # Pins the output sharding; otherwise XLA may replicate sharded parameters.
    return sharding.constrain_like_parameters(
      stepped, state.params, mesh
    ), metrics

  return update


def _shorten(
  measure: Callable[[jax.Array], tuple[jax.Array, jax.Array]], max_kl: float
) -> tuple[jax.Array, jax.Array]:
  """Finds the scale of an update that keeps its KL within a bound.

  Args:
    measure: `scale -> (sum, number of tokens)`, the KL after `scale` times the
      update.
    max_kl: the bound; a KL of at most 1.1 times the bound is accepted.

  Returns:
    The scale, 1 for the full update, and the mean KL of the scaled update. The
    KL may still exceed the bound after `_MAX_MEASUREMENTS` measurements, or if
    earlier updates have used up the bound.
  """

  def shorten(carry):
    scale, kl, number = carry
    # For small updates, the KL is quadratic in the scale.
    scale *= jnp.where(number == 0, 1.0, jnp.sqrt(max_kl / kl))
    kl_sum, count = measure(scale)
    return scale, kl_sum / jnp.maximum(count, 1), number + 1

  def is_too_large(carry):
    _, kl, number = carry
    return (kl > 1.1 * max_kl) & (number < _MAX_MEASUREMENTS)

  start = jnp.ones(()), jnp.full((), jnp.inf), 0
  scale, kl, _ = jax.lax.while_loop(is_too_large, shorten, start)
  return scale, kl


def _in_place(mesh: jax.sharding.Mesh) -> dict[str, bool]:
  """Returns compiler options that make XLA update a donated state in place.

  By default, XLA for CPU copies both moments before the update: the parameters
  are computed from the old moments, and the order of the writes is not fixed.
  With region analysis, which XLA uses for TPU, the parameters are computed
  first and no copy is needed.
  """
  option = 'xla_cpu_copy_insertion_use_region_analysis'
  is_known = sharding.is_on_cpu(mesh) and _compiler_knows(option)
  return {option: True} if is_known else {}


@functools.cache
def _compiler_knows(option: str) -> bool:
  """Returns True if this version of XLA accepts the option.

  XLA adds and removes options, and raises an error for an unknown one.
  """
  program = jax.jit(lambda: 0, compiler_options={option: True})
  try:
    program.lower().compile()
  except jax.errors.JaxRuntimeError:
    return False
  return True
