"""Expressions: our own parser, and what sympy makes of them. Runs in workers.

sympify, parse_expr and latex2sympy are not used: they evaluate the text as
Python, or guess (2(3) would be 5, and 3 1/2 would be 2).
"""

import re
from typing import NamedTuple

import sympy

from sqlm_jax.verify import answers, notation

FUNCTIONS = {
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
CONSTANTS = {
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


def is_product(word: str) -> bool:
  """Whether letters in a row are factors, as in 2xy; 'no' is a word."""
  return len(word) < 4 and set(word) <= set('abcxyz')


def tokens(text: str) -> list[_Token]:
  """Takes an expression apart. Raises `Unreadable` at an unknown word."""
  found, place = [], 0
  while place < len(text):
    match = _TOKEN.match(text, place)
    if match is None:
      raise notation.Unreadable('syntax')
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
    inside = _Token('sign', '{'), _term(below[1:]), _Token('sign', '}')
    return [_Token('word', word), _Token('sign', '_'), *inside]
  if word in FUNCTIONS or word in CONSTANTS or word in _TWO_ARGUMENTS:
    return [_Token('word', word + below)]
  if len(word) > 1 and not is_product(word):
    raise notation.Unreadable('word')
  *factors, last = word
  return [_Token('word', factor) for factor in (*factors, last + below)]


def _term(text: str) -> _Token:
  return _Token('number' if text.isdigit() else 'word', text)


class Parser:
  """Recursive descent from tokens to a sympy expression.

  sum = product {(+ | -) product};  product = signed {[* | /] signed}
  signed = {- | +} power;           power = postfix [^ signed]
  postfix = atom {!};               atom = number | symbol | call | (sum)
  """

  def __init__(self, text: str):
    self._tokens = [*tokens(text), _END]
    self._place = 0

  def parse(self) -> sympy.Expr:
    result = self._sum()
    if self._next() != _END:
      raise notation.Unreadable('syntax')
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
      raise notation.Unreadable('syntax')

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

  def _signed(self, mixed: bool = True) -> sympy.Expr:
    """Not `mixed` where a number ends with its digits: x^2\\frac{1}{2}."""
    if sign := self._take('+', '-'):
      value = self._signed(mixed)
      return -value if sign == '-' else value
    return self._power(mixed)

  def _power(self, mixed: bool = True) -> sympy.Expr:
    base = self._postfix(mixed)
    return _power(base, self._signed(mixed=False)) if self._take('^') else base

  def _postfix(self, mixed: bool) -> sympy.Expr:
    value = self._atom(mixed)
    while self._take('!'):
      value = _factorial(value)
    return value

  def _atom(self, mixed: bool = True) -> sympy.Expr:
    kind, text = self._next()
    if kind == 'number':
      return self._mixed(_rational(text)) if mixed else _rational(text)
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
    raise notation.Unreadable('syntax')

  def _mixed(self, whole: sympy.Expr) -> sympy.Expr:
    """3\\frac{1}{2} is 7/2, but 3\\frac{x}{2} a product."""
    # An argument may cut a token in two.
    before = self._place, list(self._tokens)
    if whole.is_Integer and self._peek() == _Token('word', 'frac'):
      self._next()
      above, below = self._argument(), self._argument()
      if above.is_Integer and below.is_Integer and 0 < above < below:
        return whole + above / below
    self._place, self._tokens = before
    return whole

  def _argument(self) -> sympy.Expr:
    """{...}, or one digit or letter: \\frac12."""
    kind, text = self._peek()
    if kind == 'number' and text.isdigit() and len(text) > 1:
      self._tokens[self._place] = _Token('number', text[1:])
      return sympy.Integer(text[0])
    return self._atom(mixed=False)

  def _word(self, text: str) -> sympy.Expr:
    if text == 'frac':
      return _ratio(self._argument(), self._argument())
    if text == 'binom':
      above, below = self._argument(), self._argument()
      return _binomial(above, below)
    if text in FUNCTIONS:
      return self._call(text)
    return CONSTANTS.get(text) or sympy.Symbol(text, real=True)

  def _call(self, name: str) -> sympy.Expr:
    """sin(x), \\sin 2x, \\sin^2 x, \\sqrt[3]{x}, \\log_2 8."""
    if name == 'sqrt':
      return self._root()
    base = self._argument() if self._take('_') else None
    exponent = self._signed(mixed=False) if self._take('^') else None
    value = FUNCTIONS[name](self._call_argument())
    if base is not None:
      value = value / sympy.log(base)
    return value if exponent is None else _power(value, exponent)

  def _call_argument(self) -> sympy.Expr:
    if self._peek() in (_Token('sign', '('), _Token('sign', '{')):
      return self._atom()
    value = self._power()
    while self._peek().kind == 'word' and self._peek().text not in FUNCTIONS:
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
    raise notation.Unreadable('too_large')
  value = notation.F(text)
  return _bounded(sympy.Rational(value.numerator, value.denominator))


def _bounded(value: sympy.Expr) -> sympy.Expr:
  bits = value.is_Rational and value.p.bit_length() + value.q.bit_length()
  if bits > _MOST_BITS:
    raise notation.Unreadable('too_large')
  return value


def _ratio(above: sympy.Expr, below: sympy.Expr) -> sympy.Expr:
  if below.is_zero:
    raise notation.Unreadable('division')
  return above / below


def _power(base: sympy.Expr, exponent: sympy.Expr) -> sympy.Expr:
  if base.is_zero and not exponent.is_positive:
    raise notation.Unreadable('division')
  if base.is_Rational and exponent.is_Rational and base not in (0, 1, -1):
    bits = max(abs(base.p), base.q).bit_length()
    if abs(exponent) * bits > _MOST_BITS:
      raise notation.Unreadable('too_large')
  return base**exponent


def _factorial(value: sympy.Expr) -> sympy.Expr:
  if value.is_Integer and not 0 <= value <= 300:
    raise notation.Unreadable('too_large')
  return sympy.factorial(value)


def _binomial(above: sympy.Expr, below: sympy.Expr) -> sympy.Expr:
  if not all(x.is_Integer and abs(x) <= 300 for x in (above, below)):
    raise notation.Unreadable('too_large')
  return sympy.binomial(above, below)


def expression(text: str) -> notation.Value:
  """The leaf of a worker: the normal form of an expression."""
  number = answers.number(text)
  return _normal(Parser(text).parse()) if number is None else number


def _normal(value: sympy.Expr) -> notation.Value:
  """A Fraction, or the text of what sympy simplifies it to."""
  for _ in range(_MOST_PASSES):  # one is not always its own fixed point
    before, value = value, _simplified(value).rewrite(sympy.factorial)
    if value == before:
      break
  if value.has(sympy.nan, sympy.zoo):
    raise notation.Unreadable('undefined')
  if value.is_Rational:
    value = _bounded(value)
    return notation.F(int(value.p), int(value.q))
  return sympy.sstr(value)


def _simplified(value: sympy.Expr) -> sympy.Expr:
  """Quotients of polynomials have one form, p/q expanded and cancelled."""
  if not value.free_symbols:
    return sympy.radsimp(sympy.sqrtdenest(sympy.expand(sympy.simplify(value))))
  if value.is_rational_function():
    return sympy.cancel(value)
  return sympy.expand(sympy.simplify(value))


def short(reading: notation.Reading) -> notation.Reading:
  if len(str(reading.answer())) > notation.LONGEST:
    raise notation.Unreadable('too_large')
  return reading
