"""Compares program outputs and checks the unit tests of programs.

A program reads an input and writes an output. The output is compared with the
expected output as in programming contests, see `same_output`.
"""

import collections
import decimal
import math
import re
from collections.abc import Iterable, Sequence

from sqlm_jax.game import types

PASSED, WRONG, ERROR, TIMEOUT, LIMIT = STATUSES = (
  'passed',
  'wrong',
  'error',
  'timeout',
  'limit',
)

_INTEGER = re.compile(r'[+-]?\d+')
_DECIMAL = re.compile(
  r'[+-]?(?:(?:\d+\.\d*|\.\d+)(?:[eE][+-]?\d+)?|\d+[eE][+-]?\d+)'
)
# An integer as Python prints a large float, 1e+16, or a Decimal, 1E+2.
_LARGE = re.compile(r'[+-]?\d(?:\.\d+)?[eE]\+\d{1,2}')
_MAX_NUMBER = 64  # characters; longer tokens are compared as text
_LIST = re.compile(r'\[[^\[\]]*\]')


def same_output(
  expected: str,
  actual: str,
  *,
  absolute: float = 1e-6,
  relative: float = 1e-6,
) -> bool:
  """Returns True if a program's output matches the expected output.

  Lines are compared in order, and so are the tokens within a line. Spaces
  around tokens and empty lines at the end are ignored. Two tokens match if they
  are the same text or the same number:

    expected `1`: an integer allows no tolerance: `1`, `+1`, `01` and `1.0`
      match, `1.0000001` and `1e0` do not. An integer may also be printed as
      Python prints a large float: `1e+16`.
    expected `1.0` or `1e-05`: with a decimal point or an exponent,
      |expected - actual| may be up to max(absolute, relative * |expected|),
      regardless of how either number is printed. nan and inf are not numbers.

  A line that is a flat list, `[1, 2, 3]`, matches `1 2 3`, whichever of the two
  is expected; `[]` does not match an empty line. Commas and quotes elsewhere
  are significant.

  Args:
    expected: the output that the test expects.
    actual: the output of the program.
    absolute: absolute tolerance of a number with a decimal point or exponent.
    relative: relative tolerance, as a fraction of the expected number.
  """
  lines = _lines(expected), _lines(actual)
  return len(lines[0]) == len(lines[1]) and all(
    _same_line(*pair, absolute=absolute, relative=relative)
    for pair in zip(*lines, strict=True)
  )


def _lines(text: str) -> list[str]:
  lines = [line.strip() for line in as_lines(text).rstrip().split('\n')]
  return lines if text.strip() else []


def _same_line(
  expected: str, actual: str, *, absolute: float, relative: float
) -> bool:
  if expected == actual:
    return True
  tokens = _tokens(expected), _tokens(actual)
  return len(tokens[0]) == len(tokens[1]) and all(
    _same_token(*pair, absolute=absolute, relative=relative)
    for pair in zip(*tokens, strict=True)
  )


def _tokens(line: str) -> list[str]:
  if _LIST.fullmatch(line):
    items = line[1:-1].split(',')
    tokens = [item.strip() for item in items]
    # [1, , 2] and ['a b'] have no equivalent with spaces as separators.
    if all(tokens) and not any(len(token.split()) > 1 for token in tokens):
      return [_unquoted(token) for token in tokens]
    return [line] if any(tokens) else ['[]']
  return line.split()


def _unquoted(token: str) -> str:
  quoted = len(token) > 1 and token[0] == token[-1] and token[0] in '"\''
  return token[1:-1] if quoted else token


def _same_token(
  expected: str, actual: str, *, absolute: float, relative: float
) -> bool:
  if expected == actual:
    return True
  if max(len(expected), len(actual)) > _MAX_NUMBER:
    return False
  if _INTEGER.fullmatch(expected):
    return _integer(actual) == int(expected)
  if not _DECIMAL.fullmatch(expected) or not _is_number(actual):
    return False
  wanted, given = float(expected), float(actual)
  if not (math.isfinite(wanted) and math.isfinite(given)):
    return False
  return abs(wanted - given) <= max(absolute, relative * abs(wanted))


def _is_number(token: str) -> bool:
  return bool(_INTEGER.fullmatch(token) or _DECIMAL.fullmatch(token))


def _integer(token: str) -> int | None:
  """Returns the exact value of an integer token such as `1.0`, or None."""
  if _LARGE.fullmatch(token):
    value = decimal.Decimal(token)
    return int(value) if value == int(value) else None
  integer, _, decimals = token.partition('.')
  if _INTEGER.fullmatch(integer) and not decimals.strip('0'):
    return int(integer)
  return None


def as_lines(text: str) -> str:
  """Converts all line ends to newlines, as Python does when it reads text."""
  return text.replace('\r\n', '\n').replace('\r', '\n')


def fraction_passed(results: Sequence[types.Result]) -> float:
  """Returns the fraction of a program's tests that passed; 0.0 if no tests."""
  passed = sum(result.status == PASSED for result in results)
  return passed / len(results) if results else 0.0


def shares_passed(
  table: Sequence[Sequence[types.Result]], *, unsolved: str = 'count'
) -> tuple[float, ...]:
  """Returns the fraction of passed tests for each program.

  If a proposer's test is wrong, no program passes it. Counting such tests makes
  problems look as if they had medium difficulty.

  Args:
    table: results [programs][tests].
    unsolved: treatment of tests that no program passes: 'count', as in the
      paper, or 'leave_out'. All fractions are 0.0 if no test is left.
  """
  counts = passed_by(table)
  kept = [unsolved == 'count' or count > 0 for count in counts]
  return tuple(
    fraction_passed([r for r, keep in zip(row, kept, strict=True) if keep])
    for row in table
  )


def contradictions(
  tests: Sequence[types.TestCase],
) -> tuple[tuple[int, int], ...]:
  """Returns pairs of tests with the same input and different outputs.

  No deterministic program passes both tests. Inputs are the same if they differ
  only in trailing white space or line ends. Each test is paired with the first
  test of the same input.
  """
  first: dict[str, int] = {}
  pairs = []
  for index, test in enumerate(tests):
    lines = as_lines(test.input).rstrip().split('\n')
    key = '\n'.join(line.rstrip() for line in lines)
    earlier = first.setdefault(key, index)
    if not same_output(tests[earlier].output, test.output):
      pairs.append((earlier, index))
  return tuple(pairs)


def has_constant_output(tests: Sequence[types.TestCase]) -> bool:
  """Returns True if there are at least two tests and all expect one output.

  A program that prints this output without reading its input would pass.
  """
  return len(tests) > 1 and all(
    same_output(tests[0].output, test.output) for test in tests[1:]
  )


def passed_by(table: Sequence[Sequence[types.Result]]) -> tuple[int, ...]:
  """Returns the number of programs that pass each test.

  A test that no program passes is wrong or too hard, and a test that all
  programs pass does not distinguish them. Neither gives a training signal.

  Args:
    table: results [programs][tests]; () if there are no programs.
  """
  return tuple(
    sum(result.status == PASSED for result in column)
    for column in zip(*table, strict=True)
  )


def statuses(results: Iterable[types.Result]) -> dict[str, int]:
  """Returns the number of results for each status, including zeros."""
  counts = collections.Counter(result.status for result in results)
  return {status: counts[status] for status in STATUSES}
