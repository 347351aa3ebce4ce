"""The grammar of answers: statements, values and joiners.

answer     = part {joiner part}
joiner     = ',' | ';' | 'and' | 'or' | line break
part       = '(' answer ')' | statement | value
statement  = side {relation side}
relation   = '=' | '≈' | '∈' | '≠' | '<' | '<=' | '>' | '>='
value      = tuple | list | set | union | [expression] '±' expression | quantity
quantity   = expression [unit]

A `units.ExpressionParser` parses the expressions. `docs/math_answers.md`
defines the meaning of the joiners; any other text raises
`plain_text.ParseError`.
"""

import itertools
import re
from collections.abc import Sequence

from sqlm_jax.grading import answers
from sqlm_jax.grading.math import joiners as joiners_lib
from sqlm_jax.grading.math import plain_text, units, vocabulary

_THOUSANDS = re.compile(r'(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])')
_NOT_THOUSANDS = re.compile(r'(?<![\d.,])0\d{0,2}(?:,\d{3})+(?![\d,])')
_STARTS_WITH_ZERO = re.compile(r'\s*0\d')  # such as the cents of 5,00 €
_RELATION = re.compile(r'<=|>=|[=<>≠≈∈]')
_FLIPPED = {'>': '<', '>=': '<='}
_LABEL = re.compile(
  rf'\\?(?P<name>[A-Za-z]+)(?P<below>{vocabulary.SUBSCRIPT})?'
  r"(?P<primes>'{0,3})"
  r'(?:(?P<inverse>\s*\^\s*(?:\{\s*-\s*1\s*\}|-1))?'
  r'\s*(?P<arguments>\(\s*-?\w+(?:\s*,\s*-?\w+)*\s*\)))?'
)
_HUGE = plain_text.F(10**1000)
_NAME = re.compile(r'[A-Za-z]\w*')
_DECIMAL = re.compile(
  r'-?\d*(?:\.(?P<decimals>\d+))?\s*(?P<rest>[A-Za-z°$%].*)?'
)


def parse(text: str, parser: units.ExpressionParser) -> plain_text.ParsedAnswer:
  """Parses a cleaned answer; `parser` parses the expressions in it."""
  return _answer(text, parser).parsed


def _answer(text: str, parser: units.ExpressionParser) -> joiners_lib.Part:
  """Parses the parts of an answer and joins them."""
  text = text.strip()
  if not text:
    raise plain_text.ParseError('empty')
  if bracketed := _bracketed(text, parser):
    return bracketed
  if joiners_lib.at_top(_NOT_THOUSANDS, text):  # 0,111
    raise plain_text.ParseError('syntax')
  if answers.number(text) is not None:
    return _part(text, parser)
  text = _join_thousands(text)
  parts, joiners = joiners_lib.split(text)
  if len(parts) == 1:
    return _part(text, parser)
  if any(_STARTS_WITH_ZERO.match(part) for part in parts):
    raise plain_text.ParseError('syntax')  # 1, 000 and 3,05 m are ambiguous
  return joiners_lib.join([_part(part, parser) for part in parts], joiners)


def _join_thousands(text: str) -> str:
  """Removes the commas of 1,000 but not of (100,200)."""
  start, pieces = 0, []
  for match in joiners_lib.at_top(_THOUSANDS, text):
    pieces.append(text[start : match.start()] + match[0].replace(',', ''))
    start = match.end()
  return ''.join(pieces) + text[start:]


def _part(text: str, parser: units.ExpressionParser) -> joiners_lib.Part:
  """Parses one statement or value."""
  text = text.strip()
  if not text:
    raise plain_text.ParseError('empty')
  if bracketed := _bracketed(text, parser):
    return bracketed
  if relations := joiners_lib.at_top(_RELATION, text):
    signs = [match[0] for match in relations]
    part = _statement(joiners_lib.cut(text, relations), signs, parser)
  else:
    part = joiners_lib.Part('value', _value(text, parser))
  value = str(part.parsed.value)
  if '±' in text and part.kind in ('value', 'assignment') and value[0] == '{':
    elements, _ = joiners_lib.split(value[1:-1])
    choices = tuple(
      plain_text.ParsedAnswer(element.strip()) for element in elements
    )
    part = part._replace(choices=choices)
  return part


def _bracketed(
  text: str, parser: units.ExpressionParser
) -> joiners_lib.Part | None:
  """Parses (2, 3) and [2, 3), which are ordered, and {2, 3}, which is not.

  Inside brackets, every comma is a separator: (100,200) is a pair.
  """
  if text[0] not in '([{' or plain_text.closing(text, 0) != len(text) - 1:
    return None
  if (text[0] == '{') != (text[-1] == '}'):
    raise plain_text.ParseError('syntax')
  texts, joiners = joiners_lib.split(text[1:-1])
  parts = [_part(part, parser) for part in texts]
  if len(parts) == 1:
    if text[0] + text[-1] in ('(]', '[)'):
      raise plain_text.ParseError('syntax')
    part = parts[0]
    if text[0] == '[' and _is_list(part):  # a matrix of one row: [[1, 2]]
      return joiners_lib.Part(
        'value', plain_text.ParsedAnswer(f'[{part.parsed.value}]')
      )
    return part
  if any(part.kind != 'value' for part in parts):
    return joiners_lib.join(parts, joiners)
  parsed_answers = [part.parsed for part in parts]
  if text[0] == '{':
    if any(_STARTS_WITH_ZERO.match(part) for part in texts):
      raise plain_text.ParseError('syntax')  # {1,000}
    if not set(joiners) <= {',', 'and'}:
      raise plain_text.ParseError('syntax')
    return joiners_lib.Part('value', joiners_lib.as_set(parsed_answers))
  if set(joiners) != {','}:
    raise plain_text.ParseError('syntax')
  inside = ', '.join(str(parsed.answer()) for parsed in parsed_answers)
  return joiners_lib.Part(
    'value', plain_text.ParsedAnswer(f'{text[0]}{inside}{text[-1]}')
  )


def _is_list(part: joiners_lib.Part) -> bool:
  text = str(part.parsed.answer())
  is_bracketed = text[0] + text[-1] == '[]'
  return is_bracketed and plain_text.closing(text, 0) == len(text) - 1


def _value(
  text: str, parser: units.ExpressionParser
) -> plain_text.ParsedAnswer:
  """Parses a collection or a quantity."""
  text = text.strip()
  if not text:
    raise plain_text.ParseError('empty')
  if bracketed := _bracketed(text, parser):
    if bracketed.kind != 'value':
      raise plain_text.ParseError('mixed')
    return bracketed.parsed
  if cups := joiners_lib.at_top(re.compile('∪'), text):
    pieces = joiners_lib.cut(text, cups)
    if not all(piece and piece[0] in '([{' for piece in pieces):
      raise plain_text.ParseError('syntax')
    return joiners_lib.union([_value(piece, parser) for piece in pieces])
  if '±' in text:
    if text.count('±') > 1:
      raise plain_text.ParseError('syntax')
    return joiners_lib.as_set(
      [_value(text.replace('±', sign), parser) for sign in '+-']
    )
  return units.with_unit(text, parser)


# Statements


def _statement(
  sides: Sequence[str], signs: Sequence[str], parser: units.ExpressionParser
) -> joiners_lib.Part:
  if set(signs) <= {'=', '≈'}:
    return _chain(sides, signs, parser)
  if signs == ['∈']:
    return _membership(*sides, parser)
  if signs == ['≠']:
    terms = _scalars([_value(side, parser) for side in sides])
    if len(set(terms)) < len(terms):
      raise plain_text.ParseError('false')
    terms.sort(key=lambda term: (not _NAME.fullmatch(term), term))
    return joiners_lib.relation(' ≠ '.join(terms))
  return _inequality(sides, signs, parser)


def _inequality(
  sides: Sequence[str], signs: Sequence[str], parser: units.ExpressionParser
) -> joiners_lib.Part:
  """Parses a chain of < and <=, or of > and >=, which is reversed."""
  parsed_answers = [_value(side, parser) for side in sides]
  if all(sign in _FLIPPED for sign in signs):
    parsed_answers, signs = (
      parsed_answers[::-1],
      [_FLIPPED[sign] for sign in signs[::-1]],
    )
  if not set(signs) <= {'<', '<='}:
    raise plain_text.ParseError('mixed')
  values = _scalars(parsed_answers)
  if joiners_lib.decreases(values) or (
    '<' in signs and len(set(values)) < len(values)
  ):
    raise plain_text.ParseError('false')
  for sign, (lower, upper) in zip(
    signs, itertools.pairwise(parsed_answers), strict=True
  ):
    _check_order(lower, upper, sign=sign, parser=parser)
  terms = itertools.chain(*zip(values, [*signs, ''], strict=True))
  return joiners_lib.relation(' '.join(terms).strip())


def _check_order(
  lower: plain_text.ParsedAnswer,
  upper: plain_text.ParsedAnswer,
  *,
  sign: str,
  parser: units.ExpressionParser,
) -> None:
  """Raises for \\pi < 3, x + 1 < x and x < i."""
  values = lower.value, upper.value
  if any(_mentions(v, 'i') and 'Abs' not in str(v) for v in values):
    raise plain_text.ParseError('false')
  if (
    all(isinstance(value, plain_text.F) for value in values)
    or lower.unit != upper.unit
    or any(_mentions(value, 'oo') for value in values)
    or len({units.has_symbols(str(value)) for value in values}) > 1
  ):
    return
  difference = parser.parse(f'({upper.value})-({lower.value})')
  if units.has_symbols(str(difference)):
    return
  is_zero = difference == 0
  if (is_zero and sign == '<') or not parser.is_close(difference, _HUGE, _HUGE):
    raise plain_text.ParseError('false')


def _mentions(value: plain_text.Value, name: str) -> bool:
  """Returns True if a name or a constant occurs in an expression."""
  pattern = rf'(?<![A-Za-z_{{]){re.escape(name)}(?![\w{{(])'
  return re.search(pattern, str(value)) is not None


def _scalars(parsed_answers: Sequence[plain_text.ParsedAnswer]) -> list[str]:
  """Returns the sides of a relation as text; raises for collections."""
  texts = [str(parsed.answer()) for parsed in parsed_answers]
  if any(text[0] in '[{' or ', ' in text or ' or ' in text for text in texts):
    raise plain_text.ParseError('mixed')
  return texts


def _membership(
  side: str, collection: str, parser: units.ExpressionParser
) -> joiners_lib.Part:
  """Parses x ∈ {1, 2} and (x, y) ∈ {(1, 2), (3, 4)}."""
  parsed = _value(collection, parser)
  text = str(parsed.answer())
  if collection[0] not in '([{':
    raise plain_text.ParseError('mixed')
  if names := _names(side):
    elements = joiners_lib.split(text[1:-1])[0] if text[0] == '{' else [text]
    return joiners_lib.either(
      [
        joiners_lib.solution(names, plain_text.ParsedAnswer(element.strip()))
        for element in elements
      ]
    )
  if label := _label(side):
    return joiners_lib.assigned(label, parsed)
  raise plain_text.ParseError('mixed')


def _chain(
  sides: Sequence[str], signs: Sequence[str], parser: units.ExpressionParser
) -> joiners_lib.Part:
  """Parses x = 3, x = y = 3, x = 2 + 3 = 5, x = 1/3 ≈ 0.33 and x + y = 3."""
  tuples = [names for side in sides if (names := _names(side))]
  labels = [label for side in sides if (label := _label(side))]
  if len(set(labels)) < len(labels):  # x = x has no information
    raise plain_text.ParseError('mixed')
  if len(sides) == 2 and tuples and not labels:
    return _tuple_equation(sides, parser)
  exact, rounded = [], []
  for sign, side in zip(('=', *signs), sides, strict=True):
    if _label(side):
      continue
    if sign == '=' and rounded:
      raise plain_text.ParseError('mixed')  # x ≈ 3.14 = \pi
    (rounded if sign == '≈' else exact).append(side)
  if not exact and not rounded:
    if '≈' in signs:
      raise plain_text.ParseError('mixed')
    if len(labels) == 2:  # x = y
      return joiners_lib.assigned(labels[0], _value(sides[1], parser))
    *labels, last = sorted(labels)
    exact = [last]
  if not labels and not rounded and len(exact) == 2:
    return _equation(exact, parser)
  value = _agreed(exact, rounded, parser)
  if len(sides) == 2 and len(labels) == 1 and _mentions(value.value, *labels):
    return _equation(sides, parser)  # x = x^2
  if not labels:
    return joiners_lib.Part('value', value)
  assigned = [joiners_lib.assigned(label, value) for label in labels]
  return assigned[0] if len(assigned) == 1 else joiners_lib.system(assigned)


def _label(text: str) -> str:
  """Returns a label in normal form, such as f(x) or x_1; '' for other text."""
  match = _LABEL.fullmatch(text.strip())
  if not match:
    return ''
  name = match['name']
  if name in vocabulary.FUNCTIONS or name in ('pi', 'oo', 'infinity', 'frac'):
    return ''
  if text.strip()[0] == '\\' and name not in vocabulary.SYMBOLS:
    return ''
  is_plain = not (match['below'] or match['primes'] or match['arguments'])
  if is_plain and len(name) > 1 and vocabulary.is_product(name):
    return ''
  inverse = '^{-1}' if match['inverse'] else ''
  arguments = re.sub(r'\s', '', match['arguments'] or '').replace(',', ', ')
  below = vocabulary.plain_subscript(match['below'] or '')
  return name + below + match['primes'] + inverse + arguments


def _names(text: str) -> list[str]:
  """Returns x and y for '(x, y)', [] for any other text."""
  text = text.strip()
  if not text or text[0] + text[-1] != '()' or ',' not in text:
    return []
  names = [
    part.strip() if _NAME.fullmatch(part.strip()) else _label(part)
    for part in text[1:-1].split(',')
  ]
  is_given = all(names) and all('(' not in name for name in names)
  return names if is_given and len(set(names)) == len(names) else []


def _tuple_equation(
  sides: Sequence[str], parser: units.ExpressionParser
) -> joiners_lib.Part:
  left, right = sides
  if not _names(left):
    left, right = right, left
  return joiners_lib.solution(_names(left), _value(right, parser))


def _equation(
  sides: Sequence[str], parser: units.ExpressionParser
) -> joiners_lib.Part:
  """Parses 2*x + 1 = y, which assigns y, and 2 + 3 = 5 and x + y = 3."""
  left, right = (_value(side, parser) for side in sides)
  values = [left.value, right.value]
  if all(isinstance(value, plain_text.F) for value in values):
    return joiners_lib.Part('value', _agreed(sides, [], parser))
  if left.unit or right.unit:
    raise plain_text.ParseError('mixed')
  if not any(units.has_symbols(str(value)) for value in values):
    # Raises for \pi = 3.14.
    return joiners_lib.Part('value', _agreed(sides, [], parser))
  difference = parser.parse(f'({left.value})-({right.value})')
  if isinstance(difference, plain_text.F):  # 2x = x + x has no information
    raise plain_text.ParseError('false' if difference else 'mixed')
  for name, value in ((left, right), (right, left)):
    text = str(name.value)
    if (
      _NAME.fullmatch(text)
      and text not in vocabulary.CONSTANTS
      and not _mentions(value.value, text)
    ):
      return joiners_lib.assigned(str(name.value), value)
  return joiners_lib.relation(' = '.join(sorted(_scalars([left, right]))))


def _agreed(
  exact: Sequence[str], rounded: Sequence[str], parser: units.ExpressionParser
) -> plain_text.ParsedAnswer:
  """Returns the exact value that all sides share.

  Raises:
    plain_text.ParseError: if the exact sides are not proven equal, or if a
      rounded side is not a rounding of the exact value.
  """
  if not exact:
    exact, rounded = rounded[:1], rounded[1:]
  first, *rest = [_value(side, parser) for side in exact]
  unit_names = {parsed.unit for parsed in (first, *rest)}
  for side, parsed in zip(exact[1:], rest, strict=True):
    if parsed.value != first.value and not _is_same(
      first, parsed, left_text=exact[0], right_text=side, parser=parser
    ):
      raise plain_text.ParseError('false')
  for side in rounded:
    parsed = _value(side, parser)
    unit_names.add(parsed.unit)
    if not _is_rounding(side, rounded=parsed, exact=first, parser=parser):
      raise plain_text.ParseError('false')
  unit_names -= {''}
  if len(unit_names) > 1:
    raise plain_text.ParseError('mixed')
  return first._replace(unit=unit_names.pop() if unit_names else '')


def _is_same(
  left: plain_text.ParsedAnswer,
  right: plain_text.ParsedAnswer,
  *,
  left_text: str,
  right_text: str,
  parser: units.ExpressionParser,
) -> bool:
  """Returns True if the difference of two expressions is 0."""
  if all(isinstance(parsed.value, plain_text.F) for parsed in (left, right)):
    return False
  if left.unit or right.unit:
    return False
  return parser.parse(f'({left_text})-({right_text})') == 0


def _is_rounding(
  text: str,
  *,
  rounded: plain_text.ParsedAnswer,
  exact: plain_text.ParsedAnswer,
  parser: units.ExpressionParser,
) -> bool:
  """Returns True if a decimal is a rounding, as 0.33 is a rounding of 1/3."""
  match = _DECIMAL.fullmatch(text.strip().lstrip('$'))
  if match is None or not isinstance(rounded.value, plain_text.F):
    return False
  half = plain_text.F(1, 2 * 10 ** len(match['decimals'] or ''))
  if (match['rest'] or '').startswith('%'):
    half /= 100
  return parser.is_close(exact.value, rounded.value, half)
