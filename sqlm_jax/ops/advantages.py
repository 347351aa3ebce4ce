"""Advantages: how much better a response was than those it is compared with.

Every estimator takes rewards [Q, G] and which responses count, and returns
float32 advantages [Q, G] that are 0 for what does not count. They differ in
two things: the baseline that is subtracted, and the spread that divides.

  group_relative        group mean           group std (GRPO), none (Dr. GRPO)
  group_mean_batch_std  group mean           batch std (Lite PPO)
  leave_one_out         mean of the others   none (RLOO)
  reinforce_plus_plus   batch or group mean  batch std (REINFORCE++)
  batch_relative        batch mean           none (REINFORCE)

The batch is all that one call is given. Advantages are constants of the loss:
differentiate none of these functions.
"""

import functools
from collections.abc import Callable

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
  """Group-relative advantages, GRPO (Shao et al., 2024, section 4.1.2).

  A_i = (r_i - mean(r)) / (std(r) + epsilon), with the unbiased std, over the
  counted responses of a group. Groups are never mixed: a hard question's
  answers are compared with each other only.

  Args:
    rewards_QG: rewards r.
    counted_QG: which responses belong to the group.
    normalize: divide by the group's standard deviation; without, as in
      Dr. GRPO (Liu et al., 2025, section 3.2), groups near agreement weigh
      less. Dr. GRPO also averages with `losses.token_weights('constant')`.
    epsilon: keeps a group of equal rewards at 0.

  Returns:
    Advantages [Q, G], 0 for what is not counted and for groups of fewer than
    two counted responses.
  """
  centred_QG, count_Q1 = _centre_groups(rewards_QG, counted_QG)
  if not normalize:
    return centred_QG
  variance_Q1 = jnp.sum(jnp.square(centred_QG), axis=1, keepdims=True)
  std_Q1 = jnp.sqrt(variance_Q1 / jnp.maximum(count_Q1 - 1, 1))
  return centred_QG / (std_Q1 + epsilon)


def group_mean_batch_std(
  rewards_QG: jax.Array, counted_QG: jax.Array, *, epsilon: float = 1e-6
) -> jax.Array:
  """The group's mean, the batch's spread, Lite PPO (Liu et al., 2025).

  A_i = (r_i - mean(r)) / (std_batch(r) + epsilon): the mean over a group, the
  unbiased std over all counted rewards of the batch ("Tricks or Traps?",
  arXiv 2508.08221). A group near agreement is not blown up.

  Args:
    rewards_QG: rewards r.
    counted_QG: which responses belong to the group.
    epsilon: keeps a batch of equal rewards at 0.

  Returns:
    Advantages [Q, G], 0 for what is not counted and for groups of fewer than
    two counted responses; those still count in the batch's std.
  """
  centred_QG, _ = _centre_groups(rewards_QG, counted_QG)
  return centred_QG / (_std(rewards_QG, counted_QG) + epsilon)


def leave_one_out(rewards_QG: jax.Array, counted_QG: jax.Array) -> jax.Array:
  """RLOO: the baseline is the mean of the others (Kool et al., 2019).

  A_i = r_i - sum_{j != i} r_j / (n - 1) = n / (n - 1) (r_i - mean(r)) over
  the n counted responses of a group (for language models: Ahmadian et al.,
  2024, arXiv 2402.14740). A baseline that does not hold r_i leaves the
  gradient unbiased.

  Args:
    rewards_QG: rewards r.
    counted_QG: which responses belong to the group.

  Returns:
    Advantages [Q, G], 0 for what is not counted and for groups of fewer than
    two counted responses.
  """
  centred_QG, count_Q1 = _centre_groups(rewards_QG, counted_QG)
  return centred_QG * (count_Q1 / jnp.maximum(count_Q1 - 1, 1))


def reinforce_plus_plus(
  rewards_QG: jax.Array,
  counted_QG: jax.Array,
  *,
  group_baseline: bool = False,
  epsilon: float = 1e-6,
) -> jax.Array:
  """REINFORCE++: normalised over the batch (Hu et al., arXiv 2501.03262).

  A_i = (x_i - mean_batch(x)) / (std_batch(x) + epsilon), with x = r, or with
  x_i = r_i - mean(r) of its group, which the paper calls "w/ baseline".

  The batch's statistics count each response once. verl and OpenRLHF count it
  once a token, so that long responses weigh more.

  Args:
    rewards_QG: rewards r.
    counted_QG: which responses count.
    group_baseline: subtract the group's mean first.
    epsilon: keeps a batch of equal rewards at 0.

  Returns:
    Advantages [Q, G], 0 for what is not counted. Without the group's baseline
    groups do not matter, and a batch needs two counted responses; with it,
    groups of fewer than two are 0 and left out of the batch's statistics.
  """
  if not group_baseline:
    return whiten(rewards_QG, counted_QG, epsilon=epsilon)
  centred_QG, count_Q1 = _centre_groups(rewards_QG, counted_QG)
  return whiten(centred_QG, counted_QG & (count_Q1 > 1), epsilon=epsilon)


def batch_relative(rewards_QG: jax.Array, counted_QG: jax.Array) -> jax.Array:
  """REINFORCE with the batch's mean as baseline (Williams, 1992).

  A_i = r_i - mean_batch(r).

  Args:
    rewards_QG: rewards r.
    counted_QG: which responses count.

  Returns:
    Advantages [Q, G], 0 for what is not counted and in a batch of fewer than
    two counted responses.
  """
  _check(rewards_QG, counted_QG)
  return _centre(rewards_QG, counted_QG)


def whiten(
  x: jax.Array, mask: jax.Array, *, epsilon: float = 1e-6
) -> jax.Array:
  """Shifts and scales to mean 0 and standard deviation 1 over the mask.

  y = (x - mean(x)) / (std(x) + epsilon), with the unbiased std.

  Args:
    x: values of any shape, advantages of responses or of tokens.
    mask: booleans of the same shape; the rest may be inf or nan.
    epsilon: keeps equal values at 0.

  Returns:
    float32 of the same shape, 0 outside the mask, and everywhere if it keeps
    fewer than two.
  """
  chex.assert_equal_shape([x, mask])
  return _centre(x, mask) / (_std(x, mask) + epsilon)


# Name of a config -> estimator of rewards and counted responses.
ESTIMATORS: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
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


def _centre_groups(
  rewards_QG: jax.Array, counted_QG: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Rewards less their group's mean, and the group's count [Q, 1]."""
  _check(rewards_QG, counted_QG)
  rewards_QG = jnp.asarray(rewards_QG, jnp.float32)
  count_Q1 = jnp.sum(counted_QG, axis=1, keepdims=True)
  mean_Q1 = masked.mean(rewards_QG, counted_QG, axis=1)[:, None]
  usable_QG = counted_QG & (count_Q1 > 1)
  usable_QG &= ~_are_equal(rewards_QG, counted_QG, axis=1)
  return jnp.where(usable_QG, rewards_QG - mean_Q1, 0), count_Q1


def _are_equal(x: jax.Array, mask: jax.Array, axis=None) -> jax.Array:
  """Whether all that counts is the same; in float32 its mean may differ."""
  highest = jnp.max(jnp.where(mask, x, -jnp.inf), axis=axis, keepdims=True)
  lowest = jnp.min(jnp.where(mask, x, jnp.inf), axis=axis, keepdims=True)
  return highest == lowest


def _centre(x: jax.Array, mask: jax.Array) -> jax.Array:
  """Values less their mean, 0 where the mask keeps fewer than two."""
  x = jnp.asarray(x, jnp.float32)
  usable = mask & (jnp.sum(mask) > 1) & ~_are_equal(x, mask)
  return jnp.where(usable, x - masked.mean(x, mask), 0)


def _std(x: jax.Array, mask: jax.Array) -> jax.Array:
  """Unbiased standard deviation over the mask; 0 of fewer than two."""
  squares = jnp.sum(jnp.square(_centre(x, mask)))
  return jnp.sqrt(squares / jnp.maximum(jnp.sum(mask) - 1, 1))
