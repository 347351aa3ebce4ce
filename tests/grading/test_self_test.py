"""The self-test of the judges, on good ones and on broken ones."""

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
    # No longer forms of these are read.
    ('number', (), ['1' * 49, '0.' + '3' * 40]),
    ('expression', (), ['170!', '-170!', '1/170!', '10^{350}', '1' * 349]),
    # Equal with each other, though not alone.
    ('expression', (), ['5', 'x = 5', '90', r'90^\circ']),
    ('text', (), ['Paris', 'The blue one.', 'straße']),
    ('choice', ('a dent', 'a scratch'), ['A', 'B', 'a dent']),
    ('choice', (), ['C']),
    ('expression', (), [*NUMBERS, '2*sqrt(2)', 'x = 5', '(1, 2)', '5 cm']),
    ('number', (), []),
  ],
)
def test_our_readers_pass(kind, options, truths):
  read = answer_kinds.make_parser(kind, options)
  self_test.check_parser(read, truths, kind=kind)


def cut_at_the_point(texts):
  """Reads 0.25 as 0, and 5 as 5."""
  return tuple(int(t.split('.')[0]) if t.strip() else None for t in texts)


@pytest.mark.parametrize(
  'read, why',
  [
    (lambda texts: tuple(texts), "'8' and '16/2' should be equal"),
    (lambda texts: tuple(t.strip() for t in texts), 'should be equal'),
    (lambda texts: (8,) * len(texts), "'' should not be equal"),
    (lambda texts: (None,) * len(texts), "'8' and '8' should be equal"),
    # An order that matters: the first one is always right.
    (lambda texts: ('8',) + ('',) * (len(texts) - 1), 'should be equal'),
  ],
)
def test_a_broken_reader_is_found(read, why):
  def broken(texts):
    if len(texts) == 1:  # what the answer is
      return answer_kinds.make_parser('number')(texts)
    return read(texts)

  with pytest.raises(RuntimeError, match=why):
    self_test.check_parser(broken, ['8'], kind='number')


def test_a_reader_that_only_swapping_reveals():
  """Forgives what stands in the second place."""
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


def judge_of(status_of):
  """Stands in for a sandbox, which the tests of the sandbox are about."""

  def run(programs):
    assert all(tests == EXAMPLES[0].tests for _, tests in programs)
    return [
      [types.Result(status_of(program))] * len(tests)
      for program, tests in programs
    ]

  return run


def says_the_truth(program):
  good = 'sys.stdin' in program or 'sum(' in program
  return unit_tests.PASSED if good else unit_tests.WRONG


def test_a_good_sandbox_passes():
  self_test.check_sandbox(judge_of(says_the_truth), EXAMPLES)
  self_test.check_sandbox(judge_of(says_the_truth), [])


@pytest.mark.parametrize(
  'status_of, why',
  [
    (lambda program: unit_tests.PASSED, r'(?s)expected 0%.*pass\nbut'),
    (lambda program: unit_tests.ERROR, r'(?s)expected 100%.*stdout\.write\('),
    (
      lambda program: (
        unit_tests.WRONG if 'sum(' in program else says_the_truth(program)
      ),
      r'(?s)expected 100%.*sum\(map',
    ),
  ],
)
def test_a_broken_sandbox_is_found(status_of, why):
  with pytest.raises(RuntimeError, match=why):
    self_test.check_sandbox(judge_of(status_of), EXAMPLES)


def test_programs_read_what_is_written_to_the_byte():
  """Inputs that differ in spaces, and in how a line ends."""
  cases = (('  a', '1'), ('a', '2'), ('a\r\n', '3'), ('a\n', '4'))
  tests = tuple(types.TestCase(*case) for case in cases)
  with sandbox.open_sandbox(workers=1) as judge:
    self_test.check_sandbox(judge.run, [types.Example('Indent.', tests=tests)])
