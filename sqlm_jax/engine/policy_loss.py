"""The policy loss, and the log-probabilities that it is computed from.

A and M are the parts of a batch and the tokens of a part, as in `groups`.
"""

import functools
from collections.abc import Mapping
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp

from sqlm_jax.distributed import sharding
from sqlm_jax.engine import groups
from sqlm_jax.models import policy as policy_lib
from sqlm_jax.ops import logprobs as logprob_ops
from sqlm_jax.ops import losses, masked

# Coefficients of penalties that change during training, by name.
Coefficients = Mapping[str, jax.Array]


class LossSettings(NamedTuple):
  """Settings of the policy loss, named like the keys of `config.loss`."""

  clip_ratio: float = 0.2
  clip_ratio_high: float | None = None  # None means `clip_ratio`
  dual_clip: float | None = None
  ratio_level: str = 'token'  # or 'sequence' for GSPO
  kl_coef: float = 0.0  # coefficient of the KL to the reference policy
  kl_estimator: str = 'k3'
  entropy_coef: float = 0.0  # coefficient of the entropy bonus
  logits_chunk: int = 512  # rows of logits in memory at once, per device


class Logprobs(Protocol):
  """Computes log-probabilities of response tokens."""

  def __call__(
    self, texts: groups.Texts, params: policy_lib.Params
  ) -> jax.Array:
    """Returns the log-probabilities [Q, G, R], see `groups.Evaluate`.

    Args:
      texts: the groups.
      params: parameters of the policy.
    """


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
) -> Logprobs:
  """Returns the program that computes log-probabilities of response tokens.

  Args:
    policy: policy to evaluate.
    mesh: mesh that microbatches are split over.
    chunk: number of rows of logits in memory at once, per device.
    groups_per_microbatch: maximum number of groups in memory at once.
  """
  chunk *= sharding.row_shards(mesh)

  def of_microbatch(
    texts: groups.Texts, params: policy_lib.Params
  ) -> jax.Array:
    return response_logprobs(policy, params, texts, chunk=chunk)[0]

  return groups.make_evaluate(
    of_microbatch, mesh, groups_per_microbatch=groups_per_microbatch
  )


def policy_loss(
  params: policy_lib.Params,
  batch: groups.GroupBatch,
  reference_params: policy_lib.Params | None,
  *,
  policy: policy_lib.Policy,
  settings: LossSettings,
  coefficients: Coefficients | None = None,
) -> tuple[jax.Array, groups.Metrics]:
  """Computes the clipped policy-gradient loss with its penalties, GRPO eq. 3.

    loss = sum_t weight_t (
      clipped_surrogate_t + kl_coef KL_t - entropy_coef H_t)

  The sum is over the tokens of all responses whose weight is not 0 (Shao et
  al., 2024; SQLM section 3). The probability ratio is per token or per response
  (GSPO), see `LossSettings.ratio_level`.

  Args:
    params: parameters of the policy.
    batch: a microbatch.
    reference_params: parameters of the reference policy; None without a KL.
    policy: the policy.
    settings: settings of the loss.
    coefficients: replace `kl_coef` and `entropy_coef` of the settings unless
      these are 0; None replaces none.

  Returns:
    The loss and its metrics.
  """
  coefficient: dict[str, float | jax.Array] = {
    'kl_coef': settings.kl_coef,
    'entropy_coef': settings.entropy_coef,
  } | dict(coefficients or {})
  mask_QGR = groups.learned_tokens(batch)
  logprobs_QGR, entropy_QGR = response_logprobs(
    policy,
    params,
    batch,
    chunk=settings.logits_chunk,
    through_entropy=bool(settings.entropy_coef),
  )
  # Padding must not overflow exp(): a masked nan still makes the gradient nan.
  old_QGR = jnp.where(
    mask_QGR, batch.old_logprobs, jax.lax.stop_gradient(logprobs_QGR)
  )
  loss_QGR, clipped_QGR = _surrogate(
    logprobs_QGR, old_QGR, mask_QGR, batch.advantages, settings=settings
  )
  gap_QGR = jnp.abs(jax.lax.stop_gradient(logprobs_QGR) - old_QGR)
  metrics = {
    'clip_fraction': _sum_and_count(batch, clipped_QGR * 1.0, mask_QGR),
    'entropy': _sum_and_count(
      batch, jax.lax.stop_gradient(entropy_QGR), mask_QGR
    ),
    'logprob_gap': _sum_and_count(batch, gap_QGR, mask_QGR),
  }
  if settings.kl_coef:
    reference_QGR, _ = response_logprobs(
      policy, reference_params, batch, chunk=settings.logits_chunk
    )
    reference_QGR = jnp.where(mask_QGR, reference_QGR, logprobs_QGR)
    estimate = losses.KL_ESTIMATORS[settings.kl_estimator]
    kl_QGR = estimate(logprobs_QGR, reference_QGR)
    loss_QGR = loss_QGR + coefficient['kl_coef'] * kl_QGR
    metrics['kl'] = _sum_and_count(batch, kl_QGR, mask_QGR)
  if settings.entropy_coef:
    loss_QGR += losses.entropy_bonus(
      entropy_QGR, entropy_coef=coefficient['entropy_coef']
    )
  loss = masked.total(loss_QGR * batch.weights[..., None], mask_QGR)
  return loss, metrics | {'loss': (loss, jnp.zeros(()))}


def anchor_loss(
  params: policy_lib.Params,
  batch: groups.GroupBatch,
  *,
  policy: policy_lib.Policy,
  kl_coef: float,
  logits_chunk: int,
) -> tuple[jax.Array, groups.Metrics]:
  """Computes the loss that keeps the policy close to the initial model.

    loss = kl_coef sum_t weight_t (exp(d_t) - 1 - d_t)
    d_t = logp_t - initial_logp_t

  The responses are samples of the initial model. The sum therefore estimates
  KL(initial model || policy) without bias, and so does its gradient (k3 of
  Schulman, 2020, with the roles of the policies exchanged). Unlike those of
  -logp_t, the loss and the gradient of every single token are 0 as long as its
  probability has not changed, so the policy does not drift towards the samples.

  Args:
    params: parameters of the policy.
    batch: responses of the initial model. `old_logprobs` are their
      log-probabilities under the initial model.
    policy: the policy.
    kl_coef: coefficient of the KL.
    logits_chunk: rows of logits in memory at once.

  Returns:
    The loss and its metrics.
  """
  mask_QGR = groups.learned_tokens(batch)
  logprobs_QGR, _ = response_logprobs(policy, params, batch, chunk=logits_chunk)
  # Padding must not overflow exp(): a masked nan still makes the gradient nan.
  initial_QGR = jnp.where(
    mask_QGR, batch.old_logprobs, jax.lax.stop_gradient(logprobs_QGR)
  )
  kl_QGR = losses.kl_k3(initial_QGR, logprobs_QGR)
  loss = kl_coef * masked.total(kl_QGR * batch.weights[..., None], mask_QGR)
  return loss, {
    'loss': (loss, jnp.zeros(())),
    'anchor_kl': _sum_and_count(batch, kl_QGR, mask_QGR),
  }


def _surrogate(
  logprobs_QGR: jax.Array,
  old_QGR: jax.Array,
  mask_QGR: jax.Array,
  advantages_QGR: jax.Array,
  *,
  settings: LossSettings,
) -> tuple[jax.Array, jax.Array]:
  """Computes the clipped surrogate loss of each token, and what it clipped."""
  new_QGR, before_QGR = logprobs_QGR, old_QGR
  if settings.ratio_level == 'sequence':
    new_QGR = losses.sequence_log_ratio(logprobs_QGR, old_QGR, mask_QGR)
    before_QGR = jnp.zeros_like(new_QGR)
  return losses.clipped_surrogate(
    new_QGR,
    before_QGR,
    advantages_QGR,
    clip_ratio=settings.clip_ratio,
    clip_ratio_high=settings.clip_ratio_high,
    dual_clip=settings.dual_clip,
  )


def _sum_and_count(
  batch: groups.GroupBatch, x_QGR: jax.Array, mask_QGR: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Returns the sum and count over tokens, counting merged responses."""
  times = 1.0 if batch.counts is None else batch.counts[..., None]
  return masked.sum_and_count(x_QGR, mask_QGR, times)


def mean_kl(
  batch: groups.GroupBatch, old_QGR: jax.Array, new_QGR: jax.Array
) -> jax.Array:
  """Estimates the mean KL per learned token between two policies.

  Args:
    batch: responses of the first policy.
    old_QGR: log-probabilities under the first policy.
    new_QGR: log-probabilities under the second policy.

  Returns:
    The mean of the k3 estimates, 0 if no token is learned from.
  """
  mask_QGR = groups.learned_tokens(batch)
  # Padding must not overflow exp().
  old_QGR = jnp.where(mask_QGR, old_QGR, new_QGR)
  kl_QGR = losses.kl_k3(old_QGR, new_QGR)
  kl_sum, count = _sum_and_count(batch, kl_QGR, mask_QGR)
  return kl_sum / jnp.maximum(count, 1)
