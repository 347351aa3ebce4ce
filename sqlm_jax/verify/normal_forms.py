"""Normal forms of expressions, and exact comparison. It runs in workers."""

import re

import sympy
from sympy import printing

from sqlm_jax.verify import (
  answers,
  expressions,
  joining,
  notation,
  units,
  words,
)

_MOST_PASSES = 4
_DIGITS = 60
# Two values that differ by more are different. Whether closer ones are equal
# is for algebra to say.
_RELATIVE_DIFFERENCE = sympy.Float(10) ** -30
_SAMPLES = (
  (sympy.Rational(17, 7), sympy.Rational(23, 11)),
  (sympy.Rational(-29, 13), sympy.Rational(-5, 3)),
  (sympy.Rational(3, 19), sympy.Rational(-41, 17)),
)


def expression(text: str) -> notation.Value:
  """Reads an expression into a number, or the text of its normal form."""
  number = answers.number(text)
  return _normal(expressions.Parser(text).parse()) if number is None else number


def is_close(
  value: notation.Value, target: notation.F, distance: notation.F
) -> bool:
  """Returns whether a number in normal form is that close to the target."""
  if not isinstance(value, notation.F):
    found = expressions.Parser(value).parse().evalf(_DIGITS)
    if not found.is_Float:
      return False
    value = notation.F(str(found))
  return abs(value - target) <= distance


LEAF = units.Leaf(expression, is_close)


class _Printer(printing.StrPrinter):
  """Prints the constants as they are read: E and I are letters."""

  def _print_Exp1(self, expr):
    return 'e'

  def _print_ImaginaryUnit(self, expr):
    return 'i'


def _normal(value: sympy.Expr) -> notation.Value:
  for _ in range(_MOST_PASSES):  # one is not always its own fixed point
    before, value = value, _simplified(value).rewrite(sympy.factorial)
    if value == before:
      break
  if value.has(sympy.nan, sympy.zoo):
    raise notation.Unreadable('undefined')
  if value.has(expressions.DEGREE):
    raise notation.Unreadable('degrees')
  if value.is_Rational:
    value = expressions.bounded(value)
    return notation.F(int(value.p), int(value.q))
  text = _Printer().doprint(value)
  words.tokens(text)  # raises if sympy writes what we do not read
  return text


def _simplified(value: sympy.Expr) -> sympy.Expr:
  """Quotients of polynomials have one form, p/q expanded and cancelled."""
  if not value.free_symbols:
    return sympy.radsimp(sympy.sqrtdenest(sympy.expand(sympy.simplify(value))))
  if value.is_rational_function():
    return sympy.cancel(value)
  return sympy.expand(sympy.simplify(value))


def same(one: str, other: str) -> bool:
  """Returns whether two canonical answers are surely equal.

  Values are compared with 60 digits, relative to their size, before sympy is
  asked; only what sympy finds to be exactly 0 is equal. Two equations are
  equal if their differences of sides are multiples of each other.
  """
  try:
    return _same(_parts(one), _parts(other))
  except notation.Unreadable:  # the name of a function is no expression
    return False


def _parts(text: str):
  """Returns an expression, a tuple of parts, or a relation of two sides."""
  if (
    text[0] == '('
    and text[-1] == ')'  # not an interval, (1, 2]
    and notation.closing(text, 0) == len(text) - 1
    and ', ' in text
  ):
    elements, _ = joining.split(text[1:-1])
    return tuple(_parts(element.strip()) for element in elements)
  signs = re.findall(' (?:<=?|=) ', text)
  if len(signs) > 1:  # 1 < x <= 2
    raise notation.Unreadable('mixed')
  if signs:
    left, right = map(_parts, text.split(signs[0]))
    if isinstance(left, sympy.Expr) and isinstance(right, sympy.Expr):
      return [signs[0], left - right]
    raise notation.Unreadable('mixed')
  return expressions.Parser(text).parse()


def _same(one, other) -> bool:
  match one, other:
    case tuple(), tuple():
      return len(one) == len(other) and all(map(_same, one, other))
    case [str(sign), difference], [str(other_sign), other_difference]:
      return sign == other_sign and _is_multiple(
        difference, other_difference, positive=sign != ' = '
      )
    case sympy.Expr(), sympy.Expr():
      return _equal(one, other)
  return False


def _equal(one: sympy.Expr, other: sympy.Expr) -> bool:
  if one == other:
    return True
  if one.free_symbols != other.free_symbols:
    return False
  for values in _SAMPLES:
    first, second = _at(one, values), _at(other, values)
    if first is not None and second is not None and not _near(first, second):
      return False
  difference = sympy.simplify(one - other)
  # Of numbers, sympy knows minimal polynomials.
  return difference == 0 or (
    not difference.free_symbols
    and sympy.expand_complex(difference).equals(0) is True
  )


def _is_multiple(one: sympy.Expr, other: sympy.Expr, positive: bool) -> bool:
  if one.free_symbols != other.free_symbols or one == 0 or other == 0:
    return False
  ratios = [_at(one / other, values) for values in _SAMPLES]
  ratios = [ratio for ratio in ratios if ratio is not None]
  if any(not _near(ratio, ratios[0]) for ratio in ratios):
    return False
  ratio = sympy.simplify(one / other)
  return bool(
    not ratio.free_symbols
    and ratio.is_finite
    and (ratio.is_positive if positive else ratio.is_nonzero)
  )


def _at(value: sympy.Expr, samples) -> sympy.Expr | None:
  """Returns the number at one choice of the symbols, None if undefined."""
  symbols = sorted(value.free_symbols, key=str)
  point = {
    symbol: samples[i % 2] + sympy.Rational(i, 31)
    for i, symbol in enumerate(symbols)
  }
  found = value.subs(point).evalf(_DIGITS)
  return found if found.is_number and found.is_finite else None


def _near(one: sympy.Expr, other: sympy.Expr) -> bool:
  size = max(abs(one), abs(other))
  return bool(abs(one - other) <= _RELATIVE_DIFFERENCE * size)
