"""Canonical forms of answers, which are equal exactly if the answers agree."""

import fractions
import re
from collections.abc import Callable

from sqlm_jax.game import types
from sqlm_jax.grading import markup
from sqlm_jax.text import normalize

_NUMBER = re.compile(
  r'(?P<sign>[+-]?)'
  r'(?P<integer>\d{1,3}(?:,\d{3})+|\d+|(?=\.\d))'
  r'(?P<decimals>\.\d*)?'
  r'(?:/(?P<denominator>\d+))?'
  r'(?P<percent>%?)'
)
_MAX_NUMBER_LENGTH = 64  # characters; real answers are shorter
# An ideographic comma or full stop separates numbers; it is never part of one.
_CUT_BY_PUNCTUATION = re.compile(r'\d\s*[、。､｡]\s*\d')
_FULL_STOP = re.compile(r'(?<=[\d%])\.\Z')  # the end of a sentence
_HYPHENS = str.maketrans(dict.fromkeys(normalize.HYPHENS, '-'))
_PUNCTUATION = ' .,;:?"\'・'


def number(text: str) -> fractions.Fraction | None:
  """Parses one number exactly: 5, +5, 005, 5.0, 10/2 and 500% are equal.

  Commas are accepted as thousands separators if they separate groups of three
  digits. Returns None if there is any other text before or after the number.
  """
  text = normalize.fold(text).translate(_HYPHENS)
  # Removes only spaces around a fraction's slash: 1 2/3 is not 12/3.
  text = '/'.join(part.strip() for part in text.split('/'))
  match = _NUMBER.fullmatch(text) if len(text) <= _MAX_NUMBER_LENGTH else None
  if match is None or not text.isascii():
    return None
  integer = match['integer'].replace(',', '') or '0'
  value = fractions.Fraction(integer + (match['decimals'] or ''))
  if match['denominator']:
    if not int(match['denominator']):
      return None
    value /= int(match['denominator'])
  if match['percent']:
    value /= 100
  return -value if match['sign'] == '-' else value


def stated_number(text: str) -> fractions.Fraction | None:
  """Parses a number, with or without an introduction and typesetting.

  5, 5.0., **5**, \\boxed{5}, "5", 'The answer is 5.', 答え：５ and 5です。 are
  equal.
  """
  value = number(text)
  if value is not None or len(text) > markup.MAX_LENGTH:
    return value
  if _CUT_BY_PUNCTUATION.search(text):
    return None
  text = normalize.plain(text)
  value = number(text)
  while value is None:
    shorter = _FULL_STOP.sub('', markup.peel(text))
    if shorter == text:
      return None
    text = shorter
    value = number(text)
  return value


def words(text: str) -> str | None:
  """Removes case, surrounding punctuation and repeated spaces.

  Returns None if no text is left.
  """
  before = None
  while text != before:
    before = text
    text = _strip(normalize.plain(normalize.plain(text).casefold()))
  return text or None


def _strip(text: str) -> str:
  """Removes punctuation around a text, but keeps .5, 5! and !ready."""
  end = len(text.rstrip(f'{_PUNCTUATION}!'))
  if text[end : end + 1] == '!' and text[end - 1 : end].isdecimal():
    end += 1
  start = len(text) - len(text.lstrip(_PUNCTUATION))
  if text[start - 1 : start] == '.' and text[start : start + 1].isdecimal():
    start -= 1
  return text[start:end]


def short_text(text: str) -> str | None:
  """Parses a short text, with or without an introduction and typesetting.

  Paris, **Paris**, "Paris" and 'Answer: Paris.' are equal, and so are 摩耗,
  「摩耗」 and 答えは摩耗です。
  """
  answer = words(text)
  if answer is None or len(answer) > markup.MAX_LENGTH:
    return answer
  # If nothing follows the introduction, the introduction is the answer.
  while (shorter := words(markup.peel(answer))) not in (None, answer):
    answer = shorter
  return answer


# Kind of answer in a config -> function from a text to its canonical answer.
KINDS: dict[str, Callable[[str], types.Answer]] = {
  'number': stated_number,
  'text': short_text,
}
