import hypothesis
import pytest
from hypothesis import strategies

from sqlm_jax.game import types
from sqlm_jax.sandbox import unit_tests


@pytest.mark.parametrize(
  'expected, actual',
  [
    ('3', '3\n'),
    ('3\n', '3'),
    ('a b\n', 'a b  \r\n\n\n'),
    ('a  b', 'a b'),
    ('1\n2', '1 \n2\n'),
    ('', '\n \n'),
    ('5', '+5'),
    ('5', '005'),
    ('5', '5.0'),
    ('-0', '0'),
    ('1.0', '1'),
    ('0.3333333', '0.3333334'),  # 1e-7 apart
    ('0.0', '-0.0000009'),
    ('1000000.0', '1000000.9'),  # 0.9 <= 1e-6 * 1e6
    ('.5', '0.5'),
    ('2.5', '2.5e0'),
    ('0.00001', '1e-05'),  # print(1e-5)
    ('1e-05', '0.00001'),
    ('-0.00002', '-2e-05'),
    ('[0.00001, 2]', '[1e-05, 2]'),
    ('0.0000001', '1E-7'),  # print(Decimal('0.0000001'))
    ('12345678901234567000.0', '1.2345678901234567e+19'),
    ('10000000000000000', '1e+16'),  # print(1e16)
    ('123456789012345680000', '1.2345678901234568e+20'),
    ('1e5', '100000'),
    ('1\r\n2\r\n', '1\n2\n'),
    ('1\r2', '1\n2'),
    ('[1, 2, 3]', '1 2 3'),
    ('1 2 3', '[1, 2, 3]'),
    ('[1,2,3]', '[1, 2, 3]'),
    ("['a', 'b']", 'a b'),
    ('[]', '[ ]'),
    ('[1.5, 2]', '1.5000001 2'),
    ('x [1] y', 'x [1] y'),
    ('é', 'é'),
  ],
)
def test_same(expected, actual):
  assert unit_tests.same_output(expected, actual)


@pytest.mark.parametrize(
  'expected, actual',
  [
    ('3', '4'),
    ('3', ''),
    ('', '3'),
    ('1\n2', '1 2'),  # line breaks matter
    ('1\n2', '1\n\n2'),
    ('1 2', '2 1'),
    ('ab', 'a b'),
    ('Yes', 'yes'),
    ('1', '1.0000001'),  # an integer is exact
    ('1', '1e0'),
    ('10000000000000001', '1e+16'),
    ('1', '1.5e+00'),
    ('1', '1e+' + '9' * 60),
    ('0.00001', '1e-03'),
    ('0.1', '1e-05'),
    ('0.5', '5e'),
    ('100000000000000000000', '100000000000000000001'),
    ('9007199254740993', '9007199254740992.0'),  # not as floats
    ('1.0', '1.00001'),  # 1e-5 apart
    ('1.0', 'nan'),
    ('1.0', 'inf'),
    ('1.0', '1,0'),
    ('1.0', '1_0'),
    ('1.0', '0x1'),
    ('1e400', '2e400'),
    ('1.0e400', '2.0e400'),
    ('nan', '0'),
    ('1', 'one'),
    ('[1, 2]', '[2, 1]'),
    ('[1, 2]', '(1, 2)'),
    ('[1, 2]', '1, 2'),
    ('[1, 2]', '12'),
    ('[]', '\n'),
    ('a b', '[a b]'),
    ('a,b', 'a b'),
    ('3', '3 passed'),
    ('9' * 5000, '9' * 4999 + '8'),
  ],
)
def test_not_same(expected, actual):
  assert not unit_tests.same_output(expected, actual)


def test_tolerances():
  # |2.0 - 2.1| = 0.1 = 0.05 * 2.0, up to rounding.
  assert not unit_tests.same_output('2.0', '2.1')
  assert unit_tests.same_output('2.0', '2.1', absolute=0.11)
  assert unit_tests.same_output('2.0', '2.1', relative=0.06)
  assert not unit_tests.same_output('2.0', '2.1', relative=0.04)
  assert not unit_tests.same_output('2', '2.1', absolute=1.0)


@hypothesis.given(strategies.text(), strategies.text())
def test_any_texts_can_be_compared(expected, actual):
  same = unit_tests.same_output(expected, actual)
  assert same or expected != actual
  assert unit_tests.same_output(expected, expected + ' \n\n')


@hypothesis.given(
  strategies.lists(strategies.integers(), min_size=1),
  strategies.lists(strategies.integers(), min_size=1),
)
def test_lists_of_integers_equal_plain_integers(first, second):
  plain = ' '.join(map(str, second))
  assert unit_tests.same_output(str(first), plain) == (first == second)
  assert unit_tests.same_output(plain, str(first)) == (first == second)


def results(text: str) -> list[types.Result]:
  """Returns a result for each letter, the initial of its status."""
  status = {s[0]: s for s in unit_tests.STATUSES}
  return [types.Result(status[letter]) for letter in text]


@pytest.mark.parametrize(
  'row, fraction',
  [('', 0.0), ('p', 1.0), ('w', 0.0), ('pwet', 0.25), ('ppl', 2 / 3)],
)
def test_fraction_passed(row, fraction):
  assert unit_tests.fraction_passed(results(row)) == fraction


def test_statuses():
  assert unit_tests.statuses(results('ppwtt')) == {
    'passed': 2,
    'wrong': 1,
    'error': 0,
    'timeout': 2,
    'limit': 0,
  }


def case(text: str, output: str) -> types.TestCase:
  return types.TestCase(text, output)


@pytest.mark.parametrize(
  'tests, pairs',
  [
    ([], ()),
    ([('1', '1')], ()),
    ([('1', '1'), ('2', '1')], ()),
    ([('1', '1'), ('1', '1.0')], ()),  # equivalent outputs
    ([('1', '1'), ('1\n', '2')], ((0, 1),)),
    ([('1 ', '1'), ('2', '2'), ('1', '3'), ('1', '4')], ((0, 2), (0, 3))),
    ([('1', '1'), (' 1', '2')], ()),  # leading space is another input
    ([('a\nb', '1'), ('a \nb\n\n', '2')], ((0, 1),)),
    ([('a\nb', '1'), ('a\r\nb\r\n', '2')], ((0, 1),)),
  ],
)
def test_contradictions(tests, pairs):
  assert unit_tests.contradictions([case(*t) for t in tests]) == pairs


@pytest.mark.parametrize(
  'outputs, constant',
  [([], False), (['1'], False), (['1', '1\n'], True), (['1', '2'], False)],
)
def test_constant_output(outputs, constant):
  tests = [case(str(i), output) for i, output in enumerate(outputs)]
  assert unit_tests.has_constant_output(tests) is constant


def test_passed_by_counts_programs():
  table = [results('pwp'), results('pwe'), results('pte')]
  assert unit_tests.passed_by(table) == (3, 0, 1)
  assert unit_tests.passed_by([]) == ()


@pytest.mark.parametrize(
  'table, count, leave_out',
  [
    (['pw', 'pp'], (0.5, 1), (0.5, 1)),
    (
      ['pww', 'ppw'],
      (1 / 3, 2 / 3),
      (0.5, 1),
    ),  # no program passes the third test
    (['ww', 'te'], (0, 0), (0, 0)),  # no test remains
    ([], (), ()),
  ],
)
def test_shares_passed(table, count, leave_out):
  table = [results(row) for row in table]
  assert unit_tests.shares_passed(table) == count
  assert unit_tests.shares_passed(table, unsolved='leave_out') == leave_out


@pytest.mark.parametrize(
  'text, lines',
  [('a\r\nb\r\n', 'a\nb\n'), ('a\rb', 'a\nb'), ('\n\r\n', '\n\n'), ('', '')],
)
def test_as_lines(text, lines):
  assert unit_tests.as_lines(text) == lines
