"""Evaluates arithmetic expressions, for diagnostics and evaluation.

Training never uses the values: majority votes are only compared with them
afterwards.
"""

import ast
import math
import operator
import re
from collections.abc import Callable
from fractions import Fraction as F

from sqlm_jax.grading.math import plain_text

_OPERATORS: dict[type[ast.operator], Callable[[F, F], F]] = {
  ast.Add: operator.add,
  ast.Sub: operator.sub,
  ast.Mult: operator.mul,
  ast.Div: operator.truediv,
}
_MAX_LENGTH = 200  # characters; bounds the time that hostile text can take
_ALLOWED = re.compile(r'[\d\s.+\-*/()eE]*', re.ASCII)
_PLAIN = tuple(
  (re.compile(pattern), new)
  for pattern, new in (
    (r'\s*=\s*[?_]*$', ''),  # 3 + 4 = ?
    (r'(?<=[\d)])\s+[xX]\s+(?=[\d(])', '*'),
    (r'(?<![\d.,])[1-9]\d{0,2}(?:,\d{3})+(?![\d,])',
     lambda match: match[0].replace(',', '')),
    (r'(\d+)\s*\\frac\{(\d+)\}\{(\d+)\}', r'(\1+\2/\3)'),
    (r'\\frac\{(\d+)\}\{(\d+)\}', r'(\1/\2)'),
  )
)  # fmt: skip


def value(expression: str) -> F | None:
  """Returns the exact value of numbers joined by + - * / and parentheses.

  Signs and digits may be ASCII, Unicode, full-width or LaTeX. The text may end
  in '= ?'.

  Returns:
    The value, or None for any other text and for a division by zero.
  """
  if len(expression.strip()) > _MAX_LENGTH:
    return None
  try:
    text = plain_text.clean(expression)
    for pattern, new in _PLAIN:
      text = pattern.sub(new, text)
    if not _ALLOWED.fullmatch(text):
      return None
    return _value(ast.parse(text, mode='eval').body, text)
  except (SyntaxError, ValueError, ZeroDivisionError, RecursionError):
    return None


def _value(node: ast.expr, text: str) -> F:
  match node:
    case ast.Constant(value=int() as constant):
      return F(constant)
    case ast.Constant(value=float() as constant) if math.isfinite(constant):
      # Uses the source digits, because a float keeps only 17 of them.
      digits = ast.get_source_segment(text, node)
      assert digits is not None  # `text` is the source of `node`
      return F(digits)
    case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
      return _OPERATORS[type(op)](_value(left, text), _value(right, text))
    case ast.UnaryOp(op=ast.USub(), operand=operand):
      return -_value(operand, text)
    case ast.UnaryOp(op=ast.UAdd(), operand=operand):
      return _value(operand, text)
  raise ValueError(f'{ast.dump(node)}: expected + - * / of numbers')
