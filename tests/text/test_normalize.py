"""Normal forms of text that differs only in its characters."""

import sys
import unicodedata

import hypothesis
import pytest
from hypothesis import strategies as st

from sqlm_jax.text import normalize


@pytest.mark.parametrize(
  'text, expected',
  [
    ('ＡＢＣ１２３＋－＝？！', 'ABC123+-=?!'),
    ('ｶﾞｽ漏れ', 'ガス漏れ'),  # half-width kana are composed
    ('温度異常。', '温度異常.'),
    ('Ａ、Ｂ，C､D', 'A,B,C,D'),
    ('「A」『B』“C”«D»《E》', '"A""B""C""D""E"'),
    ('【注】〔注〕', '[注][注]'),
    ('（Ａ）［Ｂ］', '(A)[B]'),
    ('it’s', "it's"),
    ('温度　異常', '温度異常'),  # an ideographic space
    ('温度\n異常', '温度異常'),
    ('第 3 工程', '第3工程'),
    ('Python で書く', 'Pythonで書く'),
    ('a  b\t\nc', 'a b c'),
    ('온도 이상', '온도 이상'),  # Korean has spaces between words
    ('อุณหภูมิ สูง', unicodedata.normalize('NFKC', 'อุณหภูมิ สูง')),
    ('a\u200bb\ufeff\u00adc', 'abc'),
    ('\u2212 5 \u2011 3 \u2013 1', '- 5 - 3 - 1'),
    ('10〜20', '10~20'),
    ('10～20', '10~20'),
    # Compatibility characters whose replacement would change the meaning.
    ('5²', '5²'),
    ('3½', '3½'),
    ('①', '①'),
    ('25㎡', '25㎡'),
    ('2ⁿ', '2ⁿ'),
    ('H₂O', 'H₂O'),
    ('', ''),
  ],
)
def test_plain(text, expected):
  assert normalize.plain(text) == expected


@pytest.mark.parametrize(
  'text',
  [
    '12 x 3', '12 X 3', '12x3', '12 × 3', '12×3', '12 · 3', '12 ⋅ 3', '12 • 3',
    '12 ✕ 3', '12・3', '１２＊３', '１２　×　３', '１２ｘ３', r'12 \times 3',
    r'$12 \times 3$', r'12 \cdot 3', '12\u00a0×\u00a03',
  ],
)  # fmt: skip
def test_multiplication_signs(text):
  assert normalize.comparable(text).replace(' ', '') == '12*3'


@pytest.mark.parametrize(
  'text, expected',
  [
    ('12 \u2212 5', '12 - 5'),
    ('１２－５', '12-5'),
    ('12 ー 5', '12 - 5'),
    ('12–5', '12-5'),
    ('12 ÷ 3', '12 / 3'),
    (r'12 \div 3', '12 / 3'),
    ('(1 + 2) x 3', '(1 + 2) * 3'),
    ('3 x (1 + 2)', '3 * (1 + 2)'),
    ('3 x -2', '3 * -2'),
    ('1 x 2 x 3', '1 * 2 * 3'),
    ('5²', '5^2'),
    ('10⁻³', '10^-3'),
    # Not products: an unknown, a hexadecimal number, prices, words.
    ('2x(3 + 1)', '2x(3 + 1)'),
    ('Solve 2x = 6', 'solve 2x = 6'),
    ('0x10', '0x10'),
    ('It costs $5 and $7.', 'it costs $5 and $7.'),
    ('a x b', 'a x b'),
    ('センサー', 'センサー'),
  ],
)
def test_comparable(text, expected):
  assert normalize.comparable(text) == expected


@pytest.mark.parametrize(
  'function', [normalize.fold, normalize.plain, normalize.comparable]
)
def test_normalization_is_idempotent(function):
  every = map(chr, range(sys.maxunicode + 1))
  for char in every:
    if unicodedata.normalize('NFKC', char).casefold() != char:
      once = function(char)
      assert function(once) == once


@hypothesis.given(st.text())
def test_any_text_can_be_normalized(text):
  assert normalize.fold(normalize.fold(text)) == normalize.fold(text)
  normalize.plain(text)
  normalize.comparable(text)


@hypothesis.given(st.text(st.characters(max_codepoint=0x7E)))
def test_ascii_changes_only_in_its_spaces(text):
  assert normalize.plain(text) == ' '.join(text.split())
