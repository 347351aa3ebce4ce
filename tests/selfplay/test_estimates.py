"""Advantages of tokens, computed by hand and by loops in float64."""

import numpy as np
import pytest

from sqlm_jax.engine import groups
from sqlm_jax.selfplay import batches, estimates


def of_tokens(
  rewards, lengths, values, mask=True, gamma=1.0, gae_lambda=1.0
) -> batches.Advantages:
  rewards = np.array(rewards, np.float32)
  rollout = groups.Rollout(None, None, None, np.array(lengths, np.int32), None)
  mask = np.broadcast_to(mask, rewards.shape)
  return estimates.of_tokens(
    batches.ScoredResponses(None, rollout, rewards, mask),
    np.array(values, np.float32),
    gamma=gamma,
    gae_lambda=gae_lambda,
  )


def test_advantages_of_tokens_are_reward_minus_value():
  # A = r - V_t: 1 - 0, 1 - 2 and 0 - 3 are 1, -1, -3, of mean -1 and
  # unbiased std 2.
  estimated = of_tokens([[1, 0]], [[2, 1]], [[[0, 2], [3, np.nan]]])
  np.testing.assert_allclose(
    estimated.advantages, [[[1, 0], [-1, 0]]], rtol=1e-5
  )
  assert estimated.value_targets[0].tolist() == [[1, 1], [0, 0]]
  assert estimated.values[0, 1, 0] == 3


def test_masked_responses_do_not_affect_the_whitening():
  mask = [[True, True], [False, False]]
  rewards, lengths = [[1, 0], [9, 9]], [[2, 1], [2, 2]]
  values = [[[0, 2], [3, np.nan]], [[7, 7], [np.inf, 7]]]
  estimated = of_tokens(rewards, lengths, values, mask)
  np.testing.assert_allclose(
    estimated.advantages, [[[1, 0], [-1, 0]], [[0, 0], [0, 0]]], rtol=1e-5
  )


def test_the_answers_to_a_question_may_be_divided_among_its_prompts():
  # Rewards [Q, G] = [1, 4], lengths of two prompts with two answers each.
  whole = of_tokens([[4, 3, 2, 1]], [[1, 1, 1, 1]], np.zeros((1, 4, 1)))
  parts = of_tokens([[4, 3, 2, 1]], [[1, 1], [1, 1]], np.zeros((2, 2, 1)))
  assert parts.value_targets.ravel().tolist() == [4, 3, 2, 1]
  np.testing.assert_array_equal(
    parts.advantages.ravel(), whole.advantages.ravel()
  )


def test_a_reward_with_a_kl_penalty():
  # k1 = -1 - -2 = 1, then -3 - -1 = -2, at 1/2 a nat: rewards -1/2, 4 + 1.
  # V = 0, so the targets are the sums of the remaining rewards: 4.5, 5.
  rollout = groups.Rollout(
    None, np.array([[[-1.0, -3.0, np.nan]]]), None, np.array([[2]]), None
  )
  scored = batches.ScoredResponses(
    None, rollout, np.array([[4.0]]), np.array([[True]])
  )
  estimated = estimates.of_tokens(
    scored,
    np.zeros((1, 1, 3)),
    gamma=1.0,
    gae_lambda=1.0,
    reference_QGR=np.array([[[-2.0, -1.0, 7.0]]]),
    kl_coef=0.5,
  )
  assert estimated.value_targets.tolist() == [[[4.5, 5, 0]]]
  assert estimated.mean_kl == -0.5  # (1 - 2) / 2
  # Less their mean 4.75, over the unbiased std 1/4 sqrt(2).
  expected = [[[-(0.5**0.5), 0.5**0.5, 0]]]
  np.testing.assert_allclose(estimated.advantages, expected, rtol=1e-5)


@pytest.mark.parametrize(
  'gamma, gae_lambda', [(1.0, 1.0), (0.9, 0.8), (1.0, 0.0)]
)
def test_advantages_equal_those_of_loops(gamma, gae_lambda):
  """The loops compute whitened GAE advantages in float64."""
  rng = np.random.default_rng(0)
  rewards, lengths = rng.normal(size=(3, 2)), rng.integers(1, 6, (3, 2))
  values = rng.normal(size=(3, 2, 5))
  raw = {}
  for q, g in np.ndindex(3, 2):
    advantage, after, paid = 0.0, 0.0, rewards[q, g]
    for t in reversed(range(lengths[q, g])):
      delta = paid + gamma * after - values[q, g, t]
      advantage = delta + gamma * gae_lambda * advantage
      raw[q, g, t], after, paid = advantage, values[q, g, t], 0.0
  mean, std = np.mean([*raw.values()]), np.std([*raw.values()], ddof=1)
  estimated = of_tokens(
    rewards, lengths, values, gamma=gamma, gae_lambda=gae_lambda
  )
  for at, advantage in raw.items():
    expected = (advantage - mean) / std
    # float32; an advantage near the mean loses digits.
    assert estimated.advantages[at] == pytest.approx(
      expected, rel=1e-4, abs=1e-5
    )
    target = advantage + values[at]
    assert estimated.value_targets[at] == pytest.approx(
      target, rel=1e-4, abs=1e-5
    )
  behind = np.arange(5) >= lengths[..., None]
  assert not estimated.advantages[behind].any()
