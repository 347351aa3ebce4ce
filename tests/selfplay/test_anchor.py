"""The groups of the anchor that updates take in turn."""

import numpy as np
import pytest

from sqlm_jax.engine import groups
from sqlm_jax.selfplay import anchor, packing_plan, responses

PROMPTS = [[1, 2], [3], [4, 5, 6]]
LENGTHS = np.array([[2, 1], [3, 9], [1, 1]], np.int32)
SLOTS = 64  # more than the longest answer requires


def make_anchor() -> anchor.Anchor:
  """Returns an anchor of three prompts with two answers each."""
  tokens = np.arange(3 * 2 * SLOTS, dtype=np.int32).reshape(3, 2, SLOTS)
  sampled = groups.Rollout(
    tokens, -tokens / 1000, -tokens / 1000, LENGTHS, np.ones((3, 2), bool)
  )
  answers = anchor.scored(responses.Responses(PROMPTS, sampled, [None] * 3))
  assert answers.mask.all()  # all answers are evaluated
  return anchor.make_anchor(answers, -tokens / 500)


def test_answers_are_as_wide_as_the_longest():
  made = make_anchor()
  assert made.tokens.shape == made.logprobs.shape == (3, 2, 12)
  np.testing.assert_array_equal(made.logprobs, -made.tokens / 500)
  assert made.lengths.tolist() == LENGTHS.tolist()


@pytest.mark.parametrize(
  'number, expected',
  [(0, [0, 1]), (1, [2, 0]), (2, [1, 2]), (3, [0, 1])],
)
def test_updates_take_turns(number, expected):
  made = make_anchor()
  batch = anchor.batch(made, number, 2, packing_plan.Layout(8, 1))
  np.testing.assert_array_equal(batch.tokens, made.tokens[expected])
  np.testing.assert_array_equal(batch.old_logprobs, made.logprobs[expected])
  np.testing.assert_array_equal(batch.lengths, made.lengths[expected])
  for row, prompt in enumerate(expected):
    length = batch.prompts.lengths[row]
    assert batch.prompts.tokens[row, :length].tolist() == PROMPTS[prompt]
  # Every token has the same weight.
  total = LENGTHS[expected].sum()
  np.testing.assert_allclose(batch.weights, np.full((2, 2), 1 / total))
  assert batch.num_groups == 2


def test_a_batch_is_padded_to_full_microbatches():
  batch = anchor.batch(make_anchor(), 0, 5, packing_plan.Layout(2, 1))
  # There are three prompts, so no prompt is used twice.
  assert batch.num_groups == 3
  assert batch.tokens.shape[0] == 4
  expected = np.full((3, 2), 1 / LENGTHS.sum())
  np.testing.assert_allclose(batch.weights[:3], expected)
  assert not batch.weights[3].any()
