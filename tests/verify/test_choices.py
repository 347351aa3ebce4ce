"""Answers to multiple-choice questions."""

import hypothesis
import pytest
from hypothesis import strategies as st

from sqlm_jax.verify import choices

CITIES = ('London', 'Paris', 'New York', 'Rome')


@pytest.mark.parametrize(
  'text',
  [
    'B', 'b', ' B\n', '(B)', '(b)', 'b)', 'B.', 'B:', '[B]', '**B**', '"B"',
    'Answer: B', 'answer: (b)', 'Answer B', 'The answer is B.', 'Option B',
    'The correct answer is (B).', 'the final answer is: b', 'Choice B', 'Ｂ',
    'The best option is **B**.',
  ],
)  # fmt: skip
def test_letters(text):
  assert choices.choice(text) == 'B'
  assert choices.choice(text, CITIES) == 'B'


@pytest.mark.parametrize(
  'text, expected',
  [
    ('Paris', 'B'),
    ('paris.', 'B'),
    (' "Paris" ', 'B'),
    ('new  york', 'C'),
    ('B) Paris', 'B'),
    ('B) **Paris**', 'B'),
    ('(c) New York', 'C'),
    ('C: new york.', 'C'),
    ('d. Rome', 'D'),
    ('B) Rome', None),  # the letter of one, the text of another
    ('E', None),  # there are four
    ('(E)', None),
    ('Berlin', None),
    ('e) Berlin', None),
    ('Paris and Rome', None),
    ('A or B', None),
    ('A, B', None),
    ('AB', None),
    ('a city', None),
    ('1', None),
    ('é', None),
    ('', None),
    (' ', None),
    ('()', None),
    ('answer:', None),
    ('Answer', None),
    ('B' * 10**6, None),
    ('(' * 1000, None),
    ('B\x00', None),
  ],
)
def test_among_options(text, expected):
  assert choices.choice(text, CITIES) == expected


@pytest.mark.parametrize(
  'text, options, expected',
  [
    # An option's text goes before the letter: B is the text of A here.
    ('B', ('b', 'a'), 'A'),
    ('a', ('b', 'a'), 'B'),
    ('5', ('4', '5'), 'B'),
    ('b) 5', ('4', '5'), 'B'),
    ('a) 5', ('4', '5'), None),
    ('5', ('5', '5'), None),  # which of them?
    ('b', ('5', '5'), 'B'),
    ('Z', (), 'Z'),
    ('Paris', (), None),
    ('b) Paris', (), None),
    ('', ('', 'x'), None),
    ('Option A', ('Option B', 'Option A'), 'B'),
  ],
)
def test_corner_cases(text, options, expected):
  assert choices.choice(text, options) == expected


@hypothesis.given(st.text(), st.lists(st.text(), max_size=30))
def test_no_text_crashes_it(text, options):
  found = choices.choice(text, options)
  assert found is None or ('A' <= found <= 'Z' and len(found) == 1)
  if found is not None and options:
    assert ord(found) - ord('A') < len(options)


@hypothesis.given(
  st.text('abcABC().: answeristhe*', max_size=20),
)
def test_a_letter_is_its_own_canonical_form(text):
  found = choices.choice(text)
  if found is not None:
    assert choices.choice(found) == found


def test_stars_that_are_a_part_of_an_option():
  options = ('2*3', '2+3')
  found = [choices.choice(text, options) for text in ('2*3', '2+3', 'A) 2*3')]
  assert found == ['A', 'B', 'A']
