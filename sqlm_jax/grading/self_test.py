"""Tests the grading of answers before an evaluation relies on it.

Right answers in other forms, wrong answers and empty answers are graded first.
If any of them is graded incorrectly, the evaluation does not start.
"""

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction as F

from sqlm_jax.game import types
from sqlm_jax.grading import answer_kinds
from sqlm_jax.sandbox import sandbox, unit_tests

_MAX_ANSWERS = 16
_MAX_PROGRAMS = 4
_MAX_DIGITS = 20  # longer numbers are not tried in other forms
_MAX_TESTS_LENGTH = 10_000  # characters of an example's tests


def check_parser(
  parse: answer_kinds.AnswerParser, truths: Sequence[str], *, kind: str
) -> None:
  """Checks pairs of answers that are known to be equal or different.

  Args:
    parse: the parser to check.
    truths: true answers of an evaluation set; a sample of them is used.
    kind: the parser's kind, see `answer_kinds.make_parser`.

  Raises:
    RuntimeError: if a pair, in either order, is compared incorrectly.
  """
  chosen = _spread(list(dict.fromkeys(truths)), _MAX_ANSWERS)
  for i, true in enumerate(chosen):
    (known,) = parse([true])
    same = [true, *_same_answers(known, true, kind)]
    following = chosen[(i + 1) % len(chosen)]
    other = ['', ' \n', *_other_answers(known)]
    if _differ(known, *parse([following]), kind):
      other.append(following)
    for expected, answers in ((True, same), (False, other)):
      for answer in answers:
        for pair in ([true, answer], [answer, true]):
          first, second = parse(pair)
          if (first is not None and first == second) != expected:
            raise RuntimeError(
              f'the parser of answers of kind {kind!r} failed its self-test: '
              f'{pair[0]!r} and {pair[1]!r} should '
              f'{"" if expected else "not "}be equal'
            )


def check_sandbox(
  run: Callable[[Sequence[sandbox.Program]], list[list[types.Result]]],
  examples: Sequence[types.Example],
) -> None:
  """Runs programs that are known to pass all tests or no test.

  Args:
    run: `Sandbox.run`.
    examples: examples of an evaluation set; a sample of them is used.

  Raises:
    RuntimeError: if a program is graded incorrectly, or if an example's
      solution does not pass its tests.
  """
  suitable = [
    example
    for example in examples
    if sum(map(len, sum(example.tests, ()))) < _MAX_TESTS_LENGTH
    and not unit_tests.contradictions(example.tests)
    and all(case.output.strip() for case in example.tests)
  ]
  runs = [
    (example, program, expected)
    for example in _spread(suitable, _MAX_PROGRAMS)
    for program, expected in _programs(example)
  ]
  table = run([(program, example.tests) for example, program, _ in runs])
  for (example, program, expected), results in zip(runs, table, strict=True):
    if unit_tests.fraction_passed(results) != expected:
      raise RuntimeError(
        f'the sandbox failed its self-test: expected {expected:.0%} of the '
        f'tests of {example.question[:200]!r} to be passed by\n'
        f'{program}\nbut the results are {[tuple(r) for r in results]}'
      )


def _same_answers(known: types.Answer, true: str, kind: str) -> Iterator[str]:
  """Yields other forms of an answer.

  Yields nothing for a long number, whose other forms could be too long for the
  parser.
  """
  if isinstance(known, F):
    above, below = known.as_integer_ratio()
    if len(f'{abs(above)}{below}') > _MAX_DIGITS:
      return
    yield f'{2 * above}/{2 * below}'
    yield f' {above}/{below} '
    if below == 1:
      yield f'{above}.0'
      yield f'{above:,}'
      yield f'{100 * above}%'
    if kind == 'expression':
      yield rf'${"-" if above < 0 else ""}\frac{{{abs(above)}}}{{{below}}}$'
  elif kind == 'choice':
    yield f'({str(known).lower()})'
    yield f'Answer: {known}'
  elif kind == 'text' and true.isascii():
    yield f'  {true.upper()}. '


def _differ(left: types.Answer, right: types.Answer, kind: str) -> bool:
  """Returns True if two answers certainly differ; 5 and x = 5 do not."""
  are_numbers = isinstance(left, F) and isinstance(right, F)
  return left != right and (are_numbers or kind != 'expression')


def _other_answers(known: types.Answer) -> Iterator[str]:
  if isinstance(known, F):
    yield str(known + 1)
    yield str(known + F(1, 1000))
    if known:
      yield str(-known)


def _programs(example: types.Example) -> Iterator[tuple[str, float]]:
  """Yields programs and the fraction of the tests that each of them passes."""
  # Uses bytes, because Python converts line ends when it reads text.
  table = {
    unit_tests.as_lines(case.input).encode(): case.output
    for case in example.tests
  }
  yield (
    f'import sys\nsys.stdout.write({table!r}[sys.stdin.buffer.read()])',
    1.0,
  )
  if example.solution:
    yield example.solution, 1.0
  yield 'pass', 0.0
  yield 'import sys\nsys.stdout.write("no " + input())', 0.0
  yield 'raise SystemExit(0)', 0.0


def _spread(items: Sequence, max_items: int) -> list:
  """Returns at most `max_items` items, spread over the sequence."""
  step = max(len(items) / max_items, 1)
  return [items[int(i * step)] for i in range(min(max_items, len(items)))]
