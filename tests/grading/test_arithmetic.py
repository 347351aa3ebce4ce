"""Values of arithmetic expressions."""

import fractions

import hypothesis
import pytest
from hypothesis import strategies as st

from sqlm_jax.grading import arithmetic

F = fractions.Fraction


@pytest.mark.parametrize(
  'expression, expected',
  [
    ('7', 7),
    ('1 + 2', 3),
    ('2 + 3 * 4', 14),
    ('(2 + 3) * 4', 20),
    ('10 - 4 - 3', 3),
    ('10 - (4 - 3)', 9),
    ('8 / 4 / 2', 1),
    ('8 / (4 / 2)', 4),
    ('2 * -3', -6),
    ('-(2 + 3)', -5),
    ('--3', 3),
    ('1 / 3', F(1, 3)),
    ('1 / 3 * 3', 1),
    ('0.1 + 0.2', F(3, 10)),  # exact, unlike float
    ('1.5 * 2', 3),
    ('6 × 7', 42),
    ('5 \u2212 8', -3),
    ('  12*12\n', 144),
    # Full width, Unicode and LaTeX.
    ('３＋４', 7),
    ('12－5', 7),
    ('１２ー５', 7),
    ('６×７', 42),
    ('８÷２', 4),
    ('８／２', 4),
    ('３＊４', 12),
    ('（１＋２）×３', 9),
    ('１．５＋２．５', 4),
    ('３＋４＝', 7),
    ('３＋４＝？', 7),
    ('「３＋４」。', 7),
    ('１，０００＋２', 1002),
    ('1,000 + 2', 1002),
    ('3 + 4 = ?', 7),
    ('7 – 4', 3),
    ('7 ‐ 4', 3),
    ('7 ﹣ 4', 3),
    ('3 · 4', 12),
    ('3 ⋅ 4', 12),
    ('3 x 4', 12),
    ('8 ⁄ 2', 4),
    (r'$7 \times 4$', 28),
    (r'\(8 \div 2\)', 4),
    (r'7 \cdot \left(1 + 2\right)', 21),
    (r'\frac{1}{2} + 3', F(7, 2)),
    ('½ + ½', 1),
    ('3½ + 1', F(9, 2)),
    ('+3', 3),
    ('1e3 + 1', 1001),
    ('0 / 5', 0),
    ('1.05 + 0.05', F(11, 10)),
    ('999999999999 * 999999999999', 999999999998000000000001),
  ],
)
def test_value(expression, expected):
  assert arithmetic.value(expression) == expected


@pytest.mark.parametrize(
  'expression',
  [
    '',
    ' ',
    '1 +',
    '* 2',
    '(1',
    '1 / 0',
    '1 / (2 - 2)',
    'two + 2',
    'x',
    '1 + x',
    '2 + 2 = 4',
    '2 + 2 == 4',
    '1, 2',
    '[1]',
    'True',
    'False + 1',
    '1 + True',
    'None',
    "'1'",
    "'a' * 999999999",
    "b'1'",
    '...',
    '1j',
    '9**9**9',
    '2 ** 3',
    '7 // 2',
    '7 % 2',
    '1 << 99',
    '~1',
    'not 1',
    '1 if 1 else 2',
    'lambda: 1',
    '(x := 1)',
    '__import__("os").system("true")',
    'open("/etc/passwd")',
    '1; 2',
    '1\n2',
    'import os',
    '1\x00',
    '\ud800',
    '1e999',
    '1e999 - 1e999',
    '9' * 10_000,
    '(' * 100 + '1' + ')' * 100,
    '(' * 150,
    '(' * 100_000 + '1' + ')' * 100_000,
    '-' * 100_000 + '1',
    '1 + ' * 100_000 + '1',
    '3～5',
    '3・5',
    '３＋',
    '３＋四',
    '5!',
    '5！',
    '5²',
    '2^3½',
    '3x4',
    '0x10',
    '1_000',
    '(2)(3)',
    '1 000 + 1',
    '3 + 4 = 7',
    '$3 + $4',
    '5% + 1',
    '1' + ' ' * 10 + '+' + '1' * 200,
  ],
)
def test_invalid_or_hostile_expressions_have_no_value(expression):
  assert arithmetic.value(expression) is None


def test_leading_zeros_are_invalid():
  assert arithmetic.value('007 + 1') is None


def test_longest_allowed_expressions():
  # 199 characters: a hundred ones joined by 99 signs.
  assert arithmetic.value('+'.join('1' * 100)) == 100
  assert arithmetic.value('-' * 199 + '1') == -1
  assert arithmetic.value('(' * 99 + '1' + ')' * 99) == 1


@hypothesis.given(st.text(max_size=40))
def test_any_text_can_be_evaluated(text):
  value = arithmetic.value(text)
  assert value is None or isinstance(value, F)


@hypothesis.given(
  st.text('0123456789.+-*/()_eExjJ×\u2212 TrueFalse"\'#\\\n', max_size=40)
)
def test_any_text_of_operators_can_be_evaluated(text):
  value = arithmetic.value(text)
  assert value is None or isinstance(value, F)


def expressions():
  """Generates pairs of an expression and its value as a Fraction."""
  leaf = st.integers(0, 999).map(lambda n: (str(n), F(n)))

  def join(parts):
    (a, x), op, (b, y) = parts
    result = {'+': lambda: x + y, '-': lambda: x - y, '*': lambda: x * y}
    value = result[op]() if op in result else (x / y if y else None)
    return f'({a}{op}{b})', value

  return st.recursive(
    leaf,
    lambda inner: (
      st.tuples(inner, st.sampled_from('+-*/'), inner)
      .map(join)
      .filter(lambda pair: pair[1] is not None)
    ),
    max_leaves=8,
  )


@hypothesis.given(expressions())
def test_value_agrees_with_fractions(pair):
  text, value = pair
  assert arithmetic.value(text) == value


def test_long_decimals_are_exact():
  value = arithmetic.value('12345678901234567.5 + 0.1')
  assert value == fractions.Fraction('12345678901234567.6')
