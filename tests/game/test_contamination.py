"""Which questions count as the same."""

import hypothesis
import pytest
from hypothesis import strategies as st

from sqlm_jax.game import contamination

SAME = [
  ('12 * 3', 'What is 12 × 3?', '12*3 =', 'Compute: 12 * 3.', '12 · 3 = ?'),
  ('(1 + 2) * 3', 'Calculate (1+2)*3', '(1 + 2 )*3'),
  ('7 \u2212 5', '7 - 5', 'How much is 7-5?'),
  ('Ana has 3 apples. How many?', 'ana has  3\napples.  How many'),
  ('Solve 2*x + 3 = 7 for x.', 'solve 2 * x + 3 = 7 for x'),
  ('Return the sum', 'return the sum.'),
]


@pytest.mark.parametrize('questions', SAME, ids=lambda q: q[0])
def test_the_same_in_other_words(questions):
  guard = contamination.make_guard(questions[:1], 'count')
  assert all(guard.has(question) for question in questions)


@pytest.mark.parametrize(
  'one, other',
  [
    ('12 * 3', '12 * 4'),
    ('12 * 3', '3 * 12'),
    ('12 * 3', '12 + 3'),
    ('1 - 2', '1 + -2'),
    ('3 + 4', 'Solve x * 3 + 4 = 10 for x.'),
    ('3 + 4', '3 + 4 and 5 + 6'),
    ('3 + 4', 'x = 5. Add 3 + 4'),
    (
      '3 + 4',
      'Tom works 3 + 4 hours on most days of the week. How many in a year?',
    ),
    ('Ana has 3 apples.', 'Ana has 4 apples.'),
    ('', '0'),
  ],
)
def test_another_question(one, other):
  assert contamination.key(one) != contamination.key(other)


def test_a_guard_over_nothing_has_nothing():
  assert not contamination.make_guard((), 'exclude').has('')
  assert not contamination.Guard().has('7 + 8')


@hypothesis.given(st.text(alphabet='12 +-*/().,=?xab\n\0é×', max_size=60))
def test_any_text_has_a_key_and_keeps_it(text):
  key = contamination.key(text)
  assert key == contamination.key(f' {text} ')


@pytest.mark.parametrize('piece', ['(', '1 ', '1+', '-', '1-(', ' ', '1.,'])
def test_a_long_question_takes_no_time(piece):
  """Hundredths of a second where it is linear, minutes where it is not."""
  question = piece * 50_000
  assert contamination.key(question) == contamination.key(f' {question} ')
