"""Majority votes: ours, and that of the paper's code."""

import collections
import math

import hypothesis
import pytest
from hypothesis import strategies as st

from sqlm_jax.game import rewards, vote

ANSWERS = st.lists(st.sampled_from([None, 1, 2, 3, 4]), max_size=9)


# Rewards of solver and proposer in the paper's code, for groups of four.
@pytest.mark.parametrize(
  'answers, solver, proposer',
  [
    ([5, 5, None, None], (1, 1, 0, 0), 1),
    ([None, None, 5, 5], (0, 0, 0, 0), 0),
    ([1, 1, 2, 2], (1, 1, 0, 0), 1),
    ([2, 1, 1, 2], (1, 0, 0, 1), 1),  # 2 was seen first
    ([None, None, None, None], (0, 0, 0, 0), 0),
    ([1, 2, 3, 4], (1, 0, 0, 0), 0),
    ([None, 1, 2, 3], (0, 0, 0, 0), 0),  # the first of the tie is unparsed
    ([1, None, 2, 3], (1, 0, 0, 0), 0),
    ([None, None, None, 5], (0, 0, 0, 0), 0),
    ([None, 5, 5, None], (0, 0, 0, 0), 0),
    ([None, 5, 5, 5], (0, 1, 1, 1), 1),
    ([5, 5, 5, 5], (1, 1, 1, 1), 0),
    ([], (), 0),
  ],
)
def test_ties_first_is_the_vote_of_the_papers_code(answers, solver, proposer):
  result = vote.majority(answers, ties='first')
  assert rewards.majority(answers, result) == solver
  assert rewards.difficulty_of_vote('sqlm', result) == proposer


@pytest.mark.parametrize(
  'answers, winner, count, reason',
  [
    ([5, 5, None, None], 5, 2, ''),
    ([None, None, 5, 5], 5, 2, ''),  # unparsed answers cannot win
    ([None, None, None, 5, 5], 5, 2, ''),
    ([1, 1, 2, 2], None, 0, 'tie'),
    ([1, 1, 2, 2, 3], None, 0, 'tie'),
    ([1, 1, 2, 2, 2], 2, 3, ''),
    ([1, 1, 2, 3], 1, 2, ''),
    ([1, 2, 3, 4], None, 0, 'singleton'),
    ([1, None, None, None], None, 0, 'singleton'),
    ([1], None, 0, 'singleton'),
    ([None, None, None, None], None, 0, 'unparsed'),
    ([], None, 0, 'unparsed'),
    ([5, 5, 5, 5], 5, 4, ''),
    # 0 and the empty text are answers, not unparsed.
    ([0, 0, 1, None], 0, 2, ''),
    (['', '', 'a', None], '', 2, ''),
  ],
)
def test_no_majority(answers, winner, count, reason):
  result = vote.majority(answers)
  assert result.answer == winner
  assert result.count == count
  assert result.size == len(answers)
  assert result.reason == reason


@pytest.mark.parametrize('ties', ['none', 'first'])
@pytest.mark.parametrize(
  'answers, min_agreement, wins',
  [
    ([5, 5, 5, 1], 0.75, True),  # exactly
    ([5, 5, 5, 1], 0.76, False),
    ([5, 5, 1, None], 0.5, True),  # unparsed answers count in the size
    ([5, 5, 1, None], 0.51, False),
    ([5, 5, 5, 5], 1.0, True),
    ([5, 5, 5, 1], 1.0, False),
    ([5] * 14 + [1] * 11, 0.56, True),  # 0.56 * 25 > 14 in floats
    ([5] * 14 + [1] * 11, 0.57, False),
  ],
)
def test_min_agreement(ties, answers, min_agreement, wins):
  result = vote.majority(answers, ties=ties, min_agreement=min_agreement)
  if wins:
    assert result.answer == 5
    assert result.count == answers.count(5)
  else:
    assert result.answer is None
    assert result.count == 0
    assert result.reason == 'disagreement'


def test_min_agreement_is_met_exactly_by_every_share():
  """The float closest to a share is met by the share itself."""
  for size in range(2, 65):
    for count in range(2, size + 1):
      answers = [0] * count + [*range(1, size - count + 1)]
      result = vote.majority(answers, min_agreement=count / size)
      assert result.answer == 0, (count, size)


@hypothesis.given(ANSWERS)
def test_the_winner_is_the_most_frequent_answer(answers):
  result = vote.majority(answers)
  counts = collections.Counter(a for a in answers if a is not None)
  best = [a for a, n in counts.items() if n == max(counts.values())]
  if len(best) == 1 and counts[best[0]] > 1:
    assert (result.answer, result.count) == (best[0], counts[best[0]])
    assert not result.reason
  else:
    assert (result.answer, result.count) == (None, 0)
    assert result.reason


@hypothesis.given(
  ANSWERS.flatmap(lambda a: st.tuples(st.just(a), st.permutations(a))),
  st.floats(0, 1),
)
def test_order_does_not_matter(pair, min_agreement):
  one, other = (
    vote.majority(answers, min_agreement=min_agreement) for answers in pair
  )
  assert one == other


@hypothesis.given(ANSWERS)
def test_ties_first_equals_a_maximum_in_order(answers):
  """`max` returns the first of equal counts, as the paper's code does."""
  result = vote.majority(answers, ties='first')
  winner = max(answers, key=answers.count, default=None)
  assert result.answer == winner
  assert result.count == (0 if winner is None else answers.count(winner))
  assert result.size == len(answers)


@hypothesis.given(
  st.lists(
    st.none() | st.text(max_size=2) | st.fractions() | st.integers(), max_size=6
  ),
  st.sampled_from(['none', 'first']),
  st.floats(0, 1),
)
def test_no_answers_crash_it(answers, ties, min_agreement):
  result = vote.majority(answers, ties=ties, min_agreement=min_agreement)
  assert (result.answer is None) == bool(result.reason)
  assert result.count == (
    0 if result.answer is None else answers.count(result.answer)
  )


@pytest.mark.parametrize(
  'answers, weights, winner, count, reason',
  [
    # Weights 0.3 and 0.3 lose against 0.7 and 0.1.
    ([1, 1, 2, 2], [0.3, 0.3, 0.7, 0.1], 2, 2, ''),
    # A single answer is a singleton, whatever its weight.
    ([1, 1, 2], [0.1, 0.1, 0.9], None, 0, 'singleton'),
    ([1, 1, 2, 2], [0.5, 0.25, 0.25, 0.5], None, 0, 'tie'),
    ([None, 1, 1], [5.0, 0.1, 0.1], 1, 2, ''),
    ([1, 1, 2], [0.0, 0.0, 0.0], None, 0, 'tie'),
  ],
)
def test_weighted_votes(answers, weights, winner, count, reason):
  found = vote.majority(answers, weights=weights)
  assert (found.answer, found.count, found.reason) == (winner, count, reason)


def test_agreement_of_weighted_votes_is_a_share_of_the_weight():
  # The answer 1 has 0.6 of the total 1.0, which includes the unparsed answer.
  answers, weights = [1, 1, 2, None], [0.3, 0.3, 0.3, 0.1]

  def at_least(share):
    return vote.majority(answers, weights=weights, min_agreement=share)

  assert at_least(0.59).answer == 1
  assert at_least(0.61).reason == 'disagreement'


@hypothesis.given(ANSWERS, st.sampled_from(['none', 'first']), st.floats(0, 1))
def test_equal_weights_change_nothing(answers, ties, least):
  plain = vote.majority(answers, ties=ties, min_agreement=least)
  weighted = vote.majority(
    answers, weights=[1] * len(answers), ties=ties, min_agreement=least
  )
  assert plain == weighted


def test_likelihood_by_hand():
  # Two tokens of probability 1/2 and 1/8: the geometric mean is 1/4.
  assert vote.likelihood(math.log(1 / 16), 2) == pytest.approx(0.25)
  assert vote.likelihood(0.0, 0) == 0
