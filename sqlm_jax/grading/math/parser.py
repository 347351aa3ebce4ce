"""A parser of mathematical expressions, which runs in worker processes.

sympify, parse_expr and latex2sympy are not used because they evaluate the text
as Python or guess (2(3) would be 5, and 3 1/2 would be 2).
"""

import math
from collections.abc import Iterator, Sequence
from typing import TypeVar

import sympy

from sqlm_jax.grading.math import plain_text, vocabulary

_FUNCTIONS = {
  'cbrt': lambda value: _root(value, sympy.Integer(3)),
  'abs': sympy.Abs,
  'exp': sympy.exp,
  'ln': sympy.log,
  'log': sympy.log,
  'factorial': sympy.factorial,
  'sin': sympy.sin,
  'cos': sympy.cos,
  'tan': sympy.tan,
  'cot': sympy.cot,
  'sec': sympy.sec,
  'csc': sympy.csc,
  'arcsin': sympy.asin,
  'arccos': sympy.acos,
  'arctan': sympy.atan,
  'arccot': sympy.acot,
  'arcsec': sympy.asec,
  'arccsc': sympy.acsc,
  'sinh': sympy.sinh,
  'cosh': sympy.cosh,
  'tanh': sympy.tanh,
  'asinh': sympy.asinh,
  'acosh': sympy.acosh,
  'atanh': sympy.atanh,
}
_FUNCTION_NAMES = ('f', 'g', 'h', 'Gamma')  # f(x) is not a product
_OF_ANGLES = ('sin', 'cos', 'tan', 'cot', 'sec', 'csc')
_CONSTANTS = {
  'pi': sympy.pi,
  'e': sympy.E,
  'i': sympy.I,
  'oo': sympy.oo,
  'infinity': sympy.oo,
}
DEGREE = sympy.Symbol('°', positive=True)
_MAX_BARS = 8
Expr = TypeVar('Expr', bound=sympy.Expr)
MAX_BITS = 1200  # maximum size of a number, about 360 digits


class Parser:
  """A recursive descent parser from tokens to a sympy expression.

  sum = product {(+ | -) product};  product = signed {[* | /] signed}
  signed = {- | +} power;           power = postfix [^ signed]
  postfix = atom [!] [°];           atom = number | symbol | call | (sum)

  All ways to pair absolute value bars are tried. The text cannot be parsed if
  no pairing is valid, or if two valid pairings have different meanings.
  """

  def __init__(self, text: str):
    self._text = [*vocabulary.tokens(text), vocabulary.END]
    self._tokens: list[vocabulary.Token] = []
    self._position = 0

  def parse(self) -> sympy.Expr:
    results, error = [], plain_text.ParseError('syntax')
    for pairing in _pairings(self._text):
      self._tokens, self._position = pairing, 0
      try:
        results.append(self._all())
      except plain_text.ParseError as problem:
        error = problem
    if not results:
      raise error
    if any(result != results[0] for result in results):
      raise plain_text.ParseError('bars')
    return results[0]

  def _all(self) -> sympy.Expr:
    result = self._sum()
    if self._next() != vocabulary.END:
      raise plain_text.ParseError('syntax')
    return result

  def _peek(self) -> vocabulary.Token:
    return self._tokens[self._position]

  def _next(self) -> vocabulary.Token:
    self._position += self._position < len(self._tokens)
    return self._tokens[self._position - 1]

  def _take(self, *signs: str) -> str:
    """Consumes and returns the next token if it is one of `signs`, else ''."""
    kind, text = self._peek()
    return self._next().text if kind == 'sign' and text in signs else ''

  def _expect(self, sign: str) -> None:
    if not self._take(sign):
      raise plain_text.ParseError('syntax')

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
    return kind == 'word' or (kind == 'sign' and text in _OPENING)

  def _signed(self, mixed: bool = True) -> sympy.Expr:
    """Parses a signed power.

    Args:
      mixed: True if a number and a following fraction may form a mixed number,
        as in 3\\frac{1}{2}, but not in x^2\\frac{1}{2}.
    """
    if sign := self._take('+', '-'):
      value = self._signed(mixed)
      return -value if sign == '-' else value
    return self._power(mixed)

  def _power(self, mixed: bool = True) -> sympy.Expr:
    base = self._postfix(mixed)
    if not self._take('^'):
      return base
    exponent = self._signed(mixed=False)
    # f^{-1} may be the inverse of f or 1/f, and f^2(x) is not a product.
    if (
      isinstance(base, sympy.Symbol)
      and self._peek() == ('sign', '(')
      and (exponent == -1 or base.name in _FUNCTION_NAMES)
    ):
      raise plain_text.ParseError('function')
    return _power(base, exponent)

  def _postfix(self, mixed: bool) -> sympy.Expr:
    is_call = self._peek().text in _FUNCTIONS
    value = self._atom(mixed)
    if self._take('!'):
      value = _factorial(value)
      if self._take('!'):  # 3!! may be a double factorial or (3!)!
        raise plain_text.ParseError('syntax')
    if self._take('°'):
      # In sin(30)°, the degrees are ambiguous, and 3°C is a temperature.
      if is_call or self._peek().text in ('C', 'F', 'K'):
        raise plain_text.ParseError('syntax')
      value = value * DEGREE
    return value

  def _atom(self, mixed: bool = True) -> sympy.Expr:
    kind, text = self._next()
    if kind == 'number':
      return self._mixed(_rational(text)) if mixed else _rational(text)
    if kind == 'word':
      return self._word(text)
    if kind == 'sign' and text in _OPENING:
      value = self._sum()
      self._expect(_OPENING[text])
      return sympy.Abs(value) if text == _OPEN_BAR else value
    raise plain_text.ParseError('syntax')

  def _mixed(self, number: sympy.Expr) -> sympy.Expr:
    """Parses 3\\frac{1}{2} as 7/2, but 3\\frac{x}{2} as a product."""
    # `_argument` may split a token.
    before = self._position, list(self._tokens)
    if number.is_Integer and self._peek() == vocabulary.Token('word', 'frac'):
      self._next()
      above, below = self._argument(), self._argument()
      if above.is_Integer and below.is_Integer and 0 < above < below:
        if self._peek() == vocabulary.Token('word', 'frac'):
          raise plain_text.ParseError('syntax')  # 1½½
        return number + above / below
    self._position, self._tokens = before
    return number

  def _argument(self) -> sympy.Expr:
    """Parses {...}, or one digit or letter as in \\frac12."""
    kind, text = self._peek()
    if kind == 'number' and text.isdigit() and len(text) > 1:
      self._tokens[self._position] = vocabulary.Token('number', text[1:])
      return sympy.Integer(text[0])
    return self._atom(mixed=False)

  def _word(self, text: str) -> sympy.Expr:
    if text == 'frac':
      return _ratio(self._argument(), self._argument())
    if text == 'binom':
      above, below = self._argument(), self._argument()
      return _binomial(above, below)
    if text == 'sqrt':
      return self._root()
    if text in _FUNCTIONS:
      return self._call(text)
    if self._is_call(text):
      raise plain_text.ParseError('function')
    return _CONSTANTS.get(text) or sympy.Symbol(text, real=True)

  def _is_call(self, name: str) -> bool:
    """Returns True if a name is a function's, as in f(x + 1), E[X], F(3)."""
    if self._peek() not in _BRACKETS:
      return False
    if name in _FUNCTION_NAMES:
      return True
    inside, *after = self._tokens[self._position + 1 : self._position + 3]
    is_letter = inside.kind == 'word' and inside.text not in _FUNCTIONS
    is_upper = name[0].isupper() or name in vocabulary.SYMBOLS
    return (
      name not in _CONSTANTS
      and after in ([('sign', ')')], [('sign', ']')])
      and (is_letter or (inside.kind == 'number' and is_upper))
    )

  def _call(self, name: str) -> sympy.Expr:
    """Parses sin(x), \\sin 2x, \\sin^2 x, \\sin^{-1} x and \\log_2 8."""
    base = None
    if self._take('_'):
      if name != 'log':
        raise plain_text.ParseError('syntax')
      base = self._argument()
      if base.is_zero or base.is_negative:
        raise plain_text.ParseError('division')
    exponent = self._signed(mixed=False) if self._take('^') else None
    if exponent == -1 and name in vocabulary.INVERSES:
      name, exponent = vocabulary.INVERSES[name], None
    elif exponent is not None and not (
      exponent.is_Integer and exponent.is_positive
    ):
      raise plain_text.ParseError('syntax')
    argument = self._call_argument()
    if name in _OF_ANGLES:
      argument = argument.subs(DEGREE, sympy.pi / 180)
    if name == 'arccot' and argument.is_negative:  # conventions differ
      raise plain_text.ParseError('function')
    value = _FUNCTIONS[name](argument)
    if base is not None:
      value = _ratio(value, sympy.log(base))
    return value if exponent is None else _power(value, exponent)

  def _call_argument(self) -> sympy.Expr:
    if self._peek().kind == 'sign' and self._peek().text in _OPENING:
      return self._atom()
    value = self._power()
    while self._peek().kind == 'word' and self._peek().text not in _FUNCTIONS:
      value = value * self._power()
    kind, text = self._peek()
    if kind == 'sign' and (text == '/' or text in _OPENING):
      raise plain_text.ParseError('syntax')  # \sin x/2 is ambiguous
    return value

  def _root(self) -> sympy.Expr:
    degree = sympy.Integer(2)
    if self._take('['):
      degree = self._sum()
      self._expect(']')
    return _root(self._argument_of_root(), degree)

  def _argument_of_root(self) -> sympy.Expr:
    kind, text = self._peek()
    if kind == 'number':  # √12 is not √1 times 2
      self._next()
      return _rational(text)
    return self._atom()


_BRACKETS = (vocabulary.Token('sign', '('), vocabulary.Token('sign', '['))
_OPEN_BAR, _CLOSE_BAR = '|<', '>|'
_OPENING = {'(': ')', '[': ']', '{': '}', _OPEN_BAR: _CLOSE_BAR}


def _pairings(
  tokens: Sequence[vocabulary.Token],
) -> Iterator[list[vocabulary.Token]]:
  """Yields the tokens with bars marked as opening or closing, in all ways."""
  bars = [i for i, token in enumerate(tokens) if token == ('sign', '|')]
  if len(bars) > _MAX_BARS:
    raise plain_text.ParseError('bars')
  for signs in _balanced(len(bars), 0):
    paired = list(tokens)
    for i, sign in zip(bars, signs, strict=True):
      paired[i] = vocabulary.Token('sign', sign)
    yield paired


def _balanced(remaining: int, depth: int) -> Iterator[tuple[str, ...]]:
  if not remaining:
    if not depth:
      yield ()
    return
  for rest in _balanced(remaining - 1, depth + 1):
    yield (_OPEN_BAR, *rest)
  if depth:
    for rest in _balanced(remaining - 1, depth - 1):
      yield (_CLOSE_BAR, *rest)


def _rational(text: str) -> sympy.Expr:
  """Parses an exact number. Exponents are bounded before they are used."""
  _, _, exponent = text.lower().partition('e')
  if len(exponent.lstrip('+-')) > 3:
    raise plain_text.ParseError('too_large')
  value = plain_text.F(text)
  return bounded(sympy.Rational(value.numerator, value.denominator))


def bounded(value: Expr) -> Expr:
  """Returns the value; raises if it is a number with too many digits."""
  if (
    isinstance(value, sympy.Rational)
    and value.p.bit_length() + value.q.bit_length() > MAX_BITS
  ):
    raise plain_text.ParseError('too_large')
  return value


def _ratio(above: sympy.Expr, below: sympy.Expr) -> sympy.Expr:
  if below.is_zero:
    raise plain_text.ParseError('division')
  return above / below


def _power(base: sympy.Expr, exponent: sympy.Expr) -> sympy.Expr:
  if base.is_zero and not exponent.is_positive:
    raise plain_text.ParseError('division')
  if base.is_infinite and exponent.is_zero:
    raise plain_text.ParseError('division')
  if (
    isinstance(base, sympy.Rational)
    and isinstance(exponent, sympy.Rational)
    and base not in (0, 1, -1)
  ):
    bits = abs(exponent) * math.log2(max(abs(base.p), base.q))
    if bits > MAX_BITS:
      raise plain_text.ParseError('too_large')
  return base**exponent


def _root(value: sympy.Expr, degree: sympy.Expr) -> sympy.Expr:
  exponent = _ratio(sympy.S.One, degree)
  # The real root: \sqrt[3]{-8} is -2, and \sqrt[3]{-x} is -\sqrt[3]{x}.
  if degree.is_odd and (
    value.is_negative
    or (
      value.is_extended_real
      and value.is_nonnegative is None
      and value.could_extract_minus_sign()
    )
  ):
    return -_power(-value, exponent)
  return _power(value, exponent)


def _factorial(value: sympy.Expr) -> sympy.Expr:
  if value.is_Integer and not 0 <= value <= 300:
    raise plain_text.ParseError('too_large')
  return sympy.factorial(value)


def _binomial(above: sympy.Expr, below: sympy.Expr) -> sympy.Expr:
  if not all(x.is_Integer and abs(x) <= 300 for x in (above, below)):
    raise plain_text.ParseError('too_large')
  return sympy.binomial(above, below)
