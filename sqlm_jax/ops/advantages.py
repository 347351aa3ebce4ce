"""Advantage estimators over groups and batches of responses.

Every estimator takes rewards [Q, G] and a mask [Q, G] of the responses that
count. It returns float32 advantages [Q, G], which are 0 for masked responses.
The estimators differ in the baseline that they subtract and in the standard
deviation that they divide by:

  group_relative        group mean           group std (GRPO), none (Dr. GRPO)
  group_mean_batch_std  group mean           batch std (Lite PPO)
  leave_one_out         mean of the others   none (RLOO)
  reinforce_plus_plus   batch or group mean  batch std (REINFORCE++)
  batch_relative        batch mean           none (REINFORCE)

The batch is the array that is passed to one call. The loss treats advantages
as constants, so do not differentiate through these functions.
"""

import functools
from typing import Protocol

import chex
import jax
import jax.numpy as jnp

from sqlm_jax.ops import masked


def group_relative(
  rewards_QG: jax.Array,
  counted_QG: jax.Array,
  *,
  normalize: bool = True,
  epsilon: float = 1e-6,
) -> jax.Array:
  """Computes group-relative advantages, as in GRPO.

  A_i = (r_i - mean(r)) / (std(r) + epsilon), with the unbiased std, over the
  counted responses of a group (Shao et al., 2024, section 4.1.2). Groups are
  never mixed: the answers to a hard question are compared only with each other.

  Args:
    rewards_QG: rewards r.
    counted_QG: mask of the responses that belong to the group.
    normalize: if True, divide by the group's standard deviation. If False, as
      in Dr. GRPO (Liu et al., 2025, section 3.2), groups with nearly equal
      rewards weigh less. Dr. GRPO also aggregates the loss with
      `losses.token_weights(..., aggregation='constant')`.
    epsilon: added to the std, so that a group of equal rewards yields 0.

  Returns:
    Advantages [Q, G], 0 for responses that do not count and for groups with
    fewer than two counted responses.
  """
  centered_QG, count_Q1 = _center_groups(rewards_QG, counted_QG)
  if not normalize:
    return centered_QG
  variance_Q1 = jnp.sum(jnp.square(centered_QG), axis=1, keepdims=True)
  std_Q1 = jnp.sqrt(variance_Q1 / jnp.maximum(count_Q1 - 1, 1))
  return centered_QG / (std_Q1 + epsilon)


def group_mean_batch_std(
  rewards_QG: jax.Array, counted_QG: jax.Array, *, epsilon: float = 1e-6
) -> jax.Array:
  """Computes advantages with group mean and batch std, as in Lite PPO.

  A_i = (r_i - mean(r)) / (std_batch(r) + epsilon), with the mean over a group
  and the unbiased std over all counted rewards of the batch (Liu et al., 2025,
  "Tricks or Traps?", arXiv 2508.08221). The advantages of a group with nearly
  equal rewards are therefore not magnified.

  Args:
    rewards_QG: rewards r.
    counted_QG: mask of the responses that belong to the group.
    epsilon: added to the std, so that a batch of equal rewards yields 0.

  Returns:
    Advantages [Q, G], 0 for responses that do not count and for groups with
    fewer than two counted responses. The rewards of such groups still
    contribute to the batch's std.
  """
  centered_QG, _ = _center_groups(rewards_QG, counted_QG)
  return centered_QG / (_std(rewards_QG, counted_QG) + epsilon)


def leave_one_out(rewards_QG: jax.Array, counted_QG: jax.Array) -> jax.Array:
  """Computes leave-one-out advantages, as in RLOO.

  A_i = r_i - sum_{j != i} r_j / (n - 1) = n / (n - 1) (r_i - mean(r)) over
  the n counted responses of a group (Kool et al., 2019; for language models:
  Ahmadian et al., 2024, arXiv 2402.14740). The baseline of a response is the
  mean reward of the other responses. It does not depend on r_i, so the gradient
  is unbiased.

  Args:
    rewards_QG: rewards r.
    counted_QG: mask of the responses that belong to the group.

  Returns:
    Advantages [Q, G], 0 for responses that do not count and for groups with
    fewer than two counted responses.
  """
  centered_QG, count_Q1 = _center_groups(rewards_QG, counted_QG)
  return centered_QG * (count_Q1 / jnp.maximum(count_Q1 - 1, 1))


def reinforce_plus_plus(
  rewards_QG: jax.Array,
  counted_QG: jax.Array,
  *,
  group_baseline: bool = False,
  epsilon: float = 1e-6,
) -> jax.Array:
  """Computes batch-normalized advantages, as in REINFORCE++.

  A_i = (x_i - mean_batch(x)) / (std_batch(x) + epsilon), with x = r, or with
  x_i = r_i - mean(r) of its group, which the paper calls "w/ baseline" (Hu et
  al., arXiv 2501.03262).

  The batch statistics count each response once. verl and OpenRLHF count each
  response once per token, so that long responses weigh more.

  Args:
    rewards_QG: rewards r.
    counted_QG: mask of the responses that count.
    group_baseline: if True, subtract the group's mean first.
    epsilon: added to the std, so that a batch of equal rewards yields 0.

  Returns:
    Advantages [Q, G], 0 for responses that do not count. Without
    `group_baseline`, groups have no effect, and all advantages are 0 if the
    batch has fewer than two counted responses. With `group_baseline`, groups
    with fewer than two counted responses are 0 and are excluded from the batch
    statistics.
  """
  if not group_baseline:
    return whiten(rewards_QG, counted_QG, epsilon=epsilon)
  centered_QG, count_Q1 = _center_groups(rewards_QG, counted_QG)
  return whiten(centered_QG, counted_QG & (count_Q1 > 1), epsilon=epsilon)


def batch_relative(rewards_QG: jax.Array, counted_QG: jax.Array) -> jax.Array:
  """Computes REINFORCE advantages with the batch mean as baseline.

  A_i = r_i - mean_batch(r) (Williams, 1992).

  Args:
    rewards_QG: rewards r.
    counted_QG: mask of the responses that count.

  Returns:
    Advantages [Q, G], 0 for responses that do not count and for all responses
    if fewer than two count.
  """
  _check(rewards_QG, counted_QG)
  return _center(rewards_QG, counted_QG)


def whiten(
  x: jax.Array, mask: jax.Array, *, epsilon: float = 1e-6
) -> jax.Array:
  """Shifts and scales to mean 0 and standard deviation 1 over the mask.

  y = (x - mean(x)) / (std(x) + epsilon), with the unbiased std.

  Args:
    x: values of any shape, such as advantages per response or per token.
    mask: booleans of the same shape. Masked values may be inf or nan.
    epsilon: added to the std, so that equal values yield 0.

  Returns:
    A float32 array of the same shape. It is 0 outside the mask, and 0
    everywhere if the mask keeps fewer than two values.
  """
  chex.assert_equal_shape([x, mask])
  return _center(x, mask) / (_std(x, mask) + epsilon)


def weigh_positive(advantages: jax.Array, positive_weight: float) -> jax.Array:
  """Multiplies positive advantages by a weight, and keeps the others.

  A' = positive_weight A if A > 0, otherwise A. With a weight below 1, a policy
  learns more from responses below their baseline than from those above it
  (Weighted-REINFORCE, Zhu et al., 2025, arXiv 2506.01347, with 0.1).

  Args:
    advantages: advantages of any shape.
    positive_weight: weight of positive advantages.
  """
  return jnp.where(advantages > 0, positive_weight * advantages, advantages)


class Estimator(Protocol):
  """Computes advantages from rewards."""

  def __call__(self, rewards_QG: jax.Array, counted_QG: jax.Array) -> jax.Array:
    """Returns the advantages [Q, G].

    Args:
      rewards_QG: rewards.
      counted_QG: mask of the responses that count.
    """


# Advantage estimators by their name in a config. `Advantage.estimator` in
# config/training_schema.py lists the names, too.
ESTIMATORS: dict[str, Estimator] = {
  'grpo': group_relative,
  'dr_grpo': functools.partial(group_relative, normalize=False),
  'rloo': leave_one_out,
  'reinforce++': reinforce_plus_plus,
  'reinforce++_baseline': functools.partial(
    reinforce_plus_plus, group_baseline=True
  ),
  'lite_ppo': group_mean_batch_std,
  'reinforce': batch_relative,
}


def _check(rewards_QG: jax.Array, counted_QG: jax.Array) -> None:
  chex.assert_rank(rewards_QG, 2)
  chex.assert_equal_shape([rewards_QG, counted_QG])


def _center_groups(
  rewards_QG: jax.Array, counted_QG: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Returns rewards minus their group mean, and the group counts [Q, 1]."""
  _check(rewards_QG, counted_QG)
  rewards_QG = jnp.asarray(rewards_QG, jnp.float32)
  count_Q1 = jnp.sum(counted_QG, axis=1, keepdims=True)
  mean_Q1 = masked.mean(rewards_QG, counted_QG, axis=1)[:, None]
  usable_QG = counted_QG & (count_Q1 > 1)
  usable_QG &= ~_are_equal(rewards_QG, counted_QG, axis=1)
  return jnp.where(usable_QG, rewards_QG - mean_Q1, 0), count_Q1


def _are_equal(
  x: jax.Array, mask: jax.Array, axis: int | None = None
) -> jax.Array:
  """Returns True if all unmasked values are equal.

  The explicit check is needed because the float32 mean of equal values may
  differ from them.
  """
  highest = jnp.max(jnp.where(mask, x, -jnp.inf), axis=axis, keepdims=True)
  lowest = jnp.min(jnp.where(mask, x, jnp.inf), axis=axis, keepdims=True)
  return highest == lowest


def _center(x: jax.Array, mask: jax.Array) -> jax.Array:
  """Subtracts the mean; returns 0 if the mask keeps fewer than two values."""
  x = jnp.asarray(x, jnp.float32)
  usable = mask & (jnp.sum(mask) > 1) & ~_are_equal(x, mask)
  return jnp.where(usable, x - masked.mean(x, mask), 0)


def _std(x: jax.Array, mask: jax.Array) -> jax.Array:
  """Returns the unbiased std over the mask, 0 for fewer than two values."""
  squares = jnp.sum(jnp.square(_center(x, mask)))
  return jnp.sqrt(squares / jnp.maximum(jnp.sum(mask) - 1, 1))
