"""Packed prompts and batches, computed by hand."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from sqlm_jax.engine import groups
from sqlm_jax.selfplay import batches, estimates, packing_plan

COMMON = list(range(1, 11))  # 10 tokens, more than `_MIN_PREFIX`


def unpacked(packed: groups.Prompts) -> list[list[int]]:
  """Returns the prompt of each row."""
  prefix = packed.prefix_tokens[0, : packed.prefix_lengths[0]].tolist()
  return [
    prefix + row[:length].tolist()
    for row, length in zip(packed.tokens, packed.lengths, strict=True)
  ]


@pytest.mark.parametrize(
  'prompts, common, lengths',
  [
    # Common up to the first difference.
    ([[*COMMON, 20], [*COMMON, 21, 22]], 10, [1, 2]),
    # Seven in common: too few for a pass of their own.
    ([[*COMMON[:7], 20], [*COMMON[:7], 21, 22]], 0, [8, 9]),
    # Eight in common.
    ([[*COMMON[:8], 20], [*COMMON[:8], 21, 22]], 8, [1, 2]),
    # Nothing in common.
    ([[1, *COMMON], [2, *COMMON]], 0, [11, 11]),
    # All equal: the last token stays in the row, it predicts the response.
    ([COMMON, COMMON, COMMON], 9, [1, 1, 1]),
    # One prompt shares all but its last token with itself.
    ([[*COMMON, 20]], 10, [1]),
    # One is the beginning of the other.
    ([COMMON, [*COMMON, 20]], 9, [1, 2]),
    # A prompt of one token.
    ([[5], [*COMMON]], 0, [1, 10]),
  ],
)
def test_pack_prompts(prompts, common, lengths):
  packed = batches.pack_prompts(prompts)
  assert packed.prefix_lengths.tolist() == [common]
  width = packing_plan.bucket(common) if common else 0
  assert packed.prefix_tokens.shape == (1, width)
  assert packed.lengths.tolist() == lengths
  assert packed.tokens.shape == (
    len(prompts),
    packing_plan.bucket(max(lengths)),
  )
  assert unpacked(packed) == prompts


def test_padding_rows_have_one_token():
  packed = batches.pack_prompts([[*COMMON, 20], [*COMMON, 21]], num_rows=5)
  assert packed.lengths.tolist() == [1] * 5
  assert packed.tokens.shape == (5, 8)
  assert packed.tokens[2:].tolist() == [[0] * 8] * 3
  assert packed.prefix_lengths.tolist() == [
    10
  ]  # dummy prompts do not shorten the prefix


PROMPTS = st.lists(st.integers(1, 3), min_size=1, max_size=30)


@hypothesis.given(
  st.lists(PROMPTS, min_size=1, max_size=5),
  st.lists(st.integers(1, 3), max_size=20),
  st.integers(0, 3),
)
def test_packed_prompts_are_the_prompts(rests, common, extra):
  prompts = [common + rest for rest in rests]
  packed = batches.pack_prompts(prompts, len(prompts) + extra)
  assert unpacked(packed)[: len(prompts)] == prompts
  assert len(packed.tokens) == len(prompts) + extra
  assert (packed.lengths >= 1).all()


# Three groups of two in a step of four. The second has equal rewards.
LENGTHS = [[1, 3], [2, 2], [4, 4]]
REWARDS = [[1, 0], [1, 1], [0, 1]]
TOTAL = 1 + 3 + 2 + 2 + 4 + 4  # tokens of all responses


def make_scored(rewards=REWARDS, lengths=LENGTHS):
  shape = (3, 2, 5)
  rollout = groups.Rollout(
    tokens=np.arange(30, dtype=np.int32).reshape(shape),
    logprobs=-np.arange(30, dtype=np.float32).reshape(shape),
    sampling_logprobs=np.zeros(shape, np.float32),
    lengths=np.array(lengths, np.int32),
    finished=np.ones((3, 2), bool),
  )
  rewards = np.array(rewards, np.float32)
  return batches.pad_groups(
    [[10], [11, 11], [12]], rollout, rewards, num_groups=4
  )


def make_batches(
  rewards=REWARDS, lengths=LENGTHS, estimator='dr_grpo', **changes
):
  settings = {
    'layout': packing_plan.Layout(1, shards=1),
    'updates': 1,
    'aggregation': 'token',
    'max_tokens': 5,
    'keep_neutral': False,
  }
  scored = make_scored(rewards, lengths)
  advantages = estimates.of_responses(scored, estimator)
  return batches.make_batches(scored, advantages, **settings | changes)


def test_useful_groups_come_first_and_keep_their_rows():
  (batch,) = make_batches()
  assert batch.num_groups == 2
  assert batch.prompts.tokens[:2, 0].tolist() == [10, 12]
  assert batch.lengths[:2].tolist() == [[1, 3], [4, 4]]
  assert batch.tokens[:2, :, 0].tolist() == [[0, 5], [20, 25]]
  assert batch.old_logprobs[1, 1].tolist() == [-25, -26, -27, -28, -29]


def test_a_batch_is_as_wide_as_its_longest_response():
  """The longest response has 9 of 40 tokens, and its bucket is 12."""
  scored = make_scored(REWARDS, LENGTHS)
  rollout = scored.rollout
  wide = np.zeros((*rollout.tokens.shape[:2], 40), np.int32)
  wide[..., : rollout.tokens.shape[2]] = rollout.tokens
  lengths = rollout.lengths.copy()
  lengths[0, 1] = 9
  lengths[1] = 40  # a group with equal rewards
  rollout = rollout._replace(
    tokens=wide, logprobs=-wide.astype(np.float32), lengths=lengths
  )
  scored = scored._replace(rollout=rollout)
  (batch,) = batches.make_batches(
    scored,
    estimates.of_responses(scored, 'dr_grpo'),
    packing_plan.Layout(1, shards=1),
    updates=1,
    aggregation='constant',
    max_tokens=40,
    keep_neutral=False,
  )
  assert batch.tokens.shape[2] == batch.old_logprobs.shape[2] == 12
  assert batch.lengths.max() == 12
  assert batch.lengths[0].tolist() == [1, 9]
  np.testing.assert_array_equal(batch.tokens[0], wide[0, :, :12])


def test_advantages_are_rewards_minus_the_group_mean():
  (batch,) = make_batches()
  half = [[0.5, -0.5], [-0.5, 0.5]]
  assert batch.advantages.shape == (4, 2, 1)
  assert batch.advantages[..., 0].tolist() == [*half, [0, 0], [0, 0]]
  assert batch.old_values is batch.value_targets is None


def test_normalized_advantages():
  # Rewards 1, 0: mean 1/2, unbiased variance 1/2, so +-1/2 / sqrt(1/2).
  (batch,) = make_batches(estimator='grpo')
  expected = np.sqrt(0.5)
  np.testing.assert_allclose(
    batch.advantages[0, :, 0], [expected, -expected], rtol=1e-5
  )


def test_token_aggregation_weighs_tokens_equally_and_counts_neutral_groups():
  (batch,) = make_batches()
  np.testing.assert_allclose(batch.weights[:2], 1 / TOTAL, rtol=1e-6)
  assert not batch.weights[2:].any()


def test_sequence_aggregation_weighs_responses_equally():
  # Six responses count, and a response's tokens share its sixth.
  (batch,) = make_batches(aggregation='sequence')
  expected = [[1 / 6 / 1, 1 / 6 / 3], [1 / 6 / 4, 1 / 6 / 4]]
  np.testing.assert_allclose(batch.weights[:2], expected, rtol=1e-6)
  assert not batch.weights[2:].any()


def test_constant_aggregation_ignores_the_lengths_of_responses():
  (batch,) = make_batches(aggregation='constant')  # six responses of at most 5
  np.testing.assert_allclose(batch.weights[:2], 1 / 30, rtol=1e-6)


def test_an_estimator_over_the_batch_sees_all_updates():
  # The mean of the six rewards is 4/6, so equal rewards have advantages, too.
  first, second = make_batches(estimator='reinforce', updates=2)
  assert first.num_groups == 2
  found = first.advantages[1, :, 0], second.advantages[0, :, 0]
  expected = [1 / 3, 1 / 3], [-2 / 3, 1 / 3]
  np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize('aggregation', ['token', 'sequence'])
def test_all_weights_add_up_to_one_if_all_are_kept(aggregation):
  (batch,) = make_batches(keep_neutral=True, aggregation=aggregation)
  assert batch.num_groups == 3
  total = float((batch.weights * batch.lengths).sum())
  assert total == pytest.approx(1, rel=1e-6)
  assert batch.advantages[1].tolist() == [[0], [0]]  # only for the KL


def test_updates_split_the_groups_in_order():
  first, second = make_batches(updates=2)
  assert first.num_groups == second.num_groups == 1
  assert first.prompts.tokens[0, 0] == 10
  assert second.prompts.tokens[0, 0] == 12
  # Each update is averaged over its own tokens: 1 + 3 + 2 + 2 and 4 + 4.
  np.testing.assert_allclose(first.weights[0], 1 / 8, rtol=1e-6)
  np.testing.assert_allclose(second.weights[0], 1 / 8, rtol=1e-6)


def test_an_update_with_nothing_to_learn_is_left_out():
  # Of the four updates, the last is padding, and the second has equal rewards.
  found = make_batches(updates=4)
  assert [batch.prompts.tokens[0, 0] for batch in found] == [10, 12]


@pytest.mark.parametrize('rewards', [[[1, 1]] * 3, [[0, 0]] * 3])
def test_nothing_to_learn(rewards):
  with np.errstate(all='raise'):
    assert make_batches(rewards) == []


def test_a_group_of_several_prompts_has_one_mean():
  """A question has four answers, two to each of its two prompts."""
  shape = (4, 2, 3)
  rollout = groups.Rollout(
    tokens=np.arange(24, dtype=np.int32).reshape(shape),
    logprobs=np.zeros(shape, np.float32),
    sampling_logprobs=np.zeros(shape, np.float32),
    lengths=np.full((4, 2), 3, np.int32),
    finished=np.ones((4, 2), bool),
  )
  rewards = np.array([[1, 1, 0, 0], [1, 0, 0, 0]], np.float32)
  scored = batches.pad_groups(
    [[10], [20], [11], [21]], rollout, rewards, num_groups=3
  )
  (batch,) = batches.make_batches(
    scored,
    estimates.of_responses(scored, 'dr_grpo'),
    packing_plan.Layout(1, shards=1),
    updates=1,
    aggregation='token',
    max_tokens=3,
    keep_neutral=False,
  )
  assert batch.prompts.tokens[:, 0].tolist() == [10, 20, 11, 21, 0, 0]
  # Both answers to the first prompt are right, and would have advantages of 0
  # if they were compared only with each other.
  assert batch.advantages[:4, :, 0].tolist() == [
    [0.5, 0.5],
    [-0.5, -0.5],
    [0.75, -0.25],
    [-0.25, -0.25],
  ]
  assert batch.num_groups == 4


def test_batches_are_padded_to_full_microbatches():
  (batch,) = make_batches(layout=packing_plan.Layout(3, shards=1))
  assert batch.lengths.shape == (6, 2)
  assert batch.num_groups == 2
  assert not batch.weights[2:].any()
  assert not batch.advantages[2:].any()


@pytest.mark.parametrize('aggregation', ['token', 'sequence'])
def test_an_empty_response_gives_finite_weights(aggregation):
  lengths = [[0, 3], *LENGTHS[1:]]
  (batch,) = make_batches(lengths=lengths, aggregation=aggregation)
  assert np.isfinite(batch.weights).all()


def test_a_unanimous_group_teaches_the_value_function():
  values = np.random.default_rng(0).normal(size=(4, 2, 5)).astype(np.float32)
  scored = make_scored()
  advantages = estimates.of_tokens(scored, values, gamma=1.0, gae_lambda=1.0)
  (batch,) = batches.make_batches(
    scored,
    advantages,
    packing_plan.Layout(1, shards=1),
    updates=1,
    aggregation='token',
    max_tokens=5,
    keep_neutral=True,
  )
  assert batch.num_groups == 3  # also the second, whose rewards are equal
  assert batch.value_targets[1, :, 0].tolist() == [1, 1]
  np.testing.assert_array_equal(batch.old_values[:3], values[:3])
  np.testing.assert_array_equal(batch.advantages[:3], advantages.advantages[:3])
  assert not batch.advantages[3].any()


def test_texts_to_evaluate():
  scored = make_scored()
  texts = batches.texts_to_evaluate(scored, packing_plan.Layout(3, shards=1))
  assert texts.num_groups == 3  # the fourth group is padding
  assert texts.prompts.tokens[:3, 0].tolist() == [10, 11, 12]
  np.testing.assert_array_equal(texts.tokens[:4], scored.rollout.tokens)
  assert texts.tokens.shape == (6, 2, 5)
  assert texts.prompts.lengths.shape == (6,)
