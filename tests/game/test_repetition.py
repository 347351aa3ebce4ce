"""Near-duplicates among questions, worked by hand."""

import hypothesis
import pytest
from hypothesis import strategies as st

from sqlm_jax.game import repetition

ANN = 'Ann has 12 apples and gives 5 of them to Bob. How many has she left?'
EVE = 'Eve has 17 apples and gives 5 of them to Bob. How many has she left?'

FURNACE = '第二工程の炉の温度が高すぎて表面に気泡が出た。'


@pytest.mark.parametrize(
  'questions, similarity, expected',
  [
    ([], 0.9, ()),
    (['7 + 4'], 0.9, (0,)),
    (['7 + 4', '7 + 5'], 0.7, (0, 0)),  # 2 of 3 words
    (['7 + 4', '7 + 5'], 2 / 3, (1, 1)),  # from this similarity on
    (['7 + 4', '4 + 7'], 1 / 3, (1, 1)),  # order counts
    (['7 + 4', '4 + 7'], 0.34, (0, 0)),
    (['123+456', '123 + 457'], 0.9, (0, 0)),
    (['1,000', '1, 000'], 1.0, (0, 0)),
    (['7 + 4', ' 7  +\t4', '2 + 2'], 1.0, (1 / 2, 1 / 2, 0)),
    (['Why?', 'WHY?', 'How?', 'why?'], 1.0, (2 / 3, 2 / 3, 0, 2 / 3)),
    # 15 of 17 words: 0.88.
    ([ANN, EVE, '7 + 4'], 0.85, (1 / 2, 1 / 2, 0)),
    # The first and the last share only 2 of 4, but both are like the second.
    (['a b c d', 'a b c e', 'a b f e'], 0.75, (1, 1, 1)),
    (['', ''], 0.9, (1, 1)),
    (['12 x 3', '12 * 3', '１２　×　３'], 1.0, (1, 1, 1)),
    (['7 \u2212 4', '7 - 4', '７－４', '7 + 4'], 1.0, (2 / 3,) * 3 + (0,)),
    (['12 × 3 = ？', '12 * 4 = ?'], 0.85, (0, 0)),  # 4 of 5: a number is a word
    # 22 of 24 characters are equal, 0.92, with the full stop.
    ([FURNACE, FURNACE.replace('温度', '圧力')], 0.9, (1, 1)),
    ([FURNACE, FURNACE.replace('温度', '圧力')], 0.93, (0, 0)),
    ([FURNACE, FURNACE.replace('。', '．')], 1.0, (1, 1)),
    ([FURNACE, FURNACE.replace('の炉', '　の\n炉')], 1.0, (1, 1)),
    ([FURNACE, 'センサーが断線し、値が０のままになった。'], 0.5, (0, 0)),
    # 10 of 11: 2号炉 and 12号炉 differ in a number, not in a digit.
    (['2号炉の温度が高すぎる', '12号炉の温度が高すぎる'], 0.9, (1, 1)),
    (['2号炉の温度が高すぎる', '12号炉の温度が高すぎる'], 0.91, (0, 0)),
    (['炉内压力过高的原因是什么？', '炉内温度过高的原因是什么？'], 0.8, (1, 1)),
    (['เครื่องจักรร้อนเกินไป', 'เครื่องจักรร้อนเกินไปมาก'], 0.9, (1, 1)),
    # Korean has spaces: 3 of 4 words.
    (['이 기계는 너무 뜨겁다', '저 기계는 너무 뜨겁다'], 0.76, (0, 0)),
    (['a', 'b', 'c'], 0.0, (1, 1, 1)),
  ],
)
def test_shares(questions, similarity, expected):
  found = repetition.shares(questions, similarity)
  assert found == pytest.approx(expected)
  assert all(isinstance(share, float) for share in found)


def test_a_memory_forgets_the_oldest():
  memory = repetition.Memory(size=3).add(['ann', 'Bob']).add(['eve', 'max'])
  assert memory.questions == ('Bob', 'eve', 'max')
  assert memory.seen(['ann', 'BOB', 'max', 'tom'], 0.9) == (0, 1, 1, 0)
  assert memory.seen([], 0.9) == ()


def test_an_empty_memory_has_seen_nothing():
  assert repetition.Memory(size=5).seen(['a', 'b'], 0.0) == (0, 0)
  assert repetition.Memory().add(['a']) == repetition.Memory()


def test_a_very_long_question_is_compared_by_its_beginning():
  memory = repetition.Memory(size=1).add(['a b ' * 50_000])
  assert memory.seen(['a b ' * 500 + 'x ' * 10**5, 'x ' * 10**5], 0.9) == (1, 0)


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
  # Questions that were just added have been seen.
  memory = repetition.Memory(size=100).add(questions)
  assert memory.seen(questions, 1.0) == (1,) * len(questions)
