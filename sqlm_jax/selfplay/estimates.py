"""Computes advantages of responses, or of their tokens, from rewards.

V here is the number of prompts per question, as in `batches`.
"""

import jax
import jax.numpy as jnp
import numpy as np

from sqlm_jax.ops import advantages, losses, masked, returns
from sqlm_jax.selfplay import batches


def of_responses(
  scored: batches.ScoredResponses, estimator: str
) -> batches.Advantages:
  """Computes advantages of responses, without a value function.

  Args:
    scored: rewards. The batch of an estimator is all rows of the step, not the
      rows of one update.
    estimator: a key of `advantages.ESTIMATORS`.

  Returns:
    Advantages [Q V, G / V, 1], without values.
  """
  # Jitted as one program; otherwise each operation is compiled separately.
  estimate = jax.jit(advantages.ESTIMATORS[estimator])
  advantages_QG = np.asarray(estimate(scored.rewards, scored.mask))
  # Groups of questions [Q, G] become groups of prompts [Q V, G / V].
  shape = scored.rollout.lengths.shape
  return batches.Advantages(advantages_QG.reshape(*shape, 1))


def of_tokens(
  scored: batches.ScoredResponses,
  values_QGR: np.ndarray,
  *,
  gamma: float,
  gae_lambda: float,
  reference_QGR: np.ndarray | None = None,
  kl_coef: float = 0.0,
) -> batches.Advantages:
  """Computes GAE advantages of tokens, whitened over the batch.

  The reward of token t is

    r_t = [t is the last] r - kl_coef k1_t,

  where the KL term applies if `reference_QGR` is given (Ouyang et al., 2022,
  eq. 2; Stiennon et al., 2020).

  Args:
    scored: rewards r, given at the last token of each response.
    values_QGR: V before each token; values in the padding are ignored.
    gamma: discount per token, see `returns.generalized_advantages`.
    gae_lambda: lambda of GAE, see `returns.generalized_advantages`.
    reference_QGR: log-probabilities under the reference policy if the reward
      includes a KL penalty, otherwise None; values in the padding are ignored.
    kl_coef: coefficient of the KL penalty, in reward per nat.

  Returns:
    Advantages, values and value targets [Q V, G / V, R].
  """
  shape = values_QGR.shape
  lengths_B = jnp.asarray(scored.rollout.lengths.ravel())
  mask_BR = masked.up_to(lengths_B, shape[-1])
  mask_BR &= scored.mask.reshape(-1, 1)
  rewards_BR = returns.at_last_token(
    jnp.asarray(scored.rewards.ravel()), lengths_B, shape[-1]
  )
  mean_kl = None
  if reference_QGR is not None:
    k1_QGR = losses.kl_k1(
      jnp.asarray(scored.rollout.logprobs), jnp.asarray(reference_QGR)
    )
    k1_BR = k1_QGR.reshape(mask_BR.shape)
    mean_kl = float(masked.mean(k1_BR, mask_BR))
    rewards_BR = rewards_BR - kl_coef * k1_BR
  advantages_BR, targets_BR = returns.generalized_advantages(
    rewards_BR,
    jnp.asarray(values_QGR.reshape(-1, shape[-1])),
    lengths_B,
    gamma=gamma,
    gae_lambda=gae_lambda,
  )
  whitened_BR = advantages.whiten(advantages_BR, mask_BR)
  return batches.Advantages(
    np.asarray(whitened_BR).reshape(shape),
    values_QGR,
    np.asarray(targets_BR).reshape(shape),
    mean_kl,
  )


def weigh_positive(
  estimated: batches.Advantages, positive_weight: float
) -> batches.Advantages:
  """Multiplies positive advantages by `advantage.positive_weight`.

  The targets of a value function stay as they are.
  """
  weighed = advantages.weigh_positive(
    jnp.asarray(estimated.advantages), positive_weight
  )
  return estimated._replace(advantages=np.asarray(weighed))


def per_response(
  scored: batches.ScoredResponses, estimated: batches.Advantages
) -> np.ndarray:
  """Returns the advantage of each response, for logging.

  Args:
    scored: the responses.
    estimated: their advantages.

  Returns:
    [Q, G], NaN for a response without a reward. If advantages belong to tokens,
    the advantage of a response is their mean.
  """
  advantages_QGR = estimated.advantages
  lengths_QG1 = scored.rollout.lengths[..., np.newaxis]
  if advantages_QGR.shape[-1] == 1:
    means = advantages_QGR[..., 0]
  else:
    is_token = np.arange(advantages_QGR.shape[-1]) < lengths_QG1
    totals = np.where(is_token, advantages_QGR, 0).sum(-1)
    means = totals / np.maximum(lengths_QG1[..., 0], 1)
  return np.where(scored.mask, means.reshape(scored.mask.shape), np.nan)
