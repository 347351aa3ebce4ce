"""From texts to canonical answers, by the kind of answer."""

import fractions

import pytest

from sqlm_jax.grading import answer_kinds, markup


def test_expressions_with_what_stands_around_them():
  read = answer_kinds.make_parser('expression')
  twelve = (
    '12', '12。', '「12」', '答え：12', '答えは12です。', '12です。',
    'Answer: 12', 'The answer is $12$.', 'Die Antwort ist 12.', '答案是12。',
  )  # fmt: skip
  assert read(twelve) == (fractions.Fraction(12),) * len(twelve)
  # An ideographic comma separates, and a full stop is no decimal point.
  assert read(['1、2', '1、000', '1。5']) == ('{1, 2}', None, None)
  assert read(['答え：x = 5', None, '']) == ('x = 5', None, None)


@pytest.mark.parametrize(
  'text, expected',
  [
    ('Answer:\nx = 1\ny = 2', 'x = 1\ny = 2'),  # a line break is kept
    ('X = 5', 'X = 5'),
    ('The answer is x²。', 'x².'),
    ('3〜5', '3〜5'),  # a range is no product
    ('答え：「(1, 2)」です。', '(1, 2)'),
    ('です' * 600, 'です' * 600),  # too long to be an answer
    ('', ''),
  ],
)
def test_around_mathematics(text, expected):
  assert markup.around_mathematics(text) == expected


@pytest.mark.parametrize('kind', ['number', 'text', 'choice'])
def test_nothing_found_is_a_blank(kind):
  assert answer_kinds.make_parser(kind)([None, '']) == (None, None)
