"""The generated datasets: their distributions, solutions and splits."""

import collections
import json
import pathlib
import random
import re
import shutil
import subprocess
import sys

import pytest
import sympy
from scipy import stats
from sympy.parsing import sympy_parser

from sqlm_jax.datasets import (
  builtin,
  linear_equations,
  multiplication,
  programs,
)
from sqlm_jax.sandbox import sandbox, unit_tests
from tests.sandbox.test_sandbox import needs_bubblewrap

ROOT = pathlib.Path(__file__).parent.parent.parent


@pytest.fixture(scope='module')
def directory(tmp_path_factory):
  return tmp_path_factory.mktemp('datasets')


@pytest.mark.parametrize(
  'origin, size',
  [
    ('multiplication/test', 4096),
    ('multiplication/validation', 512),
    ('multiplication/test[10:14]', 4),
    ('linear_equations/test', 100),
    ('linear_equations/level_3/validation', 100),
    ('orders/test', 240),
    ('orders/validation', 60),
    ('orders/labels', 48),
    ('programs/test', 30),
    ('programs/validation', 12),
  ],
)
def test_sizes(origin, size, directory):
  examples = builtin.read(origin, directory)
  assert len({example.question for example in examples}) == size


@pytest.mark.parametrize(
  'name', ['multiplication', 'linear_equations', 'orders', 'programs']
)
def test_splits_share_no_question(name, directory):
  test, validation = (
    {e.question for e in builtin.read(f'{name}/{split}', directory)}
    for split in ('test', 'validation')
  )
  assert not test & validation


@pytest.mark.parametrize(
  'origin, first',
  [
    ('multiplication/test[:2]', ['974 * 780', '0 * 22']),
    (
      'orders/test[:1]',
      [
        'Put us down for seventy-nine tubes of grease, to arrive on Friday.',
      ],
    ),
    (
      'linear_equations/test[:1]',
      ['Solve 8*k = 80 - 8*m and -27 + 9 + k + 2*m = -3*k for k.'],
    ),
  ],
)
def test_generation_is_deterministic(origin, first, directory):
  """A change of a generator requires a new version of its dataset."""
  assert [e.question for e in builtin.read(origin, directory)] == first


@pytest.mark.parametrize(
  'origin, message',
  [
    ('sums/test', 'DATASET one of multiplication, linear_equations, orders, '),
    ('multiplication', 'expected a file that ends in .json'),
    ('multiplication/train', 'a split, one of test, validation'),
    ('multiplication/test[5:5]', 'a split, one of'),
    ('multiplication/test[9:3]', 'a split, one of'),
    ('multiplication/all[:4]', 'a split, one of'),
    ('multiplication/hard/test', 'multiplication: none exists'),
    ('linear_equations/hard/test', 'mixed, level_1, level_2'),
  ],
)
def test_unknown_names_are_refused(origin, message, directory):
  with pytest.raises(ValueError, match=message):
    builtin.read(origin, directory)


def test_two_processes_generate_quietly_without_tensorflow(tmp_path):
  """Runs two processes at once, with warnings as errors."""
  program = (
    'import random, sys\n'
    'from sqlm_jax.datasets import builtin\n'
    'random.seed(0)\n'  # the same in both processes, as in a seeded launch
    f'print(len(builtin.read("programs/validation", {str(tmp_path)!r})))\n'
    'assert "tensorflow" not in sys.modules\n'
  )
  command = [sys.executable, '-W', 'error', '-c', program]
  # Neither may read a dataset that the other has not completed.
  processes = [
    subprocess.Popen(
      command,
      cwd=ROOT,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for _ in range(2)
  ]
  assert [p.communicate(timeout=120) for p in processes] == [('12\n', '')] * 2


def test_another_process_generates_the_dataset_first(tmp_path, monkeypatch):
  """The dataset appears just before this process checks whether it exists."""
  source, target = tmp_path / 'source', tmp_path / 'target'
  expected = builtin.read('programs/validation', source)
  original = programs.Programs.is_prepared

  def is_prepared(builder):
    shutil.copytree(source, target, dirs_exist_ok=True)
    return original(builder)

  monkeypatch.setattr(programs.Programs, 'is_prepared', is_prepared)
  assert builtin.read('programs/validation', target) == expected


def test_interrupted_generation_is_repeated(tmp_path):
  incomplete = tmp_path / 'programs' / 'incomplete.ABC123_1.0.0'
  incomplete.mkdir(parents=True)
  (incomplete / 'programs-test.array_record-00000-of-00001').write_bytes(b'cut')
  assert len(builtin.read('programs/test', tmp_path)) == 30


def test_products(directory):
  for example in builtin.read('multiplication/test', directory):
    a, b = map(int, example.question.split(' * '))
    assert example.answer == str(a * b)


def digit_chances():
  """Returns the probabilities of one, two and three digits.

  An operand is below 10 or below 100 with probability 1/4 each, and below 1000
  with probability 1/2.
  """
  one = 1 / 4 + 1 / 4 / 10 + 1 / 2 / 100
  two = 1 / 4 * 9 / 10 + 1 / 2 * 9 / 100
  return [one, two, 1 - one - two]


def test_operands_follow_the_published_distribution():
  pairs = multiplication.operands(random.Random(7))
  drawn = [next(pairs) for _ in range(4096)]
  for which in range(2):
    digits = collections.Counter(len(str(pair[which])) for pair in drawn)
    expected = [chance * len(drawn) for chance in digit_chances()]
    counts = [digits[number] for number in (1, 2, 3)]
    assert stats.chisquare(counts, expected).pvalue > 0.001


def test_distinct_pairs_follow_the_distribution(directory):
  """Pairs with an operand of three digits are rarely repeated."""
  examples = builtin.read('multiplication/test', directory)
  pairs = [tuple(map(int, e.question.split(' * '))) for e in examples]
  large = [pair for pair in pairs if max(pair) >= 100]
  kinds = collections.Counter(tuple(len(str(n)) for n in p) for p in large)
  one, two, three = digit_chances()
  expected = {
    (3, 3): three * three,
    (3, 1): three * one,
    (1, 3): one * three,
    (3, 2): three * two,
    (2, 3): two * three,
  }
  scale = len(large) / sum(expected.values())
  table = [(kinds[kind], chance * scale) for kind, chance in expected.items()]
  # A few of the 2,900 pairs are dropped as repeats.
  assert stats.chisquare(*zip(*table, strict=True)).pvalue > 0.001
  # Most of the 100 pairs of single digits occur.
  assert 80 < len([pair for pair in pairs if max(pair) < 10]) <= 100


def parse_system(question):
  """Parses the equations, number of definitions and unknown of a question."""
  text = question.replace('*', ' * ')
  *definitions, system = re.findall(r'(?:Let|Suppose|Solve) ([^.]*)\.', text)
  system, asked = system.split(' for ')
  sides = [*definitions, *re.split(r', | and ', system)]
  equations = []
  for side in sides:
    left, right = (sympy_parser.parse_expr(part) for part in side.split('='))
    equations.append(sympy.Eq(left, right, evaluate=False))
  return equations, len(definitions), sympy.Symbol(asked)


@pytest.mark.parametrize('level', linear_equations.LEVELS)
def test_equations_have_exactly_one_solution(level, directory):
  unknowns, letters = linear_equations.LEVELS[level]
  for example in builtin.read(f'linear_equations/{level}/test[:20]', directory):
    equations, definitions, asked = parse_system(example.question)
    symbols = sorted(set().union(*(e.free_symbols for e in equations)), key=str)
    (solution,) = sympy.linsolve(equations, symbols)
    assert not set().union(*(value.free_symbols for value in solution))
    values = dict(zip(symbols, solution, strict=True))
    assert str(values[asked]) == example.answer
    assert re.fullmatch(r'-?\d+', example.answer)
    # Higher levels have more unknowns, and letters for their coefficients.
    assert definitions == letters * unknowns
    assert len(equations) == unknowns + definitions
    assert len(symbols) == unknowns + definitions


def test_the_mixture_has_equally_many_of_each_level(directory):
  examples = builtin.read('linear_equations/test', directory)
  kinds = collections.Counter(
    (len(equations) - definitions, bool(definitions))
    for equations, definitions, _ in (
      parse_system(e.question) for e in examples
    )
  )
  assert set(kinds.values()) == {20}
  assert set(kinds) == {tuple(x) for x in linear_equations.LEVELS.values()}


@needs_bubblewrap
def test_solutions_pass_their_tests(directory):
  examples = [
    example
    for split in ('test', 'validation')
    for example in builtin.read(f'programs/{split}', directory)
  ]
  with sandbox.open_sandbox(workers=2) as opened:
    table = opened.run([(e.solution, e.tests) for e in examples])
  for example, results in zip(examples, table, strict=True):
    assert unit_tests.fraction_passed(results) == 1, example.question
    assert len(set(example.tests)) >= 5
    assert not unit_tests.contradictions(example.tests)
    assert not unit_tests.has_constant_output(example.tests)
    for case in example.tests:
      assert re.fullmatch(r'-?\d+( -?\d+)*', case.input)
      assert re.fullmatch(r'-?\d+( -?\d+)*', case.output)


def test_the_package_contains_its_programs():
  rows = (ROOT / 'sqlm_jax' / 'datasets' / 'programs.jsonl').read_text()
  assert len([json.loads(line) for line in rows.splitlines()]) == 42
  assert "'sqlm_jax.datasets': ['*.jsonl']" in (ROOT / 'setup.py').read_text()
