"""Canonical answers: two answers mean the same exactly if these are equal."""

import fractions
import re
import unicodedata
from collections.abc import Callable

from sqlm_jax.game import types

_NUMBER = re.compile(
  r'(?P<sign>[+-]?)'
  r'(?P<whole>\d{1,3}(?:,\d{3})+|\d+|(?=\.\d))'
  r'(?P<decimals>\.\d*)?'
  r'(?:/(?P<below>\d+))?'
  r'(?P<percent>%?)'
)
LONGEST_NUMBER = 64  # characters; more is no answer that a person would give


def number(text: str) -> fractions.Fraction | None:
  """Reads one number, exactly: 5, +5, 005, 5.0, 10/2 and 500% are equal.

  Thousands separators are read where they stand in groups of three. Anything
  before or after the number makes it a blank.
  """
  if any(char.isdigit() and not char.isdecimal() for char in text):
    return None  # NFKC would read 5² as 52
  text = unicodedata.normalize('NFKC', text).replace('\u2212', '-')
  # Spaces around a fraction's slash only: 1 2/3 is not 12/3.
  text = '/'.join(part.strip() for part in text.split('/'))
  match = _NUMBER.fullmatch(text) if len(text) <= LONGEST_NUMBER else None
  if match is None or not text.isascii():
    return None
  whole = match['whole'].replace(',', '') or '0'
  value = fractions.Fraction(whole + (match['decimals'] or ''))
  if match['below']:
    if not int(match['below']):
      return None
    value /= int(match['below'])
  if match['percent']:
    value /= 100
  return -value if match['sign'] == '-' else value


def short_text(text: str) -> str | None:
  """Words without case, surrounding punctuation or repeated spaces."""
  words = unicodedata.normalize('NFKC', text).casefold().split()
  return ' '.join(words).strip(' .,;:!?"\'') or None


# Answer kind of a config -> text to canonical answer.
KINDS: dict[str, Callable[[str], types.Answer]] = {
  'number': number,
  'text': short_text,
}
