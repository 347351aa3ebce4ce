"""Merging equal responses keeps the loss and its gradient."""

import functools

import jax
import numpy as np
import pytest

from sqlm_jax.engine import groups, policy_loss
from sqlm_jax.selfplay import batches, equal_responses
from tests import tiny

PROMPTS = [[5, 6, 7], [9], [8, 8], [0]]
R = 3
A, B, C = [11, 12, 13], [11, 12, 299], [40, 41, 42]
FEW = [A, B, A, A, A, B], [B, B, A, C, A, A]


def make_batch(*tokens, lengths=None, weights=None) -> groups.GroupBatch:
  """Makes groups of six responses; equal tokens have equal advantages."""
  num_groups, rng = len(tokens), np.random.default_rng(0)
  tokens = np.array([*tokens, *[[A] * 6] * (4 - num_groups)], np.int32)
  weights = np.full((4, 6), 1 / 50) if weights is None else np.array(weights)
  weights[num_groups:] = 0
  is_B = (tokens == B).all(axis=-1, keepdims=True)
  old = rng.normal(-5.7, 0.3, (300, R))  # of one response in one way
  return groups.GroupBatch(
    prompts=batches.pack_prompts(PROMPTS),
    tokens=tokens,
    lengths=np.full((4, 6), R) if lengths is None else np.array(lengths),
    old_logprobs=old[tokens[..., 2]].astype(np.float32),
    advantages=np.where(is_B, 0.5, -0.25).astype(np.float32),
    weights=weights.astype(np.float32),
    num_groups=np.int32(num_groups),
  )


@pytest.mark.parametrize('ratio', ['token', 'sequence'])
def test_merging_changes_neither_loss_nor_gradient_nor_metrics(ratio):
  batch = make_batch(*FEW)
  merged = equal_responses.merge(batch)
  assert merged.counts[:2].tolist() == [[4, 2, 0, 0, 0, 0], [2, 0, 3, 1, 0, 0]]
  assert not merged.counts[2:].any()
  np.testing.assert_allclose(merged.weights, merged.counts / 50, rtol=1e-6)
  loss = functools.partial(
    policy_loss.policy_loss,
    policy=tiny.tiny_policy(),
    settings=policy_loss.LossSettings(
      ratio_level=ratio, kl_coef=0.1, entropy_coef=0.01
    ),
  )
  reference = jax.tree.map(lambda x: 1.1 * x, tiny.tiny_params())
  expected, found = (
    jax.value_and_grad(loss, has_aux=True)(tiny.tiny_params(), one, reference)
    for one in (batch, merged)
  )
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5),
    found,
    expected,
  )


def test_responses_with_other_advantages_are_not_merged():
  batch = make_batch([A] * 6, [A] * 6)
  advantages = batch.advantages.copy()
  advantages[0, 3] = 1
  merged = equal_responses.merge(batch._replace(advantages=advantages))
  assert merged.counts[0].tolist() == [5, 0, 0, 1, 0, 0]


def test_tokens_after_the_end_are_ignored():
  lengths = np.full((4, 6), 2)
  merged = equal_responses.merge(
    make_batch(*FEW, lengths=lengths)._replace(
      advantages=np.ones((4, 6, 1), np.float32)
    )
  )
  assert merged.counts[0].tolist() == [
    6,
    *[0] * 5,
  ]  # all end before they differ


def test_responses_without_weight_are_not_merged():
  weights = np.full((4, 6), 0.02)
  weights[0, 2:] = weights[1, 4:] = 0
  merged = equal_responses.merge(make_batch(*FEW, weights=weights))
  assert merged.counts[:2].tolist() == [[1, 1, 0, 0, 0, 0], [2, 0, 1, 1, 0, 0]]
  np.testing.assert_allclose(merged.weights[1], [0.04, 0, 0.02, 0.02, 0, 0])


def test_a_batch_without_equal_responses_does_not_change():
  batch = make_batch(*[[[i, j, 1] for i in range(6)] for j in range(2)])
  merged = equal_responses.merge(batch)
  np.testing.assert_array_equal(merged.weights, batch.weights)
  np.testing.assert_array_equal(merged.counts, batch.weights > 0)
