"""Answers compared as mathematics: 1/2, 0.5, 50% and \\frac{1}{2} are equal.

1. `_clean` brings LaTeX and Unicode into plain ASCII.
2. `_read` takes the text apart into a `Reading`: tuples, sets, assignments,
   inequalities, units. What is left are expressions.
3. Expressions that are numbers are read at once, exactly. Others go to a
   worker of a `Verifier`, where `_Parser` builds what sympy simplifies.
4. The canonical answer is a Fraction, or a text in normal form, which reads
   back to itself: 'x = 3', '(2, 3)', '{1, 2}', '2*sqrt(2)', '5 cm'.
5. `Verifier.groups` merges the answers of one question that sympy could not
   bring into one form, although `math_verify` finds them equal.

What counts as equal:

- Decimals are exact: 0.333 is not 1/3. A percent is 1/100.
- A unit is part of an answer, and so is the x of x = 5, but within a group a
  bare 5 is equal to the only answer that says more, see `Verifier.groups`.
  Nothing is converted: 60 minutes is not 1 hour. A currency is a unit.
- (1, 2) and [1, 2] have an order, {1, 2} and a bare 1, 2 have none.
- Outside of brackets 1,000 is a number, (1,000) is the pair of 1 and 0.
- 1/2x is x/2, from left to right. i and e are constants, no is a word, xy a
  product. Other symbols are real numbers.

No text is ever evaluated as Python: our own parser reads it, for sympify,
parse_expr and latex2sympy either evaluate it or guess (2(3) would be 5).
"""

import collections
import fractions
import itertools
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import sympy
from math_verify import grader

from sqlm_jax.game import types
from sqlm_jax.verify import answers, pool

F = fractions.Fraction
Value = F | str
_LONGEST = 1000  # characters of an answer


class Unreadable(ValueError):
  """The text is no mathematics; the message is a word to count."""


class _TooHard(Exception):
  """The text needs sympy."""


class Reading(NamedTuple):
  """An answer: 'x = 5 cm' has a value, a label and a unit."""

  value: Value
  label: str = ''
  unit: str = ''

  def answer(self) -> types.Answer:
    """The canonical answer."""
    if not self.label and not self.unit:
      return self.value
    label = f'{self.label} = ' if self.label else ''
    return f'{label}{self.value}{" " if self.unit else ""}{self.unit}'


# --- 1. Plain text. ---


def _rows(match: re.Match) -> str:
  """A matrix as a list of its rows: [[1, 2], [3, 4]]."""
  rows = match[1].strip().removesuffix(r'\\').split(r'\\')
  return '[' + ', '.join(f'[{row.replace("&", ",")}]' for row in rows) + ']'


_SIGNS = {
  **{chr(0xFF01 + i): chr(0x21 + i) for i in range(94)},  # full width
  '−': '-', '–': '-', '×': '*', '·': '*', '⋅': '*', '∙': '*',
  '÷': '/', '⁄': '/', '∕': '/', '²': '^2', '³': '^3', 'π': ' pi ',
  '√': ' sqrt ', '∞': ' oo ', '≤': '<=', '≥': '>=', '°': ' degrees ',
  '±': ' \\pm ', '€': ' EUR ', '£': ' GBP ', '¥': ' JPY ', '₹': ' INR ',
  '∪': ' or ', '∈': '=', '≈': '=', '½': ' 1/2', '¼': ' 1/4', '¾': ' 3/4',
  '⅓': ' 1/3', '⅔': ' 2/3',
  '\u00a0': ' ', '\u202f': ' ', '\u2009': ' ', '\u3000': ' ',
}  # fmt: skip
_TABLE = str.maketrans(_SIGNS)
_COMMANDS = {  # of LaTeX, in plain text; what is not here stays
  'left': '', 'right': '', 'big': '', 'Big': '', 'bigl': '', 'bigr': '',
  'displaystyle': ' ', 'quad': ' ', 'qquad': ' ', 'in': '=', 'approx': '=',
  'cdot': '*', 'times': '*', 'ast': '*', 'lvert': '|', 'rvert': '|',
  'le': '<=', 'leq': '<=', 'leqslant': '<=', 'ge': '>=', 'geq': '>=',
  'geqslant': '>=', 'dfrac': r'\frac', 'tfrac': r'\frac', 'cfrac': r'\frac',
  'cup': ' or ', 'lt': '<', 'gt': '>', 'div': '/', 'infty': ' oo ',
  'lbrace': '{', 'rbrace': '}', 'degree': ' degrees ', 'percent': '%',
}  # fmt: skip
_LATEX = tuple(
  (re.compile(pattern, re.S), new)
  for pattern, new in (
    (r'(?<=\d)(?:\\[,!]|\{,\})(?=\d{3})', ''),  # 56\,088
    (r'\$([^$]*[^$\s])\$(?!\d)', r' \1 '),  # $5$ cm, but not $5,$6
    (r'\^\s*\{?\s*\\circ\s*\}?', ' degrees '),
    (r'\\begin\{[pb]matrix\}(.*)\\end\{[pb]matrix\}', _rows),
    (r'\\(?:text|math|operatorname|mbox)[a-z]*\s*\{([^{}]*)\}', r' \1 '),
    (r'\\([A-Za-z]+)', lambda match: _COMMANDS.get(match[1], match[0])),
    (r'\\[,;:! ]|~', ' '),
    (r'\\([%$#&{}])', r'\1'),
    (r'(?<=\d)\s+thousand(?![a-z])', '*1000'),
    (r'(?<=\d)\s+million(?![a-z])', '*1000000'),
    (r'(?<=\d)\s+billion(?![a-z])', '*1000000000'),
  )
)
_WRAPPERS = (
  re.compile(r'\$\$(.+)\$\$', re.S),
  re.compile(r'\$([^$]+)\$', re.S),
  re.compile(r'\\\((.+)\\\)', re.S),
  re.compile(r'\\\[(.+)\\\]', re.S),
  re.compile(r'\*\*(.+)\*\*', re.S),
  re.compile(r'`(.+)`', re.S),
)


def _clean(text: str) -> str:
  """One line of ASCII without what only typesets."""
  text = text.strip().translate(_TABLE)
  if not text:
    raise Unreadable('empty')
  if not text.isascii() or re.search(r'[\x00-\x08\x0e-\x1f\x7f]', text):
    raise Unreadable('characters')
  text = _unwrap(_boxed(text))
  for pattern, new in _LATEX:
    text = pattern.sub(new, text)
  text = ' '.join(_unwrap(text).split()).removeprefix('=')
  if not text:
    raise Unreadable('empty')
  if len(text) > _LONGEST:
    raise Unreadable('long')
  return text


def _boxed(text: str) -> str:
  """What stands in the last \\boxed{}, or all of it if there is none."""
  start = max(text.rfind('\\boxed{'), text.rfind('\\fbox{'))
  if start < 0:
    return text
  start = text.index('{', start)
  end = _closing(text, start)
  return text[start + 1 : end] if end is not None else text


def _unwrap(text: str) -> str:
  before = None
  while text != before:
    before, text = text, text.strip()
    if text.endswith(('.', ',', ';')) and not text.endswith('..'):
      text = text[:-1]
    for wrapper in _WRAPPERS:
      if match := wrapper.fullmatch(text):
        text = match[1]
  return text


def _closing(text: str, start: int) -> int | None:
  """Where the bracket that opens at `start` closes. (1, 2] is a pair, too."""
  depth = 0
  for place in range(start, len(text)):
    depth += (text[place] in '([{') - (text[place] in ')]}')
    if not depth:
      return place
  return None


# --- 2. Structure. ---

Leaf = Callable[[str], Value]  # reads an expression, or raises

_THOUSANDS = re.compile(r'(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])')
_LABEL = re.compile(
  r'(?P<label>[A-Za-z]\w*(?:\([a-z]\))?|\\[a-z]+(?:_\w)?)\s*=\s*(?P<rest>[^=<>].*)'
)
_NAME = re.compile(r'[A-Za-z]\w*')
_RELATION = re.compile(r'(<=|>=|<|>)')
_MIXED = re.compile(r'(-?)(\d+) (\d+)\s*/\s*(\d+)')
_FLIPPED = {'>': '<', '>=': '<='}


def _read(text: str, leaf: Leaf) -> Reading:
  """Takes a cleaned text apart; `leaf` reads the expressions in it."""
  text = text.strip()
  if not text:
    raise Unreadable('empty')
  if bracketed := _bracketed(text, leaf):
    return bracketed
  if answers.number(text) is None:  # outside of brackets, 1,000 is a number
    text = _join_thousands(text)
    parts = _split(text)
    if len(parts) > 1:
      return _several([_read(part, leaf) for part in parts])
  match = _LABEL.fullmatch(text)
  if match and match['label'].partition('(')[0] not in _FUNCTIONS:
    return _assignment(match['label'], match['rest'], leaf)
  if '=' in _RELATION.sub('', text):
    return _equation(text, leaf)
  if _RELATION.search(text):
    return Reading(_inequality(text, leaf))
  if '\\pm' in text:
    return _several([_read(text.replace('\\pm', sign), leaf) for sign in '+-'])
  return _with_unit(text, leaf)


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


def _split(text: str) -> list[str]:
  """Splits at commas, 'and' and 'or' outside of brackets."""
  parts, start = [], 0
  for match in _SEPARATOR.finditer(text):
    if not _depth(text[: match.start()]):
      parts.append(text[start : match.start()])
      start = match.end()
  return [*parts, text[start:]]


def _several(readings: Sequence[Reading]) -> Reading:
  """A system, as x = 2, y = 3; x = 2 or 3; a set, as 2, 3."""
  labels = [reading.label for reading in readings if reading.label]
  if len(set(labels)) == len(readings):
    parts = sorted(str(reading.answer()) for reading in readings)
    return Reading(', '.join(parts))
  label = readings[0].label
  if set(labels) - {label}:
    raise Unreadable('mixed')
  if label and any(' = ' in str(reading.value) for reading in readings):
    raise Unreadable('mixed')
  return Reading(_set([r._replace(label='') for r in readings]), label)


def _set(readings: Sequence[Reading]) -> Value:
  """A set has no order, and a set of one is that one."""
  elements = {str(r.answer()): r for r in readings}
  if len(elements) == 1 and not readings[0].unit:
    return readings[0].value
  return '{' + ', '.join(sorted(elements)) + '}'


def _assignment(label: str, rest: str, leaf: Leaf) -> Reading:
  """Reads x = 5 cm; of a chain, x = 2 + 3 = 5, the last."""
  reading = _read(rest.rsplit('=', 1)[-1], leaf)
  if reading.label:
    raise Unreadable('mixed')
  return reading._replace(label=label.lstrip('\\').replace(' ', ''))


def _equation(text: str, leaf: Leaf) -> Reading:
  """2*x + 1 = y assigns y; other equations have their sides in order."""
  sides = text.split('=')
  if len(sides) != 2:
    raise Unreadable('mixed')
  left, right = (leaf(side) for side in sides)
  if isinstance(left, F) and isinstance(right, F):
    if left != right:
      raise Unreadable('false')
    return Reading(right)  # 2 + 3 = 5
  for name, value in ((left, right), (right, left)):
    if _NAME.fullmatch(str(name)):
      return Reading(value, label=str(name))
  return Reading(' = '.join(sorted((str(left), str(right)))))


def _inequality(text: str, leaf: Leaf) -> str:
  """A chain of < and <=, whichever way it was written."""
  sides = _RELATION.split(text)
  terms, signs = [str(leaf(side)) for side in sides[::2]], sides[1::2]
  if all(sign in _FLIPPED for sign in signs):
    terms, signs = terms[::-1], [_FLIPPED[sign] for sign in signs[::-1]]
  if any(sign in _FLIPPED for sign in signs):
    raise Unreadable('mixed')
  return ' '.join(
    itertools.chain(*zip(terms, [*signs, ''], strict=True))
  ).strip()


def _bracketed(text: str, leaf: Leaf) -> Reading | None:
  """(2, 3) and [2, 3) keep their order and brackets, {2, 3} has none.

  Inside of brackets every comma separates: (100,200) is a pair.
  """
  if text[0] not in '([{' or _closing(text, 0) != len(text) - 1:
    return None
  if (text[0] == '{') != (text[-1] == '}'):
    raise Unreadable('syntax')
  elements = [_read(part, leaf) for part in _split(text[1:-1])]
  if len(elements) == 1:
    if text[0] + text[-1] in ('(]', '[)'):
      raise Unreadable('syntax')
    return elements[0]
  if text[0] == '{':
    return Reading(_set(elements))
  if any(element.label for element in elements):
    return _several(elements)
  inside = ', '.join(str(element.answer()) for element in elements)
  return Reading(f'{text[0]}{inside}{text[-1]}')


# Unit -> its other names, singular. A unit that is not here is its own name.
_UNITS = {
  'mm': 'millimeter millimetre',
  'cm': 'centimeter centimetre',
  'm': 'meter metre',
  'km': 'kilometer kilometre',
  'in': 'inch inche',  # as 'inches' without its s
  'ft': 'foot feet',
  'yd': 'yard',
  'mi': 'mile',
  'mg': 'milligram',
  'g': 'gram gramme',
  'kg': 'kilogram kilo',
  'lb': 'pound',
  'oz': 'ounce',
  'ml': 'milliliter millilitre mL',
  'L': 'liter litre l',
  'gal': 'gallon',
  'ms': 'millisecond',
  's': 'second sec',
  'min': 'minute',
  'h': 'hour hr',
  'day': '',
  'yr': 'year',
  'Hz': 'hertz',
  'N': 'newton',
  'J': 'joule',
  'W': 'watt',
  'V': 'volt',
  'A': 'ampere amp',
  'K': 'kelvin',
  'Pa': 'pascal',
  'degree': 'deg',
  'C': 'celsius',
  'F': 'fahrenheit',
  'rad': 'radian',
  '$': 'dollar USD usd buck',
  'EUR': 'euro',
  'GBP': '',
  'JPY': 'yen',
  'INR': 'rupee',
  'mi/h': 'mph',
  'km/h': 'kph kmh',
}
_UNIT_OF = {
  name: unit
  for unit, names in _UNITS.items()
  for name in (unit, *names.split())
}
_POWER_WORDS = {'square': '^2', 'sq': '^2', 'cubic': '^3', 'cu': '^3'}
_CURRENCY = re.compile(r'(-?)\s*(\$|USD|EUR|GBP|JPY|INR)\s*(-?.*\d.*)')
_WORD = r'[A-Za-z]+(?:\^\{?\d\}?)?'
_UNIT = rf'(?P<unit>%|\$|{_WORD}(?:(?:\s*/\s*|\s+){_WORD})*)'
_WITH_UNIT = (  # 5 square meters, and then 2 pi meters
  re.compile(rf'(?P<value>.*?[\d)}}!.\s])\s*{_UNIT}'),
  re.compile(rf'(?P<value>.*[\d)}}!.\s])\s*{_UNIT}'),
)


def _with_unit(text: str, leaf: Leaf) -> Reading:
  """5 cm, $12.50, 50 percent, or an expression without a unit."""
  if match := _CURRENCY.fullmatch(text):
    sign, unit, rest = match.groups()
    return Reading(_value(sign + rest, leaf), unit=_UNIT_OF[unit])
  for pattern in _WITH_UNIT:
    match = pattern.fullmatch(text)
    if match is None or _letters(match['value']):
      continue
    if match['unit'].lower() in ('%', 'percent', 'pct'):
      return Reading(_percent(_value(match['value'], leaf), leaf))
    if unit := _unit(match['unit']):
      return Reading(_value(match['value'], leaf), unit=unit)
  return Reading(_value(text, leaf))


def _percent(value: Value, leaf: Leaf) -> Value:
  return value / 100 if isinstance(value, F) else leaf(f'({value})/100')


def _letters(text: str) -> bool:
  """Whether there are symbols in it, which makes a unit a factor: 2x m."""
  text = re.sub(r'\\[A-Za-z]+', ' ', text)
  return any(
    word not in _FUNCTIONS and word not in _CONSTANTS
    for word in re.findall('[A-Za-z]+', text)
  )


def _unit(text: str) -> str | None:
  """One name for 'square meters' and 'm^2', None for what is no unit."""
  power, found = '', []
  for word in re.findall(rf'/|{_WORD}|\$', text):
    if word.lower() in _POWER_WORDS:
      power = _POWER_WORDS[word.lower()]
    elif word in ('/', 'per'):
      found.append('/')
    else:
      name, _, exponent = word.partition('^')
      if (name := _unit_word(name)) is None:
        return None
      exponent = f'^{exponent.strip("{}")}' if exponent else power
      found.append(name + exponent)
      power = ''
  if found[:1] == ['degree'] and len(found) > 1:
    del found[0]  # of Celsius
  return ' '.join(found).replace(' / ', '/') or None


def _unit_word(word: str) -> str | None:
  for name in (word, word.lower(), word.lower().removesuffix('s')):
    if name in _UNIT_OF:
      return _UNIT_OF[name]
  if word in _FUNCTIONS or word in _CONSTANTS or _is_product(word):
    return None
  return word.lower().removesuffix('s') if len(word) > 2 else None


def _value(text: str, leaf: Leaf) -> Value:
  """A mixed number, 3 1/2, or what `leaf` reads."""
  if match := _MIXED.fullmatch(text.strip()):
    sign, whole, above, below = match.groups()
    if int(below):
      value = int(whole) + F(int(above), int(below))
      return -value if sign else value
  return leaf(text.strip())


def _number_or_too_hard(text: str) -> F:
  """The cheap leaf: plain numbers, and words that are no mathematics."""
  number = answers.number(text)
  if number is None:
    _tokens(text)
    raise _TooHard
  return number


# --- 3. Expressions, in a worker. ---

_FUNCTIONS = {
  'sqrt': sympy.sqrt,
  'cbrt': sympy.cbrt,
  'abs': sympy.Abs,
  'exp': sympy.exp,
  'ln': sympy.log,
  'log': sympy.log,
  'sin': sympy.sin,
  'cos': sympy.cos,
  'tan': sympy.tan,
  'cot': sympy.cot,
  'sec': sympy.sec,
  'csc': sympy.csc,
  'asin': sympy.asin,
  'acos': sympy.acos,
  'atan': sympy.atan,
  'arcsin': sympy.asin,
  'arccos': sympy.acos,
  'arctan': sympy.atan,
  'Abs': sympy.Abs,  # as sympy writes it
  'factorial': sympy.factorial,
  'sinh': sympy.sinh,
  'cosh': sympy.cosh,
  'tanh': sympy.tanh,
}
_GREEK = (
  'alpha',
  'beta',
  'gamma',
  'delta',
  'epsilon',
  'theta',
  'lambda',
  'mu',
  'rho',
  'sigma',
  'tau',
  'phi',
  'omega',
)
_CONSTANTS = {
  'pi': sympy.pi,
  'e': sympy.E,
  'E': sympy.E,
  'i': sympy.I,
  'I': sympy.I,
  'oo': sympy.oo,
  'infinity': sympy.oo,
  **{name: sympy.Symbol(name, real=True) for name in _GREEK},
}
_TOKEN = re.compile(
  r'\s*(?:(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)'
  r'|\\?(?P<word>[A-Za-z]+)(?P<below>_(?:[A-Za-z0-9]|\{[A-Za-z0-9]+\}))?'
  r'|(?P<sign>\*\*|[-+*/^!|(){}\[\]_]))\s*'
)
_TWO_ARGUMENTS = ('frac', 'binom')
_MOST_PASSES = 4
_MOST_BITS = 1200  # of a number: 360 digits


class _Token(NamedTuple):
  kind: str  # 'number', 'word', 'sign' or 'end'
  text: str


_END = _Token('end', '')


def _is_product(word: str) -> bool:
  """Whether letters in a row are factors, as in 2xy; 'no' is a word."""
  return len(word) < 4 and set(word) <= set('abcxyz')


def _tokens(text: str) -> list[_Token]:
  """Takes an expression apart. Raises `Unreadable` at an unknown word."""
  found, place = [], 0
  while place < len(text):
    match = _TOKEN.match(text, place)
    if match is None:
      raise Unreadable('syntax')
    place = match.end()
    if word := match['word']:
      found += _words(word, (match['below'] or '').translate(_NO_BRACES))
    else:
      kind = match.lastgroup
      found.append(_Token(kind, match[kind].replace('**', '^')))
  return found


_NO_BRACES = str.maketrans('', '', '{}')


def _words(word: str, below: str) -> list[_Token]:
  if word in ('log', 'frac') and below:
    return [_Token('word', word), _Token('sign', '_'), _term(below[1:])]
  if word in _FUNCTIONS or word in _CONSTANTS or word in _TWO_ARGUMENTS:
    return [_Token('word', word + below)]
  if len(word) > 1 and not _is_product(word):
    raise Unreadable('word')
  *factors, last = word
  return [_Token('word', factor) for factor in (*factors, last + below)]


def _term(text: str) -> _Token:
  return _Token('number' if text.isdigit() else 'word', text)


class _Parser:
  """Recursive descent from tokens to a sympy expression.

  sum = product {(+ | -) product};  product = signed {[* | /] signed}
  signed = {- | +} power;           power = postfix [^ signed]
  postfix = atom {!};               atom = number | symbol | call | (sum)
  """

  def __init__(self, text: str):
    self._tokens = [*_tokens(text), _END]
    self._place = 0

  def parse(self) -> sympy.Expr:
    result = self._sum()
    if self._next() != _END:
      raise Unreadable('syntax')
    return result

  def _peek(self) -> _Token:
    return self._tokens[self._place]

  def _next(self) -> _Token:
    self._place += self._place < len(self._tokens)
    return self._tokens[self._place - 1]

  def _take(self, *signs: str) -> str:
    """The next sign, if it is one of these."""
    kind, text = self._peek()
    return self._next().text if kind == 'sign' and text in signs else ''

  def _expect(self, sign: str) -> None:
    if not self._take(sign):
      raise Unreadable('syntax')

  def _sum(self) -> sympy.Expr:
    result = self._product()
    while sign := self._take('+', '-'):
      other = self._product()
      result = result + other if sign == '+' else result - other
    return result

  def _product(self) -> sympy.Expr:
    result = self._signed()
    while True:
      if sign := self._take('*', '/'):
        other = self._signed()
        result = result * other if sign == '*' else _ratio(result, other)
      elif self._starts_factor():
        result = result * self._power()
      else:
        return result

  def _starts_factor(self) -> bool:
    kind, text = self._peek()
    return kind == 'word' or (kind == 'sign' and text in ('(', '{', '['))

  def _signed(self) -> sympy.Expr:
    if sign := self._take('+', '-'):
      value = self._signed()
      return -value if sign == '-' else value
    return self._power()

  def _power(self) -> sympy.Expr:
    base = self._postfix()
    return _power(base, self._signed()) if self._take('^') else base

  def _postfix(self) -> sympy.Expr:
    value = self._atom()
    while self._take('!'):
      value = _factorial(value)
    return value

  def _atom(self) -> sympy.Expr:
    kind, text = self._next()
    if kind == 'number':
      return self._mixed(_rational(text))
    if kind == 'word':
      return self._word(text)
    if text == '|':
      value = self._sum()
      self._expect('|')
      return sympy.Abs(value)
    if kind == 'sign' and text in '([{':
      value = self._sum()
      self._expect({'(': ')', '[': ']', '{': '}'}[text])
      return value
    raise Unreadable('syntax')

  def _mixed(self, whole: sympy.Expr) -> sympy.Expr:
    """3\\frac{1}{2} is 7/2, but 3\\frac{x}{2} a product."""
    place = self._place
    if whole.is_Integer and self._peek() == _Token('word', 'frac'):
      self._next()
      above, below = self._argument(), self._argument()
      if above.is_Integer and below.is_Integer and 0 < above < below:
        return whole + above / below
    self._place = place
    return whole

  def _argument(self) -> sympy.Expr:
    """{...}, or one digit or letter: \\frac12."""
    kind, text = self._peek()
    if kind == 'number' and text.isdigit() and len(text) > 1:
      self._tokens[self._place] = _Token('number', text[1:])
      return sympy.Integer(text[0])
    return self._atom()

  def _word(self, text: str) -> sympy.Expr:
    if text == 'frac':
      return _ratio(self._argument(), self._argument())
    if text == 'binom':
      above, below = self._argument(), self._argument()
      return _binomial(above, below)
    if text in _FUNCTIONS:
      return self._call(text)
    return _CONSTANTS.get(text) or sympy.Symbol(text, real=True)

  def _call(self, name: str) -> sympy.Expr:
    """sin(x), \\sin 2x, \\sin^2 x, \\sqrt[3]{x}, \\log_2 8."""
    if name == 'sqrt':
      return self._root()
    base = self._argument() if self._take('_') else None
    exponent = self._signed() if self._take('^') else None
    value = _FUNCTIONS[name](self._call_argument())
    if base is not None:
      value = value / sympy.log(base)
    return value if exponent is None else _power(value, exponent)

  def _call_argument(self) -> sympy.Expr:
    if self._peek() in (_Token('sign', '('), _Token('sign', '{')):
      return self._atom()
    value = self._power()
    while self._peek().kind == 'word' and self._peek().text not in _FUNCTIONS:
      value = value * self._power()
    return value

  def _root(self) -> sympy.Expr:
    degree = sympy.Integer(2)
    if self._take('['):
      degree = self._sum()
      self._expect(']')
    return _power(self._argument_of_root(), 1 / degree)

  def _argument_of_root(self) -> sympy.Expr:
    kind, text = self._peek()
    if kind == 'number':  # √12 is not √1 times 2
      self._next()
      return _rational(text)
    return self._atom()


def _rational(text: str) -> sympy.Expr:
  """An exact number. Exponents are bounded before they are worked out."""
  _, _, exponent = text.lower().partition('e')
  if len(exponent.lstrip('+-')) > 3:
    raise Unreadable('too_large')
  value = F(text)
  return _bounded(sympy.Rational(value.numerator, value.denominator))


def _bounded(value: sympy.Expr) -> sympy.Expr:
  bits = value.is_Rational and value.p.bit_length() + value.q.bit_length()
  if bits > _MOST_BITS:
    raise Unreadable('too_large')
  return value


def _ratio(above: sympy.Expr, below: sympy.Expr) -> sympy.Expr:
  if below.is_zero:
    raise Unreadable('division')
  return above / below


def _power(base: sympy.Expr, exponent: sympy.Expr) -> sympy.Expr:
  if base.is_zero and not exponent.is_positive:
    raise Unreadable('division')
  if base.is_Rational and exponent.is_Rational and base not in (0, 1, -1):
    bits = max(abs(base.p), base.q).bit_length()
    if abs(exponent) * bits > _MOST_BITS:
      raise Unreadable('too_large')
  return base**exponent


def _factorial(value: sympy.Expr) -> sympy.Expr:
  if value.is_Integer and not 0 <= value <= 300:
    raise Unreadable('too_large')
  return sympy.factorial(value)


def _binomial(above: sympy.Expr, below: sympy.Expr) -> sympy.Expr:
  if not all(x.is_Integer and abs(x) <= 300 for x in (above, below)):
    raise Unreadable('too_large')
  return sympy.binomial(above, below)


def _expression(text: str) -> Value:
  """The leaf of a worker: the normal form of an expression."""
  number = answers.number(text)
  return _normal(_Parser(text).parse()) if number is None else number


def _normal(value: sympy.Expr) -> Value:
  """A Fraction, or the text of what sympy simplifies it to."""
  for _ in range(_MOST_PASSES):  # one is not always its own fixed point
    before, value = value, _simplified(value).rewrite(sympy.factorial)
    if value == before:
      break
  if value.has(sympy.nan, sympy.zoo):
    raise Unreadable('undefined')
  if value.is_Rational:
    value = _bounded(value)
    return F(int(value.p), int(value.q))
  return sympy.sstr(value)


def _simplified(value: sympy.Expr) -> sympy.Expr:
  """Quotients of polynomials have one form, p/q expanded and cancelled."""
  if not value.free_symbols:
    return sympy.radsimp(sympy.sqrtdenest(sympy.expand(sympy.simplify(value))))
  if value.is_rational_function():
    return sympy.cancel(value)
  return sympy.expand(sympy.simplify(value))


def _short(reading: Reading) -> Reading:
  if len(str(reading.answer())) > _LONGEST:
    raise Unreadable('too_large')
  return reading


# --- 4. In a worker: what is asked, and what is said. ---


def work(task: list[str]) -> Any:
  """Reads a text, or compares two answers: the function of the pool."""
  match task:
    case ['read', text]:
      try:
        return _encode(_short(_read(text, _expression)))
      except Unreadable as error:
        return str(error)
    case ['same', one, other]:
      return _same(_object(one), _object(other))
  raise ValueError(f'{task=}: expected read or same')


def _encode(reading: Reading) -> list:
  return [isinstance(reading.value, F), *map(str, reading)]


def _decode(said: list) -> Reading:
  is_number, value, label, unit = said
  return Reading(F(value) if is_number else value, label, unit)


def _object(text: str) -> sympy.Basic:
  """A canonical answer as sympy and math_verify know it."""
  if (
    text[0] == '('
    and text[-1] == ')'  # not an interval, (1, 2]
    and _closing(text, 0) == len(text) - 1
    and ', ' in text
  ):
    return sympy.Tuple(*map(_object, _split(text[1:-1])))
  for sign, relation in (
    (' <= ', sympy.Le),
    (' < ', sympy.Lt),
    (' = ', sympy.Eq),
  ):
    if text.count(sign) == 1:
      return relation(*map(_object, text.split(sign)), evaluate=False)
  return _Parser(text).parse()


def _same(one: sympy.Basic, other: sympy.Basic) -> bool:
  """Whether math_verify finds them equal, whichever is the reference."""
  if one.free_symbols != other.free_symbols:
    return False
  return all(
    grader.verify(gold, target, timeout_seconds=None, raise_on_error=True)
    for gold, target in ((one, other), (other, one))
  )


# --- 5. For the caller. ---


class Verifier:
  """Canonical answers, with workers that are warm between start and close.

  Args:
    workers: processes.
    time_limit: seconds for one expression or comparison.
    call_limit: seconds for all expressions, and for all comparisons, of a call;
      what has not begun by then is a blank, or a pair that is not merged.
    memory_limit: bytes of address space of a worker.
    longest: characters; a longer text is a blank, unread.
    most_comparisons: pairs of one group that are compared symbolically.
  """

  def __init__(
    self,
    *,
    workers: int = 2,
    time_limit: float = 2.0,
    call_limit: float = 60.0,
    memory_limit: int = 2**30,
    longest: int = 400,
    most_comparisons: int = 16,
  ):
    if not 1 <= longest <= _LONGEST:
      raise ValueError(f'{longest=}: expected 1 to {_LONGEST}')
    self.blanks: collections.Counter[str] = collections.Counter()  # why, so far
    self._longest = longest
    self._most_comparisons = most_comparisons
    self._pool = pool.Pool(
      f'{__name__}:work',
      workers=workers,
      time_limit=time_limit,
      call_limit=call_limit,
      memory_limit=memory_limit,
      warm_up=['same', 'x + sin(x) = 1', 'sqrt(2)*x = 1'],
    )

  def start(self) -> 'Verifier':
    self._pool.start()
    return self

  def close(self) -> None:
    self._pool.close()

  def __enter__(self) -> 'Verifier':
    return self.start()

  def __exit__(self, *error) -> None:
    self.close()

  def canonical(self, texts: Sequence[str]) -> list[types.Answer]:
    """The canonical answer of every text, each on its own."""
    return [r and r.answer() for r in self._readings(texts)]

  def group(self, texts: Sequence[str]) -> list[types.Answer]:
    """The answers of one question, see `groups`."""
    return self.groups([texts])[0]

  def groups(self, groups: Sequence[Sequence[str]]) -> list[list[types.Answer]]:
    """The answers of several questions, merged within each question.

    Equal to each other are: equal canonical answers; answers that math_verify
    finds equal in both directions; 5 and x = 5, unless the group knows another
    label of 5; 5 and 5 cm, unless the group knows another unit of 5. The first
    of a class names it.
    """
    readings = iter(
      self._readings([text for group in groups for text in group])
    )
    split = [list(itertools.islice(readings, len(group))) for group in groups]
    pairs = [
      list(itertools.islice(_pairs(group), self._most_comparisons))
      for group in split
    ]
    asked = [['same', *pair] for group in pairs for pair in group]
    said = iter(self._pool.map(asked) if asked else ())
    return [
      _merge(group, [pair for pair in asked if next(said).value is True])
      for group, asked in zip(split, pairs, strict=True)
    ]

  def _readings(self, texts: Sequence[str]) -> list[Reading | None]:
    known = {text: _read_cheaply(text, self._longest) for text in set(texts)}
    hard = sorted(text for text, found in known.items() if found is _HARD)
    tasks = [['read', _clean(text)] for text in hard]
    results = self._pool.map(tasks) if tasks else []
    for text, result in zip(hard, results, strict=True):
      said = result.why_not or result.value
      known[text] = said if isinstance(said, str) else _decode(said)
    found = [known[text] for text in texts]
    self.blanks.update(why_not for why_not in found if isinstance(why_not, str))
    return [None if isinstance(reading, str) else reading for reading in found]


_HARD = object()


def _read_cheaply(text: str, longest: int) -> Any:
  """A reading, a word that says why it is a blank, or `_HARD`."""
  if len(text) > longest:
    return 'long'
  try:
    return _short(_read(_clean(text), _number_or_too_hard))
  except Unreadable as error:
    return str(error)
  except RecursionError:
    return 'syntax'
  except _TooHard:
    return _HARD


def _key(reading: Reading) -> str:
  """An answer without its unit, as text."""
  return str(reading._replace(unit='').answer())


def _pairs(group: Sequence[Reading | None]):
  """Pairs of a group that differ in form, and might yet be equal."""
  seen = {_key(r): r for r in group if r is not None}
  for one, other in itertools.combinations(seen, 2):
    if _comparable(seen[one], seen[other]):
      yield one, other


def _comparable(one: Reading, other: Reading) -> bool:
  values = (one.value, other.value)
  if all(isinstance(value, F) for value in values) or one.value == other.value:
    return False
  if any(str(value)[0] in '[{' for value in values):
    return False
  if one.label != other.label:
    return any(' = ' in str(value) for value in values)
  return True


def _merge(
  group: Sequence[Reading | None], same: Sequence[tuple[str, str]]
) -> list[types.Answer]:
  """Names every answer by the first one of its class."""
  read = [reading for reading in group if reading is not None]
  class_of = {_key(r): _key(r) for r in read}

  def join(one, other):
    kept, gone = class_of[one], class_of[other]
    class_of.update({k: kept for k, v in class_of.items() if v == gone})

  for one, other in (*same, *_bare_pairs(read)):
    join(one, other)
  units = collections.defaultdict(set)
  for r in read:
    units[class_of[_key(r)]].update({r.unit} - {''})
  names: dict[Any, types.Answer] = {}
  named: list[types.Answer] = []
  for r in group:
    if r is None:
      named.append(None)
    else:
      root = class_of[_key(r)]
      key = (root, r.unit if len(units[root]) > 1 else '')
      named.append(names.setdefault(key, r.answer()))
  return named


def _bare_pairs(readings: Sequence[Reading]):
  """5 and x = 5, where no y = 5 competes for it."""
  labels = collections.defaultdict(set)
  for reading in readings:
    labels[reading.value].add(reading.label)
  for value, found in labels.items():
    if '' in found and len(found) == 2:
      yield tuple(_key(Reading(value, label)) for label in found)
