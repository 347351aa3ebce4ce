"""Normalizes texts that differ only in their choice of characters.

This applies to full-width forms, Japanese and Chinese punctuation, typographic
quotation marks and brackets, and spaces in scripts that are written without
spaces. Differences in meaning are kept: 5² is not 52, and .5 is not 5.
"""

import functools
import re
import unicodedata

# Characters of scripts that are written without spaces between words.
_IDEOGRAPHIC = (
  '\u3005-\u3007\u303b\u3040-\u3096\u309d-\u30fa\u30fc-\u30ff\u3100-\u312f\u31a0-\u31bf'
  '\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff'
  '\U0001b000-\U0001b16f\U00020000-\U0003ffff'
)
_SOUTHEAST_ASIAN = (
  '\u0e00-\u0e4f\u0e5a-\u0ebf\u0ec0-\u0ecf\u0eda-\u0eff'  # Thai, Lao
  '\u1000-\u103f\u104a-\u108f\u109a-\u109f'  # Burmese
  '\u1780-\u17df'  # Khmer
)
# For a regular expression's character class.
UNSPACED = _IDEOGRAPHIC + _SOUTHEAST_ASIAN

HYPHENS = '‐‑‒–−'
TIMES = '×✕✖⨯⨉·⋅∙•∗'
DIVIDED_BY = '÷∕⁄➗'

_PUNCTUATION = str.maketrans(
  dict.fromkeys('。۔।', '.')
  | dict.fromkeys('、،', ',')
  | {'؛': ';', '؟': '?', '〜': '~'}
  | dict.fromkeys('“”„‟«»‹›「」『』〝〞〟《》〈〉❝❞', '"')
  | dict.fromkeys('‘’‚‛ʼ❛❜', "'")
  | dict.fromkeys('【〔〖〘〚⟦', '[')
  | dict.fromkeys('】〕〗〙〛⟧', ']')
  | dict.fromkeys(HYPHENS, '-')
)
# Zero-width spaces, soft hyphens, direction marks and variation selectors.
_INVISIBLE = re.compile(
  '[\u00ad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff'
  '\ufe00-\ufe0f\U000e0100-\U000e01ef]'
)
# Line breaks and spaces may be anywhere in Japanese and Chinese text.
_NO_SPACE = re.compile(rf'(?<=[{_IDEOGRAPHIC}]) | (?=[{_IDEOGRAPHIC}])')

_SIGNS = str.maketrans(
  dict.fromkeys(TIMES, '*')
  | dict.fromkeys(DIVIDED_BY, '/')
  | {'➕': '+', '➖': '-'}
)
_LATEX_SIGN = re.compile(r'\\(times|cdot|ast|div)(?![A-Za-z])')
_LATEX_DELIMITER = re.compile(r'\\[()\[\]]')
_LATEX_SIGNS = {'times': '*', 'cdot': '*', 'ast': '*', 'div': '/'}
# `$12 * 3$`, by pandoc's rule, which does not match prices.
_DOLLARS = re.compile(r'\$(?=\S)([^$\n]*[-+*/=^][^$\n]*)(?<=\S)\$(?!\d)')
# An x between numbers, as in 12 x 3, but not as in 0x10 or 2x(3 + 1).
_TIMES = re.compile(
  r'(?<=\d)\s*(?<!\b0)x\s*(?=\d)'
  r'|(?<=\))\s*x\s*(?=\d)'
  r'|(?<=[\d)])\s+x\s+(?=[-(]*\d)',
  re.IGNORECASE,
)
_BETWEEN_NUMBERS = {
  '-': re.compile(r'(?<=[\d)])\s*[ー—―─]\s*(?=[\d(])'),
  '*': re.compile(r'(?<=[\d)])\s*・\s*(?=[\d(])'),
}
_SUPERSCRIPT = re.compile('[⁺⁻]?[⁰¹²³⁴-⁹]+')


def fold(text: str) -> str:
  """Replaces full-width and other compatibility forms by plain forms (NFKC).

  Characters are kept if their plain form would change a number (², ½, ①, ㎡) or
  lose a superscript (ⁿ).
  """
  if text.isascii():
    return text
  kept = ''.join(char for char in set(text) if _is_kept(char))
  if not kept:
    return unicodedata.normalize('NFKC', text)
  return ''.join(
    part if part in kept else unicodedata.normalize('NFKC', part)
    for part in re.split(f'([{re.escape(kept)}])', text)
  )


@functools.cache
def _is_kept(char: str) -> bool:
  plain = unicodedata.normalize('NFKC', char)
  if plain == char or char.isdecimal():
    return False
  kind = unicodedata.decomposition(char).partition(' ')[0]
  return kind in ('<super>', '<sub>') or any(c.isdigit() for c in plain)


def plain(text: str) -> str:
  """Folds a text and converts its punctuation and spaces to ASCII.

  Japanese and Chinese quotation marks and brackets become " and [ ]. White
  space becomes single spaces. It is removed next to a Japanese or Chinese
  character, where it is only a line break.
  """
  text = _INVISIBLE.sub('', fold(text).translate(_PUNCTUATION))
  text = _NO_SPACE.sub('', ' '.join(text.split()))
  # Removing characters may have put a letter next to its accent.
  return unicodedata.normalize('NFC', text)


def comparable(question: str) -> str:
  """Converts a question to the form in which questions are compared.

  The form has no upper case, and arithmetic operators are ASCII: 12 × 3,
  12 · 3, 12 x 3 and １２＊３ become 12 * 3, up to spaces, and 5² becomes 5^2.
  """
  text = plain(question).translate(_SIGNS)
  text = _LATEX_SIGN.sub(lambda match: _LATEX_SIGNS[match[1]], text)
  text = _LATEX_DELIMITER.sub(' ', _DOLLARS.sub(r'\1', text))
  text = _TIMES.sub(' * ', text)
  for sign, pattern in _BETWEEN_NUMBERS.items():
    text = pattern.sub(f' {sign} ', text)
  text = _SUPERSCRIPT.sub(
    lambda match: '^' + unicodedata.normalize('NFKC', match[0]), text
  )
  return plain(text.casefold())
