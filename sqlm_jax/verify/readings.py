"""Takes an answer apart: tuples, sets, assignments, inequalities, units."""

import itertools
import re
from collections.abc import Sequence

from sqlm_jax.verify import answers, expressions, notation, units

_THOUSANDS = re.compile(r'(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])')
_LABEL = re.compile(
  r'(?P<label>[A-Za-z]\w*(?:\([a-z]\))?|\\[a-z]+(?:_\w)?)\s*=\s*(?P<rest>[^=<>].*)'
)
_NAME = re.compile(r'[A-Za-z]\w*')
_RELATION = re.compile(r'(<=|>=|<|>)')
_FLIPPED = {'>': '<', '>=': '<='}


def read(text: str, leaf: units.Leaf) -> notation.Reading:
  """Takes a cleaned text apart; `leaf` reads the expressions in it."""
  text = text.strip()
  if not text:
    raise notation.Unreadable('empty')
  if bracketed := _bracketed(text, leaf):
    return bracketed
  if answers.number(text) is None:  # outside of brackets, 1,000 is a number
    text = _join_thousands(text)
    parts = split(text)
    if len(parts) > 1:
      return _several([read(part, leaf) for part in parts])
  match = _LABEL.fullmatch(text)
  if match and match['label'].partition('(')[0] not in expressions.FUNCTIONS:
    return _assignment(match['label'], match['rest'], leaf)
  if '=' in _RELATION.sub('', text):
    return _equation(text, leaf)
  if _RELATION.search(text):
    return notation.Reading(_inequality(text, leaf))
  if '\\pm' in text:
    return _several([read(text.replace('\\pm', sign), leaf) for sign in '+-'])
  return units.with_unit(text, leaf)


def _join_thousands(text: str) -> str:
  """Drops the commas of 1,000, but keeps those of (100,200)."""
  place, found = 0, []
  for match in _THOUSANDS.finditer(text):
    if not _depth(text[: match.start()]):
      found.append(text[place : match.start()] + match[0].replace(',', ''))
      place = match.end()
  return ''.join(found) + text[place:]


def _depth(text: str) -> int:
  return sum((char in '([{') - (char in ')]}') for char in text)


_SEPARATOR = re.compile(r'\s*(?:[,;]\s*(?:and|or)\b|[,;]|\band\b|\bor\b)\s*')


def split(text: str) -> list[str]:
  """Splits at commas, 'and' and 'or' outside of brackets."""
  parts, start = [], 0
  for match in _SEPARATOR.finditer(text):
    if not _depth(text[: match.start()]):
      parts.append(text[start : match.start()])
      start = match.end()
  return [*parts, text[start:]]


def _several(readings: Sequence[notation.Reading]) -> notation.Reading:
  """A system, as x = 2, y = 3; x = 2 or 3; a set, as 2, 3."""
  labels = [reading.label for reading in readings if reading.label]
  if len(set(labels)) == len(readings):
    parts = sorted(str(reading.answer()) for reading in readings)
    return notation.Reading(', '.join(parts))
  label = readings[0].label
  if set(labels) - {label}:
    raise notation.Unreadable('mixed')
  if label and any(' = ' in str(reading.value) for reading in readings):
    raise notation.Unreadable('mixed')
  return notation.Reading(_set([r._replace(label='') for r in readings]), label)


def _set(readings: Sequence[notation.Reading]) -> notation.Value:
  """A set has no order, and a set of one is that one."""
  elements = {str(r.answer()): r for r in readings}
  if len(elements) == 1 and not readings[0].unit:
    return readings[0].value
  return '{' + ', '.join(sorted(elements)) + '}'


def _assignment(label: str, rest: str, leaf: units.Leaf) -> notation.Reading:
  """Reads x = 5 cm; of a chain, x = 2 + 3 = 5, the last."""
  reading = read(rest.rsplit('=', 1)[-1], leaf)
  if reading.label:
    raise notation.Unreadable('mixed')
  return reading._replace(label=label.lstrip('\\').replace(' ', ''))


def _equation(text: str, leaf: units.Leaf) -> notation.Reading:
  """2*x + 1 = y assigns y; other equations have their sides in order."""
  sides = text.split('=')
  if len(sides) != 2:
    raise notation.Unreadable('mixed')
  left, right = (leaf(side) for side in sides)
  if isinstance(left, notation.F) and isinstance(right, notation.F):
    if left != right:
      raise notation.Unreadable('false')
    return notation.Reading(right)  # 2 + 3 = 5
  for name, value in ((left, right), (right, left)):
    if _NAME.fullmatch(str(name)):
      return notation.Reading(value, label=str(name))
  return notation.Reading(' = '.join(sorted((str(left), str(right)))))


def _inequality(text: str, leaf: units.Leaf) -> str:
  """A chain of < and <=, whichever way it was written."""
  sides = _RELATION.split(text)
  terms, signs = [str(leaf(side)) for side in sides[::2]], sides[1::2]
  if all(sign in _FLIPPED for sign in signs):
    terms, signs = terms[::-1], [_FLIPPED[sign] for sign in signs[::-1]]
  if any(sign in _FLIPPED for sign in signs):
    raise notation.Unreadable('mixed')
  return ' '.join(
    itertools.chain(*zip(terms, [*signs, ''], strict=True))
  ).strip()


def _bracketed(text: str, leaf: units.Leaf) -> notation.Reading | None:
  """(2, 3) and [2, 3) keep their order and brackets, {2, 3} has none.

  Inside of brackets every comma separates: (100,200) is a pair.
  """
  if text[0] not in '([{' or notation.closing(text, 0) != len(text) - 1:
    return None
  if (text[0] == '{') != (text[-1] == '}'):
    raise notation.Unreadable('syntax')
  elements = [read(part, leaf) for part in split(text[1:-1])]
  if len(elements) == 1:
    if text[0] + text[-1] in ('(]', '[)'):
      raise notation.Unreadable('syntax')
    return elements[0]
  if text[0] == '{':
    return notation.Reading(_set(elements))
  if any(element.label for element in elements):
    return _several(elements)
  inside = ', '.join(str(element.answer()) for element in elements)
  return notation.Reading(f'{text[0]}{inside}{text[-1]}')


def number_or_too_hard(text: str) -> notation.F:
  """The cheap leaf: plain numbers, and words that are no mathematics."""
  number = answers.number(text)
  if number is None:
    expressions.tokens(text)
    raise notation.TooHard
  return number
