"""The grammar of answers: statements, and how they are joined.

answer     = part {joiner part}
joiner     = ',' | ';' | 'and' | 'or' | line break
part       = '(' answer ')' | statement | value
statement  = side {relation side}
relation   = '=' | '≈' | '∈' | '≠' | '<' | '<=' | '>' | '>='
value      = tuple | list | set | union | [expression] '±' expression | quantity
quantity   = expression [unit]

Tuples, expressions and units end in a `Leaf`. `docs/math_answers.md` says what
the joiners mean; what it does not name raises `notation.Unreadable`.
"""

import itertools
import re
from collections.abc import Sequence
from typing import NamedTuple

from sqlm_jax.verify import answers, notation, units, words


class Part(NamedTuple):
  """A part of an answer, and what it may be joined with."""

  # 'value': 5 cm, (1, 2). 'assignment': x = 5. 'system': x = 1, y = 2.
  # 'relation': x < 3, x + y = 1. 'alternatives': x = 1 or y = 2.
  kind: str
  reading: notation.Reading
  # Of a system: name -> printed value, and the names in their written order.
  values: tuple[tuple[str, str], ...] = ()


_THOUSANDS = re.compile(r'(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])')
_RELATION = re.compile(r'<=|>=|[=<>≠≈∈]')
_FLIPPED = {'>': '<', '>=': '<='}
_LABEL = re.compile(
  rf'\\?(?P<name>[A-Za-z]+)(?P<below>{words.SUBSCRIPT})?'
  r"(?P<primes>'{0,3})"
  r'(?:(?P<inverse>\s*\^\s*(?:\{\s*-\s*1\s*\}|-1))?'
  r'\s*(?P<arguments>\(\s*-?\w+(?:\s*,\s*-?\w+)*\s*\)))?'
)
_NAME = re.compile(r'[A-Za-z]\w*')
_DECIMAL = re.compile(
  r'-?\d*(?:\.(?P<decimals>\d+))?\s*(?P<rest>[A-Za-z°$%].*)?'
)


def read(text: str, leaf: units.Leaf) -> notation.Reading:
  """Reads a cleaned answer; `leaf` reads the expressions in it."""
  return _answer(text, leaf).reading


def _answer(text: str, leaf: units.Leaf) -> Part:
  text = text.strip()
  if not text:
    raise notation.Unreadable('empty')
  if bracketed := _bracketed(text, leaf):
    return bracketed
  if answers.number(text) is not None:
    return _part(text, leaf)
  text = _join_thousands(text)
  parts, joiners = split(text)
  if len(parts) == 1:
    return _part(text, leaf)
  if any(re.fullmatch(r'\s*0\d+\s*', part) for part in parts):
    raise notation.Unreadable('syntax')  # 1, 000: one number, or two?
  return _join([_part(part, leaf) for part in parts], joiners)


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


# Splitting

_SEPARATOR = re.compile(r'[\n,;]|\b(?:and|or)\b')
_CODES = {'\n': 'b', ',': 'c', ';': 'c', 'and': 'a', 'or': 'o'}
_RUN = re.compile('b*c?b*[ao]?b*')  # as in ', and'


def split(text: str) -> tuple[list[str], list[str]]:
  """Splits at commas, words and line breaks outside of brackets.

  Returns:
    The parts, and the joiners between them: ',', 'and', 'or' or a line break.
  """
  parts, runs, start, depth, seen = [], [], 0, 0, 0
  for match in _SEPARATOR.finditer(text):
    depth += _depth(text[seen : match.start()])
    seen = match.end()
    if depth:
      continue
    part = text[start : match.start()]
    if not part.strip() and runs:
      runs[-1] += _CODES[match[0]]
    else:
      parts.append(part)
      runs.append(_CODES[match[0]])
    start = match.end()
  return [*parts, text[start:]], [_joiner(run) for run in runs]


def _joiner(run: str) -> str:
  if not _RUN.fullmatch(run):
    raise notation.Unreadable('syntax')
  for code, joiner in (('o', 'or'), ('a', 'and'), ('c', ',')):
    if code in run:
      return joiner
  return '\n'


def _at_top(pattern: re.Pattern, text: str) -> list[re.Match]:
  """Finds the matches outside of brackets."""
  found, depth, seen = [], 0, 0
  for match in pattern.finditer(text):
    depth += _depth(text[seen : match.start()])
    seen = match.end()
    if not depth:
      found.append(match)
  return found


def _cut(text: str, matches: Sequence[re.Match]) -> list[str]:
  starts = [0, *(match.end() for match in matches)]
  ends = [*(match.start() for match in matches), len(text)]
  return [text[a:b].strip() for a, b in zip(starts, ends, strict=True)]


# Joining


def _join(parts: Sequence[Part], joiners: Sequence[str]) -> Part:
  joined, (first, *rest) = set(joiners), parts
  kinds = {part.kind for part in parts}
  followed_by_values = {part.kind for part in rest} == {'value'}
  if '\n' in joined and 'value' in kinds:
    raise notation.Unreadable('mixed')  # a line holds a statement
  if kinds == {'value'}:
    return Part('value', _collected([p.reading for p in parts], joined))
  if kinds == {'relation'}:
    return _joined_relations(parts, joined)
  labels = {part.reading.label for part in parts if part.kind == 'assignment'}
  if len(labels) == 1 and (
    kinds == {'assignment'}
    or (first.kind == 'assignment' and followed_by_values)
  ):
    readings = [part.reading._replace(label='') for part in parts]
    return _assigned(labels.pop(), _collected(readings, joined - {'\n'}))
  if first.kind == 'system' and followed_by_values:
    names = [name for name, _ in first.values]
    return _either([first, *(_solution(names, part.reading) for part in rest)])
  if kinds <= {'assignment', 'system'}:
    return _joined_systems(parts, joiners)
  raise notation.Unreadable('mixed')


def _collected(
  readings: Sequence[notation.Reading], joined: set[str]
) -> notation.Reading:
  """Makes a set of values, which has no order, or a union of intervals."""
  if {'and', 'or'} <= joined:
    raise notation.Unreadable('mixed')
  if 'or' in joined and any(str(r.value)[0] in '([' for r in readings):
    return _union(readings)
  return _set(readings)


def _set(readings: Sequence[notation.Reading]) -> notation.Reading:
  """Makes a set; a set of one is that one."""
  elements = sorted({str(reading.answer()) for reading in readings})
  if len(elements) == 1:
    return readings[0]
  return notation.Reading('{' + ', '.join(elements) + '}')


def _union(readings: Sequence[notation.Reading]) -> notation.Reading:
  """Makes a union of intervals and sets: (-oo, 1) or (2, oo)."""
  found: dict[str, notation.Reading] = {}
  for reading in readings:
    text = str(reading.answer())
    if text[0] == '{':
      elements, _ = split(text[1:-1])
      found.update({e.strip(): notation.Reading(e.strip()) for e in elements})
    elif ' or ' in text:
      found.update({e: notation.Reading(e) for e in text.split(' or ')})
    else:
      found[text] = reading
  if not any(text[0] in '([' for text in found):
    return _set(list(found.values()))
  if len(found) == 1:
    return next(iter(found.values()))
  return notation.Reading(' or '.join(sorted(found)))


def _joined_relations(parts: Sequence[Part], joined: set[str]) -> Part:
  texts = {str(part.reading.value) for part in parts}
  compound = any(' and ' in text or ' or ' in text for text in texts)
  if 'or' in joined and (len(joined) > 1 or compound):
    raise notation.Unreadable('mixed')
  if 'or' in joined:
    return _relation(' or '.join(sorted(texts)))
  if any(' or ' in text for text in texts):
    raise notation.Unreadable('mixed')
  texts = {piece for text in texts for piece in text.split(' and ')}
  return _relation(' and '.join(sorted(_bounds(texts))))


def _bounds(texts: set[str]) -> set[str]:
  """Writes 1 < x and x < 2 as 1 < x < 2."""
  if len(texts) != 2:
    return texts
  for one, other in itertools.permutations(texts):
    found = [re.fullmatch(r'([^<]+) (<=?) ([^<]+)', t) for t in (one, other)]
    if all(found) and found[0][3] == found[1][1]:
      if _decreases([found[0][1], found[1][3]]):
        raise notation.Unreadable('false')  # x < 1, x > 2: rather an 'or'
      return {f'{one} {found[1][2]} {found[1][3]}'}
  return texts


def _decreases(terms: Sequence[str]) -> bool:
  """Returns whether a number is followed by a smaller one."""
  numbers = [notation.F(t) for t in terms if re.fullmatch(r'-?\d+(/\d+)?', t)]
  return numbers != sorted(numbers)


def _relation(text: str) -> Part:
  return Part('relation', notation.Reading(text))


def _assigned(label: str, reading: notation.Reading) -> Part:
  if reading.label:
    raise notation.Unreadable('mixed')
  reading = reading._replace(label=label)
  value = str(reading._replace(label='').answer())
  return Part('assignment', reading, ((label, value),))


def _joined_systems(parts: Sequence[Part], joiners: Sequence[str]) -> Part:
  """Joins x = 1, y = 2; x = 1 or y = 2; x = 1, y = 2 or x = 3, y = 4."""
  if 'or' not in joiners:
    return _system(parts)
  if set(joiners) == {'or'}:
    return _either(parts)
  groups = [[parts[0]]]
  for joiner, part in zip(joiners, parts[1:], strict=True):
    if joiner == 'or':
      groups.append([part])
    else:
      groups[-1].append(part)
  systems = [_system(group) for group in groups]
  # x = 1, y = 2 or y = 3 may mean either of two things.
  if len({frozenset(dict(s.values)) for s in systems}) > 1:
    raise notation.Unreadable('mixed')
  return _either(systems)


def _system(parts: Sequence[Part]) -> Part:
  values = tuple(itertools.chain(*(part.values for part in parts)))
  if len(dict(values)) < len(values):
    raise notation.Unreadable('mixed')
  return Part('system', notation.Reading(_system_text(values)), values)


def _system_text(values: Sequence[tuple[str, str]]) -> str:
  return ', '.join(sorted(f'{name} = {value}' for name, value in values))


def _either(parts: Sequence[Part]) -> Part:
  texts = sorted({_system_text(part.values) for part in parts})
  if len(texts) == 1:
    return parts[0]
  return Part('alternatives', notation.Reading(' or '.join(texts)))


def _solution(names: Sequence[str], reading: notation.Reading) -> Part:
  """Assigns the parts of a tuple that was read: (1, 2)."""
  text = str(reading.answer())
  elements = split(text[1:-1])[0] if text[0] + text[-1] == '()' else []
  if len(elements) != len(names):
    raise notation.Unreadable('mixed')
  values = zip(names, map(str.strip, elements), strict=True)
  return _system([Part('assignment', reading, (pair,)) for pair in values])


# Parts


def _part(text: str, leaf: units.Leaf) -> Part:
  text = text.strip()
  if not text:
    raise notation.Unreadable('empty')
  if bracketed := _bracketed(text, leaf):
    return bracketed
  if relations := _at_top(_RELATION, text):
    signs = [match[0] for match in relations]
    return _statement(_cut(text, relations), signs, leaf)
  return Part('value', _value(text, leaf))


def _bracketed(text: str, leaf: units.Leaf) -> Part | None:
  """Reads (2, 3) and [2, 3), which have an order, and {2, 3}, which has none.

  Inside of brackets every comma separates: (100,200) is a pair.
  """
  if text[0] not in '([{' or notation.closing(text, 0) != len(text) - 1:
    return None
  if (text[0] == '{') != (text[-1] == '}'):
    raise notation.Unreadable('syntax')
  texts, joiners = split(text[1:-1])
  parts = [_part(part, leaf) for part in texts]
  if len(parts) == 1:
    if text[0] + text[-1] in ('(]', '[)'):
      raise notation.Unreadable('syntax')
    return parts[0]
  if any(part.kind != 'value' for part in parts):
    return _join(parts, joiners)
  readings = [part.reading for part in parts]
  if text[0] == '{':
    if not set(joiners) <= {',', 'and'}:
      raise notation.Unreadable('syntax')
    return Part('value', _set(readings))
  if set(joiners) != {','}:
    raise notation.Unreadable('syntax')
  inside = ', '.join(str(reading.answer()) for reading in readings)
  return Part('value', notation.Reading(f'{text[0]}{inside}{text[-1]}'))


def _value(text: str, leaf: units.Leaf) -> notation.Reading:
  text = text.strip()
  if not text:
    raise notation.Unreadable('empty')
  if bracketed := _bracketed(text, leaf):
    if bracketed.kind != 'value':
      raise notation.Unreadable('mixed')
    return bracketed.reading
  if cups := _at_top(re.compile('∪'), text):
    pieces = _cut(text, cups)
    if not all(piece and piece[0] in '([{' for piece in pieces):
      raise notation.Unreadable('syntax')
    return _union([_value(piece, leaf) for piece in pieces])
  if '±' in text:
    if text.count('±') > 1:
      raise notation.Unreadable('syntax')
    return _set([_value(text.replace('±', sign), leaf) for sign in '+-'])
  return units.with_unit(text, leaf)


# Statements


def _statement(
  sides: Sequence[str], signs: Sequence[str], leaf: units.Leaf
) -> Part:
  found = set(signs)
  if found <= {'=', '≈'}:
    return _chain(sides, signs, leaf)
  if signs == ['∈']:
    return _membership(*sides, leaf)
  if signs == ['≠']:
    terms = _scalars([_value(side, leaf) for side in sides])
    terms.sort(key=lambda term: (not _NAME.fullmatch(term), term))
    return _relation(' ≠ '.join(terms))
  return _inequality(sides, signs, leaf)


def _inequality(
  sides: Sequence[str], signs: Sequence[str], leaf: units.Leaf
) -> Part:
  """Reads a chain of < and <=, whichever way it was written."""
  readings = [_value(side, leaf) for side in sides]
  if all(sign in _FLIPPED for sign in signs):
    readings, signs = readings[::-1], [_FLIPPED[sign] for sign in signs[::-1]]
  if not set(signs) <= {'<', '<='}:
    raise notation.Unreadable('mixed')
  values = _scalars(readings)
  if _decreases(values) or ('<' in signs and len(set(values)) < len(values)):
    raise notation.Unreadable('false')
  terms = itertools.chain(*zip(values, [*signs, ''], strict=True))
  return _relation(' '.join(terms).strip())


def _scalars(readings: Sequence[notation.Reading]) -> list[str]:
  """Returns the sides of a relation as text; none may be a collection."""
  texts = [str(reading.answer()) for reading in readings]
  if any(text[0] in '[{' or ', ' in text or ' or ' in text for text in texts):
    raise notation.Unreadable('mixed')
  return texts


def _membership(side: str, collection: str, leaf: units.Leaf) -> Part:
  """Reads x ∈ {1, 2} and (x, y) ∈ {(1, 2), (3, 4)}."""
  reading = _value(collection, leaf)
  text = str(reading.answer())
  if collection[0] not in '([{':
    raise notation.Unreadable('mixed')
  if names := _names(side):
    elements = split(text[1:-1])[0] if text[0] == '{' else [text]
    return _either(
      [
        _solution(names, notation.Reading(element.strip()))
        for element in elements
      ]
    )
  if label := _label(side):
    return _assigned(label, reading)
  raise notation.Unreadable('mixed')


def _chain(
  sides: Sequence[str], signs: Sequence[str], leaf: units.Leaf
) -> Part:
  """Reads x = 3, x = y = 3, x = 2 + 3 = 5, x = 1/3 ≈ 0.33 and x + y = 3."""
  tuples = [names for side in sides if (names := _names(side))]
  labels = [label for side in sides if (label := _label(side))]
  if len(sides) == 2 and tuples and not labels:
    return _tuple_equation(sides, leaf)
  exact, rounded = [], []
  for sign, side in zip(('=', *signs), sides, strict=True):
    if not _label(side):
      (rounded if sign == '≈' else exact).append(side)
  if not exact and not rounded:
    if len(labels) == 2:  # x = y
      return _assigned(labels[0], _value(sides[1], leaf))
    *labels, last = sorted(set(labels))
    exact = [last]
  if not labels and not rounded and len(exact) == 2:
    return _equation(exact, leaf)
  value = _agreed(exact, rounded, leaf)
  if not labels:
    return Part('value', value)
  if len(set(labels)) < len(labels):
    raise notation.Unreadable('mixed')
  assigned = [_assigned(label, value) for label in labels]
  return assigned[0] if len(assigned) == 1 else _system(assigned)


def _label(text: str) -> str:
  """Returns the name that is given a value, as in f(x) = 2x, or ''."""
  match = _LABEL.fullmatch(text.strip())
  if not match:
    return ''
  name = match['name']
  if name in words.FUNCTIONS or name in ('pi', 'oo', 'infinity', 'frac'):
    return ''
  is_plain = not (match['below'] or match['primes'] or match['arguments'])
  if is_plain and len(name) > 1 and words.is_product(name):
    return ''
  inverse = '^{-1}' if match['inverse'] else ''
  arguments = re.sub(r'\s', '', match['arguments'] or '').replace(',', ', ')
  below = words.plain_subscript(match['below'] or '')
  return name + below + match['primes'] + inverse + arguments


def _names(text: str) -> list[str]:
  """Returns x and y of '(x, y)', [] for anything else."""
  text = text.strip()
  if not text or text[0] + text[-1] != '()' or ',' not in text:
    return []
  names = [
    part.strip() if _NAME.fullmatch(part.strip()) else _label(part)
    for part in text[1:-1].split(',')
  ]
  is_given = all(names) and all('(' not in name for name in names)
  return names if is_given and len(set(names)) == len(names) else []


def _tuple_equation(sides: Sequence[str], leaf: units.Leaf) -> Part:
  left, right = sides
  if not _names(left):
    left, right = right, left
  return _solution(_names(left), _value(right, leaf))


def _equation(sides: Sequence[str], leaf: units.Leaf) -> Part:
  """Reads 2*x + 1 = y, which assigns y; 2 + 3 = 5; x + y = 3."""
  left, right = (_value(side, leaf) for side in sides)
  values = [left.value, right.value]
  if all(isinstance(value, notation.F) for value in values):
    return Part('value', _agreed(sides, [], leaf))
  if left.unit or right.unit:
    raise notation.Unreadable('mixed')
  if left.value == right.value:  # x = x says nothing
    raise notation.Unreadable('mixed')
  for name, value in ((left, right), (right, left)):
    if _NAME.fullmatch(str(name.value)):
      return _assigned(str(name.value), value)
  return _relation(' = '.join(sorted(_scalars([left, right]))))


def _agreed(
  exact: Sequence[str], rounded: Sequence[str], leaf: units.Leaf
) -> notation.Reading:
  """Returns the value that all sides have; a rounded one only says it again.

  Raises:
    notation.Unreadable: for sides that are not surely equal.
  """
  if not exact:
    exact, rounded = rounded[:1], rounded[1:]
  first, *rest = [_value(side, leaf) for side in exact]
  found_units = {reading.unit for reading in (first, *rest)}
  for side, reading in zip(exact[1:], rest, strict=True):
    if reading.value != first.value and not _is_zero(
      first, reading, exact[0], side, leaf
    ):
      raise notation.Unreadable('false')
  for side in rounded:
    reading = _value(side, leaf)
    found_units.add(reading.unit)
    if not _is_rounding(side, reading, first, leaf):
      raise notation.Unreadable('false')
  found_units -= {''}
  if len(found_units) > 1:
    raise notation.Unreadable('mixed')
  return first._replace(unit=found_units.pop() if found_units else '')


def _is_zero(one, other, one_text: str, other_text: str, leaf) -> bool:
  """Returns whether the difference of two expressions is 0."""
  if all(isinstance(reading.value, notation.F) for reading in (one, other)):
    return False
  if one.unit or other.unit:
    return False
  return leaf.expression(f'({one_text})-({other_text})') == 0


def _is_rounding(
  text: str, rounded: notation.Reading, exact: notation.Reading, leaf
) -> bool:
  """Returns whether 0.33 is 1/3, rounded to two decimals."""
  match = _DECIMAL.fullmatch(text.strip().lstrip('$'))
  if match is None or not isinstance(rounded.value, notation.F):
    return False
  half = notation.F(1, 2 * 10 ** len(match['decimals'] or ''))
  if (match['rest'] or '').startswith('%'):
    half /= 100
  return leaf.is_close(exact.value, rounded.value, half)


def number_only(text: str) -> notation.F:
  """Reads plain numbers; raises `TooHard` for what may be an expression."""
  number = answers.number(text)
  if number is None:
    words.tokens(text)
    raise notation.TooHard
  return number


def _is_close(value: notation.Value, target, distance) -> bool:
  if not isinstance(value, notation.F):
    raise notation.TooHard
  return abs(value - target) <= distance


CHEAP = units.Leaf(number_only, _is_close)
