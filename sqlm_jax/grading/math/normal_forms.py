"""Normal forms and exact comparison of expressions; runs in workers."""

import dataclasses
import re

import sympy
from sympy import printing

from sqlm_jax.grading import answers
from sqlm_jax.grading.math import joiners, parser, plain_text, units, vocabulary

_MAX_PASSES = 4
_DIGITS = 60
# Values with a larger relative difference are different. Closer values are
# compared algebraically.
_RELATIVE_DIFFERENCE = sympy.Float(10) ** -30
_SAMPLES = (
  (sympy.Rational(17, 7), sympy.Rational(23, 11)),
  (sympy.Rational(-29, 13), sympy.Rational(-5, 3)),
  (sympy.Rational(3, 19), sympy.Rational(-41, 17)),
)


def expression(text: str) -> plain_text.Value:
  """Parses an expression to a number or to the text of its normal form."""
  number = answers.number(text)
  return _normal(parser.Parser(text).parse()) if number is None else number


def is_close(
  value: plain_text.Value, target: plain_text.F, distance: plain_text.F
) -> bool:
  """Returns True if a value is a number within `distance` of the target."""
  if not isinstance(value, plain_text.F):
    number = parser.Parser(value).parse().evalf(_DIGITS)
    if not number.is_Float:
      return False
    value = plain_text.F(str(number))
  return abs(value - target) <= distance


WITH_SYMPY = units.ExpressionParser(expression, is_close)


class _Printer(printing.StrPrinter):
  """Prints constants as the parser reads them, in which E and I are letters."""

  def _print_Exp1(self, expr: sympy.Expr) -> str:
    return 'e'

  def _print_ImaginaryUnit(self, expr: sympy.Expr) -> str:
    return 'i'


_to_text = _Printer().doprint


def _normal(value: sympy.Expr) -> plain_text.Value:
  for _ in range(_MAX_PASSES):  # one pass may enable further simplification
    before, value = value, _simplified(value).rewrite(sympy.factorial)
    if value == before:
      break
  if value.has(sympy.nan, sympy.zoo):
    raise plain_text.ParseError('undefined')
  if value.has(parser.DEGREE):
    raise plain_text.ParseError('degrees')
  if isinstance(value, sympy.Rational):
    value = parser.bounded(value)
    return plain_text.F(int(value.p), int(value.q))
  text = _to_text(value)
  vocabulary.tokens(text)  # raises if our parser cannot read sympy's output
  return text


def _simplified(value: sympy.Expr) -> sympy.Expr:
  """Simplifies; rational functions become expanded, canceled quotients."""
  if not value.free_symbols:
    return sympy.radsimp(sympy.sqrtdenest(sympy.expand(sympy.simplify(value))))
  if value.is_rational_function():
    return sympy.cancel(value)
  return sympy.expand(sympy.simplify(value))


@dataclasses.dataclass(frozen=True)
class _Relation:
  """An equation or inequality."""

  sign: str
  difference: sympy.Expr  # left side minus right side


# An expression, the parts of a tuple, or a relation.
_Parts = sympy.Expr | tuple | _Relation


def same(left: str, right: str) -> bool:
  """Returns True if two canonical answers are proven equal.

  Values whose leading digits differ are different. Other values are equal only
  if sympy finds that their difference is exactly 0. Two equations are equal if
  their differences, left side minus right side, are multiples of each other.
  """
  try:
    return _same(_parts(left), _parts(right))
  except plain_text.ParseError:  # such as a function's name
    return False


def _parts(text: str) -> _Parts:
  """Parses an expression, a tuple or a relation."""
  if (
    text[0] == '('
    and text[-1] == ')'  # not an interval, (1, 2]
    and plain_text.closing(text, 0) == len(text) - 1
    and ', ' in text
  ):
    elements, _ = joiners.split(text[1:-1])
    return tuple(_parts(element.strip()) for element in elements)
  signs = re.findall(' (?:<=?|=) ', text)
  if len(signs) > 1:  # 1 < x <= 2
    raise plain_text.ParseError('mixed')
  if signs:
    left, right = map(_parts, text.split(signs[0]))
    if isinstance(left, sympy.Expr) and isinstance(right, sympy.Expr):
      return _Relation(signs[0], left - right)
    raise plain_text.ParseError('mixed')
  return parser.Parser(text).parse()


def _same(left: _Parts, right: _Parts) -> bool:
  match left, right:
    case tuple(), tuple():
      return len(left) == len(right) and all(map(_same, left, right))
    case _Relation(), _Relation():
      return left.sign == right.sign and _is_multiple(
        left.difference, right.difference, positive=left.sign != ' = '
      )
    case sympy.Expr(), sympy.Expr():
      return _equal(left, right)
  return False


def _equal(left: sympy.Expr, right: sympy.Expr) -> bool:
  if left == right:
    return True
  if left.free_symbols != right.free_symbols:
    return False
  for values in _SAMPLES:
    first, second = _at(left, values), _at(right, values)
    if first is not None and second is not None and not _near(first, second):
      return False
  difference = sympy.simplify(left - right)
  # `equals` uses minimal polynomials to prove that an algebraic number is 0.
  return difference == 0 or (
    not difference.free_symbols
    and sympy.expand_complex(difference).equals(0) is True
  )


def _is_multiple(left: sympy.Expr, right: sympy.Expr, positive: bool) -> bool:
  if left.free_symbols != right.free_symbols or left == 0 or right == 0:
    return False
  ratios = [_at(left / right, values) for values in _SAMPLES]
  ratios = [ratio for ratio in ratios if ratio is not None]
  if any(not _near(ratio, ratios[0]) for ratio in ratios):
    return False
  ratio = sympy.simplify(left / right)
  return bool(
    not ratio.free_symbols
    and ratio.is_finite
    and (ratio.is_positive if positive else ratio.is_nonzero)
  )


def _at(
  value: sympy.Expr, samples: tuple[sympy.Rational, sympy.Rational]
) -> sympy.Expr | None:
  """Returns the value at sample values of the symbols, None if undefined."""
  symbols = sorted(value.free_symbols, key=str)
  point: dict[sympy.Basic | complex, sympy.Expr | complex] = {
    symbol: samples[i % 2] + sympy.Rational(i, 31)
    for i, symbol in enumerate(symbols)
  }
  number = value.subs(point).evalf(_DIGITS)
  return number if number.is_number and number.is_finite else None


def _near(left: sympy.Expr, right: sympy.Expr) -> bool:
  size = max(abs(left), abs(right))
  return bool(abs(left - right) <= _RELATIVE_DIFFERENCE * size)
