"""From rewards to advantages, on the host: of responses, or of their tokens."""

import jax
import numpy as np

from sqlm_jax.ops import advantages, losses, masked, returns
from sqlm_jax.selfplay import batches


def of_responses(rows: batches.Rows, estimator: str) -> batches.Estimate:
  """Compares responses with each other; no value function.

  Args:
    rows: rewards. What an estimator calls the batch is all of them, not those
      of one update.
    estimator: a key of `advantages.ESTIMATORS`.
  """
  # As one program: each of its operations would be compiled on its own.
  estimate = jax.jit(advantages.ESTIMATORS[estimator])
  advantages_QG = np.asarray(estimate(rows.rewards, rows.counted))
  # From questions to prompts.
  shape = rows.rollout.lengths.shape
  return batches.Estimate(advantages_QG.reshape(*shape, 1))


def of_tokens(
  rows: batches.Rows,
  values_QGR: np.ndarray,
  *,
  gamma: float,
  decay: float,
  reference_QGR: np.ndarray | None = None,
  kl: float = 0.0,
) -> batches.Estimate:
  """Compares every token with a value function, whitened over the batch.

  r_t = [t is the last] r - kl k1_t, where a KL is paid for by the reward
  (Ouyang et al., 2022, eq. 2; Stiennon et al., 2020).

  Args:
    rows: rewards r, paid at a response's last token.
    values_QGR: V before each token; beyond a length stands anything.
    gamma: see `returns.generalized_advantages`.
    decay: GAE's lambda, see there.
    reference_QGR: log-probabilities under the reference policy, if the reward
      pays for the KL to it; beyond a length stands anything.
    kl: what one nat costs.
  """
  shape = values_QGR.shape
  lengths_B = rows.rollout.lengths.ravel()
  mask_BR = masked.up_to(lengths_B, shape[-1])
  mask_BR &= rows.counted.reshape(-1, 1)
  rewards_BR = returns.at_last_token(rows.rewards.ravel(), lengths_B, shape[-1])
  mean_kl = None
  if reference_QGR is not None:
    k1_QGR = losses.kl_k1(rows.rollout.logprobs, reference_QGR)
    k1_BR = k1_QGR.reshape(mask_BR.shape)
    mean_kl = float(masked.mean(k1_BR, mask_BR))
    rewards_BR = rewards_BR - kl * k1_BR
  advantages_BR, targets_BR = returns.generalized_advantages(
    rewards_BR,
    values_QGR.reshape(-1, shape[-1]),
    lengths_B,
    gamma=gamma,
    decay=decay,
  )
  whitened_BR = advantages.whiten(advantages_BR, mask_BR)
  return batches.Estimate(
    np.asarray(whitened_BR).reshape(shape),
    values_QGR,
    np.asarray(targets_BR).reshape(shape),
    mean_kl,
  )
