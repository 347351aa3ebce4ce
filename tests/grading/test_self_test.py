"""Self-tests with correct and with broken parsers and sandboxes."""

import pytest

from sqlm_jax.game import types
from sqlm_jax.grading import answer_kinds, self_test
from sqlm_jax.sandbox import sandbox, unit_tests

NUMBERS = ['408', '-3', '0', '1/2', '0.25', '1,234', '12%']


@pytest.mark.parametrize(
  'kind, options, truths',
  [
    ('number', (), NUMBERS),
    ('number', (), ['7'] * 5),
    # Too long to have other notations.
    ('number', (), ['1' * 49, '0.' + '3' * 40]),
    ('expression', (), ['170!', '-170!', '1/170!', '10^{350}', '1' * 349]),
    # Equal in a group, but with different canonical forms.
    ('expression', (), ['5', 'x = 5', '90', r'90^\circ']),
    ('text', (), ['Paris', 'The blue one.', 'straße']),
    ('choice', ('a dent', 'a scratch'), ['A', 'B', 'a dent']),
    ('choice', (), ['C']),
    ('expression', (), [*NUMBERS, '2*sqrt(2)', 'x = 5', '(1, 2)', '5 cm']),
    ('number', (), []),
  ],
)
def test_correct_parsers_pass(kind, options, truths):
  parse = answer_kinds.make_parser(kind, options)
  self_test.check_parser(parse, truths, kind=kind)


def ignore_decimals(texts):
  """Parses 0.25 as 0."""
  return tuple(int(t.split('.')[0]) if t.strip() else None for t in texts)


@pytest.mark.parametrize(
  'parse, message',
  [
    (lambda texts: tuple(texts), "'8' and '16/2' should be equal"),
    (lambda texts: tuple(t.strip() for t in texts), 'should be equal'),
    (lambda texts: (8,) * len(texts), "'' should not be equal"),
    (lambda texts: (None,) * len(texts), "'8' and '8' should be equal"),
    # The result depends on the order: only the first answer is parsed.
    (lambda texts: ('8',) + ('',) * (len(texts) - 1), 'should be equal'),
  ],
)
def test_broken_parsers_fail(parse, message):
  def broken(texts):
    if len(texts) == 1:  # the true answer
      return answer_kinds.make_parser('number')(texts)
    return parse(texts)

  with pytest.raises(RuntimeError, match=message):
    self_test.check_parser(broken, ['8'], kind='number')


def test_both_orders_of_a_pair_are_tested():
  """The parser ignores the decimals of the second answer only."""
  number = answer_kinds.make_parser('number')

  def broken(texts):
    if len(texts) == 1:
      return number(texts)
    return (number(texts[:1])[0], number([texts[1].split('.')[0]])[0])

  with pytest.raises(RuntimeError, match=r"'1' and '1.5' should not"):
    self_test.check_parser(broken, ['1', '1.5'], kind='number')


EXAMPLES = [
  types.Example(
    'Add.',
    tests=(types.TestCase('1 2', '3'), types.TestCase('2 2', '4')),
    solution='print(sum(map(int, input().split())))',
  ),
  types.Example('Contradicts itself.', tests=(('1', '2'), ('1', '3'))),
  types.Example('Nothing.', tests=(types.TestCase('1', ''),)),
]
EXAMPLES[1] = EXAMPLES[1]._replace(
  tests=tuple(types.TestCase(*case) for case in EXAMPLES[1].tests)
)


def fake_run(status_of):
  """Returns a replacement of `Sandbox.run` with the given statuses."""

  def run(programs):
    assert all(tests == EXAMPLES[0].tests for _, tests in programs)
    return [
      [types.Result(status_of(program))] * len(tests)
      for program, tests in programs
    ]

  return run


def correct_status(program):
  good = 'sys.stdin' in program or 'sum(' in program
  return unit_tests.PASSED if good else unit_tests.WRONG


def test_a_correct_sandbox_passes():
  self_test.check_sandbox(fake_run(correct_status), EXAMPLES)
  self_test.check_sandbox(fake_run(correct_status), [])


@pytest.mark.parametrize(
  'status_of, message',
  [
    (lambda program: unit_tests.PASSED, r'(?s)expected 0%.*pass\nbut'),
    (lambda program: unit_tests.ERROR, r'(?s)expected 100%.*stdout\.write\('),
    (
      lambda program: (
        unit_tests.WRONG if 'sum(' in program else correct_status(program)
      ),
      r'(?s)expected 100%.*sum\(map',
    ),
  ],
)
def test_broken_sandboxes_fail(status_of, message):
  with pytest.raises(RuntimeError, match=message):
    self_test.check_sandbox(fake_run(status_of), EXAMPLES)


def test_inputs_are_compared_byte_by_byte():
  """The inputs differ only in spaces and line ends."""
  cases = (('  a', '1'), ('a', '2'), ('a\r\n', '3'), ('a\n', '4'))
  tests = tuple(types.TestCase(*case) for case in cases)
  with sandbox.open_sandbox(workers=1) as opened:
    self_test.check_sandbox(opened.run, [types.Example('Indent.', tests=tests)])
