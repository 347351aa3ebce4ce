"""Parsers of each kind of answer."""

import fractions

import pytest

from sqlm_jax.grading import answer_kinds, markup


def test_expressions_in_sentences_and_quotes():
  parse = answer_kinds.make_parser('expression')
  twelve = (
    '12', '12。', '「12」', '答え：12', '答えは12です。', '12です。',
    'Answer: 12', 'The answer is $12$.', 'Die Antwort ist 12.', '答案是12。',
  )  # fmt: skip
  assert parse(twelve) == (fractions.Fraction(12),) * len(twelve)
  # An ideographic comma separates values; a full stop is not a decimal point.
  assert parse(['1、2', '1、000', '1。5']) == ('{1, 2}', None, None)
  assert parse(['答え：x = 5', None, '']) == ('x = 5', None, None)


@pytest.mark.parametrize(
  'text, expected',
  [
    ('Answer:\nx = 1\ny = 2', 'x = 1\ny = 2'),  # a line break is kept
    ('X = 5', 'X = 5'),
    ('The answer is x²。', 'x².'),
    ('3〜5', '3〜5'),  # a range, not a product
    ('答え：「(1, 2)」です。', '(1, 2)'),
    ('です' * 600, 'です' * 600),  # too long to be an answer
    ('', ''),
  ],
)
def test_around_mathematics(text, expected):
  assert markup.around_mathematics(text) == expected


@pytest.mark.parametrize('kind', ['number', 'text', 'choice'])
def test_missing_and_empty_answers_are_unparsed(kind):
  assert answer_kinds.make_parser(kind)([None, '']) == (None, None)
