"""Near-duplicates among questions, worked by hand."""

import hypothesis
import pytest
from hypothesis import strategies as st

from sqlm_jax.game import repetition

ANN = 'Ann has 12 apples and gives 5 of them to Bob. How many has she left?'
EVE = 'Eve has 17 apples and gives 5 of them to Bob. How many has she left?'


@pytest.mark.parametrize(
  'questions, similarity, expected',
  [
    ([], 0.9, ()),
    (['7 + 4'], 0.9, (0,)),
    (['7 + 4', '7 + 5'], 0.9, (0, 0)),  # 4 of 5 characters: 0.8
    (['7 + 4', '7 + 5'], 0.8, (1, 1)),
    (['7 + 4', ' 7  +\t4', '2 + 2'], 1.0, (1 / 2, 1 / 2, 0)),
    (['Why?', 'WHY?', 'How?', 'why?'], 1.0, (2 / 3, 2 / 3, 0, 2 / 3)),
    ([ANN, EVE, '7 + 4'], 0.9, (1 / 2, 1 / 2, 0)),
    # a-b and b-c are alike (3 of 4), a-c are not: one cluster by the link.
    (['1234', '1235', '1265'], 0.75, (1, 1, 1)),
    (['', ''], 0.9, (1, 1)),
    (['a', 'b', 'c'], 0.0, (1, 1, 1)),
  ],
)
def test_shares(questions, similarity, expected):
  found = repetition.shares(questions, similarity)
  assert found == pytest.approx(expected)
  assert all(isinstance(share, float) for share in found)


def test_a_memory_forgets_the_oldest():
  memory = repetition.Memory(size=3).add(['a1', 'b2']).add(['c3', 'd4'])
  assert memory.questions == ('b2', 'c3', 'd4')
  assert memory.seen(['a1', 'B2', 'd4', 'e5'], 0.9) == (0, 1, 1, 0)
  assert memory.seen([], 0.9) == ()


def test_an_empty_memory_has_seen_nothing():
  assert repetition.Memory(size=5).seen(['a', 'b'], 0.0) == (0, 0)
  assert repetition.Memory().add(['a']) == repetition.Memory()


def test_a_very_long_question_is_compared_by_its_beginning():
  memory = repetition.Memory(size=1).add(['ab' * 50_000])
  assert memory.seen(['ab' * 1000 + 'x' * 10**5, 'x' * 10**5], 0.9) == (1, 0)


TEXTS = st.lists(
  st.one_of(st.text(max_size=20), st.sampled_from(['7 + 4', '\ud800', '\0'])),
  max_size=8,
)


@hypothesis.given(TEXTS, st.floats(0, 1), st.randoms(use_true_random=False))
def test_any_questions_in_any_order(questions, similarity, random):
  shares = repetition.shares(questions, similarity)
  assert all(0 <= share <= 1 for share in shares)
  order = list(range(len(questions)))
  random.shuffle(order)
  shuffled = repetition.shares([questions[i] for i in order], similarity)
  assert shuffled == tuple(shares[i] for i in order)
  # What has just been asked has been seen.
  memory = repetition.Memory(size=100).add(questions)
  assert memory.seen(questions, 1.0) == (1,) * len(questions)
