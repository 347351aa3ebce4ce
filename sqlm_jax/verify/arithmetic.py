"""The value of an arithmetic expression, for diagnosis and evaluation.

Training never sees it: votes are checked against it after the fact.
"""

import ast
import fractions
import math
import operator

_OPERATORS = {
  ast.Add: operator.add,
  ast.Sub: operator.sub,
  ast.Mult: operator.mul,
  ast.Div: operator.truediv,
}
_LONGEST = 200  # characters; keeps hostile text from costing time


def value(expression: str) -> fractions.Fraction | None:
  """The exact value of digits joined by + - * / and parentheses.

  Returns:
    None for anything else, and for a division by zero.
  """
  text = expression.replace('×', '*').replace('\u2212', '-').strip()
  if len(text) > _LONGEST:
    return None
  try:
    return _value(ast.parse(text, mode='eval').body, text)
  except (SyntaxError, ValueError, ZeroDivisionError, RecursionError):
    return None


def _value(node: ast.expr, text: str) -> fractions.Fraction:
  match node:
    case ast.Constant(value=bool()):
      pass
    case ast.Constant(value=int() as constant):
      return fractions.Fraction(constant)
    case ast.Constant(value=float() as constant) if math.isfinite(constant):
      # From its digits: a float has 17 of them.
      return fractions.Fraction(ast.get_source_segment(text, node))
    case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
      return _OPERATORS[type(op)](_value(left, text), _value(right, text))
    case ast.UnaryOp(op=ast.USub(), operand=operand):
      return -_value(operand, text)
  raise ValueError(f'{ast.dump(node)}: expected + - * / of numbers')
