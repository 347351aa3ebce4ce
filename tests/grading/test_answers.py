"""Canonical answers of the kinds 'number' and 'text'."""

import fractions
import string

import hypothesis
import pytest
from hypothesis import strategies as st

from sqlm_jax.grading import answers

F = fractions.Fraction


@pytest.mark.parametrize(
  'text, expected',
  [
    *[
      (text, F(5))
      for text in (
        '5',
        '+5',
        '005',
        '5.0',
        '5.',
        '10/2',
        '10 / 2',
        '500%',
        ' 5\n',
        '\t5',
        '５',  # full width
        '１０／２',
        '５００％',
        '5.000',
      )
    ],
    *[(text, F(1000)) for text in ('1,000', '1000', '1,000.00', '100000%')],
    *[(text, F(1, 2)) for text in ('.5', '1/2', '0.5', '50%', '0.50')],
    *[(text, F(-3)) for text in ('-3', '\u22123', '－3', '-6/2', '-300%')],
    *[(text, F(0)) for text in ('0', '-0', '+0.0', '0/7', '0%', '000')],
    ('1,234,567', F(1234567)),
    ('12,345.5', F(24691, 2)),
    ('1,000/4', F(250)),
    ('0.1', F(1, 10)),  # exact, unlike float
    ('1/3', F(1, 3)),
    ('2/6', F(1, 3)),
    ('1.5/2', F(3, 4)),
    ('1/2%', F(1, 200)),
    ('12.5%', F(1, 8)),
    ('9' * 64, F(10**64 - 1)),
  ],
)
def test_number(text, expected):
  assert answers.number(text) == expected


@pytest.mark.parametrize(
  'text',
  [
    '',
    ' ',
    'five',
    '5 apples',
    'x = 5',
    '$5',
    '5$',
    '1,00',
    '1,0000',
    '10,00,000',
    ',000',
    '1000,000',
    '1 000',
    '1 1/2',  # ambiguous: 11/2, 3/2 or two numbers
    '1 000/2',
    '- 1/2',  # as '- 5'
    '1/0',
    '1/00',
    '0/0',
    '1/',
    '/2',
    '1/2/3',
    '1/-2',
    '1/2.5',
    '.',
    '+',
    '-',
    '%',
    '--5',
    '+-5',
    '- 5',
    '5%%',
    '%5',
    '5-',
    '1.2.3',
    '1e3',
    '0x10',
    '1_000',
    'nan',
    'inf',
    '5\n6',
    '5 %',
    '٥',  # Arabic-Indic digits: \d, but not ASCII
    '५',
    '5²',  # not 52, as 3½ is not 31/2
    '5₂',
    '²',
    '½',
    '3½',
    '5\x00',
    '9' * 65,
    '9' * 100_000,
    '1/' + '9' * 100_000,
    '0.' + '0' * 100_000,
    '1' + ',000' * 30_000,
  ],
)
def test_other_texts_are_not_numbers(text):
  assert answers.number(text) is None


@pytest.mark.parametrize(
  'text',
  [
    '12', '12。', '12．', '12｡', '「12」', '『１２』', '【12】', '（１２）',
    '"12"', '答え：12', '答えは12', '答えは12です。', '答えは、12です。',
    '12です。', '正解は12だ', '解答：１２。', '答え：「12」', '答案是12',
    '答案：１２。', '정답은 12입니다.', 'Answer: 12', 'The answer is 12.',
    '**12**', '`12`', 'The final answer is: $12$.', '$12$', r'\boxed{12}',
    r'$\boxed{12}$', '(12)', '[12]', '#### 12', '**Answer:** 12', 'Antwort: 12',
    'Answer = 12', '<answer>12</answer>', '２４／２', '１２００％', '１２．０',
    '\ufeff12', '12.0.', '12.0。', '答え：12.0。', 'The answer is 12.0.',
    '「12.0。」', '24/2.', '1200%。', '**Answer:** 12.0.',
  ],
)  # fmt: skip
def test_numbers_in_sentences_and_typesetting(text):
  assert answers.KINDS['number'](text) == 12


@pytest.mark.parametrize(
  'text',
  [
    '1、000', '1。5', '12、', '12,', ',5', '5!', '5²', '３½', '①', '12個',
    '12?', '(1,000)', '(1, 2)', '5"', "5'", '答え：5または6', '答え：', 'ー5',
    '1・5', 'not 12', '12 or 13', '答えは5²', '２０２６年', '$5$6',
    'Answer: 5 apples', 'The answer is not 5', '答え：1、000', '十二',
    '12..', '12.0..', '1.2.0.', '12.0,',
  ],
)  # fmt: skip
def test_ambiguous_texts_are_not_numbers(text):
  assert answers.KINDS['number'](text) is None


@pytest.mark.parametrize('sign', '-\u2212\u2010\u2011\u2012\u2013－﹣')
def test_minus_signs(sign):
  assert answers.number(f'{sign}3') == -3


@pytest.mark.parametrize(
  'text',
  [
    '摩耗', '摩耗。', '摩耗．', '摩耗､', '摩耗！', '「摩耗」', '『摩耗』。',
    '「摩耗。」', '“摩耗”', '〈摩耗〉', '《摩耗》', '【摩耗】', '（摩耗）',
    '・摩耗', '　摩耗　', '摩\n耗', '摩耗です', '摩耗です。', '答え：摩耗',
    '答えは摩耗', '答えは摩耗です。', '答え：「摩耗」', '正解は摩耗である。',
    '答案是摩耗', '答案：摩耗。', '**摩耗**', '`摩耗`', r'\boxed{摩耗}',
    r'\text{摩耗}', '$摩耗$', 'Answer: 摩耗', 'The answer is 摩耗.',
    '【答え】摩耗',
  ],
)  # fmt: skip
def test_short_text_in_japanese(text):
  assert answers.short_text(text) == '摩耗'


@pytest.mark.parametrize(
  'text',
  [
    'Paris', '**Paris**', '(Paris)', '“Paris”', 'Answer: Paris',
    'The answer is Paris.', '**Answer:** Paris', r'\boxed{\text{Paris}}',
    'Antwort: Paris', 'La réponse est Paris.', 'Ｐａｒｉｓ。', '«Paris»',
  ],
)  # fmt: skip
def test_short_text_in_european_languages(text):
  assert answers.short_text(text) == 'paris'


@pytest.mark.parametrize(
  'left, right',
  [
    ('摩耗', '摩擦'),
    ('5²', '52'),
    ('x²', 'x2'),
    ('3½', '31/2'),
    ('½', '1/2'),
    ('①', '1'),
    ('H₂O', 'H2O'),
    ('.5', '5'),
    ('5!', '5'),
    ('-5', '5'),
    ('10%', '10'),
    ('5℃', '5'),
    ('[0, 1]', '(0, 1)'),
    ('(0, 1)', '0, 1'),
    ('[a-z]', 'a-z'),
    ('2*3*4', '234'),
    ('2**3**4', '234'),
    ('C++', 'C'),
    ('C#', 'C'),
    ('$5 and $10', '5 and 10'),
    ('a or b', 'a'),
    ('not Paris', 'Paris'),
    # Words that begin like an introduction.
    ("The answer isn't Paris", "n't Paris"),
    ('La respuesta está en casa', 'á en casa'),
    ('Die Antwort istanbul', 'anbul'),
    ('!ready', 'ready'),
    ('まだ', 'ま'),
    ('答えはまだ', '答えはま'),
    ('東京、大阪', '東京'),
    ('12x3', '12*3'),
    ('0x10', '10'),
    ('온도 이상', '온도이상'),
  ],
)
def test_different_short_texts_stay_different(left, right):
  assert answers.short_text(left) != answers.short_text(right)


@hypothesis.given(st.text())
def test_any_text_can_be_parsed(text):
  for kind in answers.KINDS.values():
    answer = kind(text)
    assert answer is None or hash(answer) == hash(kind(text))


@hypothesis.given(
  st.text(string.digits + '+-.,/% ½²５\u2212\u0665', max_size=12)
)
def test_any_text_of_digits_and_signs_can_be_parsed(text):
  value = answers.number(text)
  assert value is None or isinstance(value, F)


@hypothesis.given(st.fractions(max_denominator=10**6))
def test_number_parses_printed_fractions(value):
  assert answers.number(str(value)) == value
  assert answers.number(f' {value}\n') == value


@hypothesis.given(st.integers(-(10**20), 10**20))
def test_number_parses_printed_integers(value):
  for text in (f'{value}', f'{value:+}', f'{value:,}', f'{value}.0'):
    assert answers.number(text) == value
  assert answers.number(f'{value}%') == F(value, 100)


@hypothesis.given(
  st.decimals(allow_nan=False, allow_infinity=False, places=6)
  .filter(lambda x: abs(x) < 10**12)
  .map(lambda x: f'{x:f}')
)
def test_number_parses_decimals_like_fraction(text):
  assert answers.number(text) == F(text)


@pytest.mark.parametrize(
  'text, expected',
  [
    ('Paris', 'paris'),
    (' paris. ', 'paris'),
    ('"Paris"!', 'paris'),
    ('New\n  York', 'new york'),
    ('ＰＡＲＩＳ', 'paris'),
    ('Straße', 'strasse'),
    ("it's", "it's"),
    ('3.5', '3.5'),
    ('. a .', 'a'),
    ('', None),
    ('  ', None),
    ('...', None),
    ('" "', None),
  ],
)
def test_short_text(text, expected):
  assert answers.short_text(text) == expected


PIECES = (
  *(
    '答え：',
    '答えは',
    'です',
    '。',
    '、',
    '「',
    '」',
    '（',
    '）',
    '【',
    '】',
    '　',
  ),
  *('Answer: ', 'The answer is ', '**', '$', '`', r'\\boxed{', '}', '(', ')'),
  *('摩耗', 'Paris', '5', '.', '!', '"', "'", ' ', '²', 'だ', '#', '\\n'),
)


@hypothesis.given(
  st.one_of(
    st.text(), st.lists(st.sampled_from(PIECES), max_size=8).map(''.join)
  )
)
def test_canonical_short_texts_are_canonical(text):
  once = answers.short_text(text)
  if once is not None:
    assert answers.short_text(once) == once
