"""The value of an arithmetic expression, for diagnosis and evaluation.

Training never sees it: votes are checked against it after the fact.
"""

import ast
import fractions
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
    return _value(ast.parse(text, mode='eval').body)
  except (SyntaxError, ValueError, ZeroDivisionError, RecursionError):
    return None


def _value(node: ast.expr) -> fractions.Fraction:
  match node:
    case ast.Constant(value=int() | float() as constant) if not isinstance(
      constant, bool
    ):
      return fractions.Fraction(str(constant))
    case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
      return _OPERATORS[type(op)](_value(left), _value(right))
    case ast.UnaryOp(op=ast.USub(), operand=operand):
      return -_value(operand)
  raise ValueError(f'{ast.dump(node)}: expected + - * / of numbers')
