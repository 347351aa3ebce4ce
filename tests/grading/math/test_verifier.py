"""Canonical answers, merged groups, and hostile texts."""

import builtins
import contextlib
import fractions
import itertools
import os
import re
import signal
import string
import threading
import time

import hypothesis
import pytest
from hypothesis import strategies as st

from sqlm_jax.grading import arithmetic
from sqlm_jax.grading.math import parser, plain_text
from sqlm_jax.grading.math import verifier as verifier_lib

F = fractions.Fraction

# Each list holds texts of one value, which differs from all other lists.
CLASSES = [
  # Integers, fractions, decimals, percentages, thousands.
  ['1/2', '0.5', '50%', '.5', '0.50', '2/4', r'\frac{1}{2}', r'\frac12',
   r'\dfrac{1}{2}', '50 %', '50 percent', r'50\%', '$\\frac{1}{2}$', '(1/2)',
   '1 / 2', '2^{-1}', r'\frac{50}{100}', '{1/2}', '１／２', '1÷2', '5e-1',
   r'\cos(\pi/3)', r'\frac{1}{4}+\frac{1}{4}', r'\left(\frac{1}{2}\right)',
   '3/2 - 1',
   '½', '= 1/2', '≈ 0.5', r'\sqrt{\frac{1}{4}}', '0.25*2', 'sin(pi/6)', '1/2.'],
  ['056088', '56088', '56,088', '56088.0', '56088.', r'\boxed{56088}',
   'The answer is \\boxed{56088}.', '**56088**', '$56088$', r'\(56088\)',
   r'\[56088\]', '56{,}088', ' 56088\n', '+56088', r'56\,088', '`56088`',
   '123*456', '123 × 456', r'123 \cdot 456', r'123 \times 456', '(123)(456)'],
  ['1,000', '1000', '10^3', '10**3', '1e3', '1.0e3', '10³', '1,000.00',
   '100000%', '10^{3}', '2000/2', '１０００'],
  ['0.75', r'\frac{3}{4}', '3/4', '75%', r'\frac34', r'\tfrac{3}{4}', '6/8'],
  # A fraction after a complete number is a factor.
  ['3/8', r'\frac12\frac34', r'\frac{1}{2}\frac{3}{4}'],
  ['x^2/7', r'x^2\frac{1}{7}'], ['3*x/7', r'2\frac32\frac{x}{7}'],
  [r'\cos^2\frac{1}{2}', r'(\cos(1/2))^2'],
  [r'\log_{10}x', r'\frac{\ln x}{\ln 10}'],
  ['1024', '2^10', '2^{10}', '2**10', '1,024', r'2^{5} \cdot 2^5', '4^5'],
  ['-5', '−5', '- 5', '-5.0', '-10/2', '(-5)', '–5', '-(5)', '5 - 10', '－5'],
  ['0', '-0', '0.0', '0%', '5-5', r'\sin(\pi)', '0*7', 'x - x', r'\ln 1'],
  ['1/3', r'\frac{1}{3}', '2/6', '3^{-1}'],
  ['0.333'], ['0.3333333'], ['33.3333333%'], ['33%'],
  ['7/2', '3.5', '3 1/2', r'3\frac{1}{2}', r'3 \frac{1}{2}', '3½',
   r'3\frac12', '3 ½',
   '350%', '14/4', '3 + 1/2'],
  ['3/2', r'3 \cdot \frac{1}{2}', '3*1/2', '1 1/2', r'1\frac{1}{2}', '1.5'],
  ['-7/2', '-3 1/2', r'-3\frac{1}{2}', '-3.5'],
  ['6', '2(3)', '(2)(3)', '3!', r'2 \cdot 3', '2·3', '36^{1/2}', '√36',
   r'\binom{4}{2}', '|-6|', r'|{-6}|', '2+4=6', r'\text{6}', '5 + 1',
   r'\lvert -6 \rvert', r'\log_2 64', 'log(64)/log(2)', r'\log_{10}(10^6)',
   r'2^3\frac{3}{4}', r'\log_{25}(5)*12'],
  ['-9', '-3^2', '-(3^2)'], ['9', '(-3)^2', '3^2', '3²', '√81'],
  ['3', r'\sqrt{9}', 'sqrt(9)', r'\sqrt 9', '√9', r'\sqrt[3]{27}', 'cbrt(27)'],
  ['1500000', '1.5 million', '1,500 thousand'], ['$1.5 million', '$1500000'],
  ['25 °C', '25 degrees Celsius', '25 C', r'25^\circ\text{C}'], ['25 °F'],
  ['300000000', '300 million',
   '0.3 billion', '3 × 10^8', r'3\times10^{8}', '3e8', '300,000,000'],
  # Algebraic and transcendental numbers.
  ['sqrt(8)', r'2\sqrt{2}', r'\sqrt{8}', '2*sqrt(2)', '√8', '8^{1/2}', '2√2',
   r'\sqrt 8', '2 sqrt 2', r'\frac{4}{\sqrt{2}}', '2^{3/2}', '2^1.5',
   'sqrt(2)+sqrt(2)', r'\sqrt2 \cdot 2'],
  ['2.8284271'], ['2.82842712474619009760337744841940'],
  ['sqrt(2)', '2^{1/2}', '2/sqrt(2)', r'\frac{2}{\sqrt{2}}'],
  ['1+sqrt(2)', 'sqrt(3+2*sqrt(2))', '1/(sqrt(2)-1)', 'sqrt(2)+1'],
  ['2pi', r'2\pi', '2*pi', '2π', 'pi*2', r'\pi + \pi', '4pi/2'],
  ['pi', r'\pi', 'π'], ['3.14'], ['3.14159265358979323846'], ['22/7'],
  ['e', 'exp(1)', 'e^1'], ['-1', r'e^{i\pi}', 'i^2', 'i*i'],
  ['3+4i', '4i+3', '3 + 4*i'], ['ln 2', r'\ln(2)', 'log(2)', 'ln(4)/2'],
  # Expressions.
  ['x^2+2x+1', '(x+1)^2', '1+2x+x²', 'x**2 + 2*x + 1', '(x+1)(x+1)',
   'x(x+2)+1', r'\left(x+1\right)^{2}', '{(1+x)}^2', '2x+x^2+1',
   r'\frac{(x+1)^3}{x+1}'],
  ['a^2-b^2', '(a+b)(a-b)', '(a-b)(b+a)', '-(b^2-a^2)'],
  ['2xy', '2*x*y', '2yx', 'x*2*y', r'2x \cdot y'],
  ['x', '1x', '2x/2', '(x)', '$x$'], ['X'], ['y'], ['x_1', 'x_{1}'], ['x_2'],
  ['2x', 'x+x', 'x*2'], ['x/2', '1/2x', r'\frac{x}{2}', '0.5x'],
  ['1', 'sin^2 x + cos^2 x', r'\sin^2(x)+\cos^2(x)', '100%', '1!', '0!'],
  ['sin(2x)', r'\sin 2x', r'\sin(2x)'],
  ['sqrt(x)', r'\sqrt{x}', 'x^{1/2}'], [r'\theta'], [r'\alpha + \theta'],
  # Pairs, tuples, lists, sets, intervals.
  ['(1,2)', '(1, 2)', r'\left(1, 2\right)', '( 1 ,2 )', '(1.0, 4/2)',
   r'(\frac{2}{2}, 2)', '$(1,2)$', '(1;2)', r'\boxed{(1,2)}', '(2-1, 2)'],
  ['(2,1)', '(2, 1)'], ['(1,2,3)'], ['(100,200)', '(100, 200)'],
  ['100200', '100,200'], ['[1,2]', '[1, 2]'], ['[1,2)', r'\left[1,2\right)'],
  ['(1,2]'], ['{1,2}', '{2,1}', r'\{1, 2\}', '1, 2', '2 and 1', '1 or 2',
   '{1,2,2}', '1 and 2', '2,1', '1, 4/2', r'\{2,1\}'],
  ['{1,2,3}', '3, 2 and 1', '1, 2, and 3', '{3,2,1}'],
  ['[[1,2],[3,4]]', r'\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}',
   r'\begin{bmatrix}1&2\\3&4\\\end{bmatrix}'],
  [r'\begin{pmatrix}1\\2\\3\end{pmatrix}', '[[1],[2],[3]]',
   '[1,2,3]'],  # a column; the next is a row
  ['[[1,2,3]]', r'\begin{pmatrix} 1 & 2 & 3 \end{pmatrix}'],
  [r'(-\infty,1)\cup(2,\infty)', '(2,oo) or (-oo,1)', '(−∞,1) ∪ (2,∞)'],
  ['(-oo, 3)', r'(-\infty, 3)', '(−∞,3)'], ['((1,2),(3,4))'],
  ['(sqrt(8), 1)', r'(2\sqrt{2}, 1)'],
  # Assignments and systems.
  ['x=3', 'x = 3', '3 = x', 'x = 6/2', r'x=\frac{6}{2}', '$x = 3$', 'x=2+1',
   r'\boxed{x=3}', 'x = 2 + 1 = 3', 'x=3.0', '(x=3)'],
  ['y=3', 'y = 3'], ['x=4'], ['x_1 = 3', 'x_{1}=3'],
  ['sin(x) = 1/2', '0.5 = sin x'], ['abs(x) = 2', '|x| = 2', '2 = |x|'],
  ['x=2,y=3', 'y=3,x=2', 'x = 2 and y = 3', 'y = 3, x = 2', 'x=2; y=3',
   'x = 2, and y = 3', '(x=2, y=3)', r'x=2,\ y=3', 'x = 4/2 and y = 9/3'],
  ['x=3,y=2'], ['x=2,z=3'], ['x=2,y=3,z=4', 'z=4, y=3, x=2'],
  ['x=2 or x=3', 'x=3, x=2', 'x = 2, 3', 'x=2 and x=3', r'x = {2,3}'],
  [r'x = \pm 2', 'x=2,x=-2', 'x = ±2', 'x = -2 or x = 2'],
  [r'1 \pm \sqrt{2}', '1+sqrt(2), 1-sqrt(2)', '1 ± √2'],
  ['y = 2x+1', 'y=1+2x', '2x+1=y', 'y = 2(x+1)-1'], ['f(x) = 2x+1'],
  # Inequalities.
  ['x>3', '3<x', 'x > 6/2', r'x \gt 3'], ['x<3', '3 > x'],
  ['x>=3', r'x \ge 3', '3 <= x', 'x ≥ 3', r'x\geq3'],
  ['1<x<=2', '2>=x>1', r'1 < x \leq 2'], ['x<3 or x>5', 'x > 5 or x < 3'],
  # Units.
  ['5 cm', '5cm', '5 centimeters', '5.0 cm', r'5\text{ cm}', '10/2 cm',
   r'5\,\mathrm{cm}', '5 centimetre', r'\frac{10}{2} cm', '$5$ cm'],
  ['5 m', '5 meters', '5m', '5 metres'], ['50 mm'], ['5 cm^2', '5 square cm'],
  ['5 m^2', '5 square meters', '5 sq m', '5 m²', '5 square metres'],
  ['$12.50', '12.50 dollars', '12.5 $', r'\$12.50', 'USD 12.5', '$ 12.50'],
  ['12.50 EUR', '€12.50', '12.5 euros'], ['$1,000', '1,000 dollars'],
  ['-$5', '$-5', '-5 dollars'],
  ['3 hours', '3 h', '3 hrs', '3 hour', '3.0 hours'], ['3 minutes', '3 min'],
  ['60 mph', '60 miles per hour', '60 mi/h'], ['60 km/h', '60 kph'],
  ['5 apples', '5 Apples', '5 apple'], ['5 oranges'],
  ['30°', '30 degrees', r'30^\circ', r'30^{\circ}'],
  ['2 pi cm', r'2\pi cm', '2π centimeters'], ['x = 5 cm', 'x=5cm'],
]  # fmt: skip

UNPARSED = [
  '', ' ', '\n', '.', '$$', '$', r'\boxed{}', '()', '(,)', ',', '{}', '[]',
  'no answer', 'None', 'I do not know', 'five', 'import os', 'Paris', 'yes',
  '(((((', '(' * 300, ')' * 300, '(1,2', '1,2)', '((1)', '[(])', '{(1})',
  '1e4000', '1e400', '1e-4000', '9**9**9**9', '9^9^9^9', '2^(10^10)', '10000!',
  '9!!!', r'\binom{99999}{5000}', '(9^99)^99', '0.1^999', '9' * 380, '٥', '५',
  '\x00', '5\x00', '\x005', '\ufeff5', '5\u200b', '😀', '1/0', '0/0',
  '0^0', '0^{-1}', 'tan(pi/2)', 'ln 0', '1/(x-x)', '1 1/0',
  '2+2=5', '1=2', 'x=', '=', '==', 'x==3', '<', 'x<', '<3', '1<2>1',
  'x=2,3,y=5', '10, x=3',
  'x=2, x+y=3', '5 5', '1 2 3', '1.2.3', '..', '--', '+', '*', '2*', '*2', '^',
  'x^', '!', '|', '|x', '_', '\\', r'\frac', r'\frac{1}', r'\sqrt', r'\log_',
  'sin', 'sin()', r'\unknown{5}', r'\begin{matrix}1\end{matrix}', '__', 'x__',
  'a.b', 'x.real', 'x[0]{', '[x for x in y]', 'lambda: 0', 'x if y else z',
  '"5"', "'5'", '#5', '5 # five', 'True', 'nan', '5//2', '5 % 2', '1_000',
]  # fmt: skip


@pytest.fixture(name='verifier', scope='module')
def verifier_fixture():
  with verifier_lib.Verifier(workers=2, time_limit=5.0) as verifier:
    yield verifier


@pytest.fixture(name='table', scope='module')
def table_fixture(verifier):
  texts = [text for members in CLASSES for text in members]
  return dict(zip(texts, verifier.canonical(texts), strict=True))


@pytest.mark.parametrize('members', CLASSES, ids=lambda members: members[0])
def test_equal(members, table):
  assert {text: table[text] for text in members} == dict.fromkeys(
    members, table[members[0]]
  )
  assert table[members[0]] is not None


def test_not_equal(table):
  """Answers from different lists differ."""
  firsts = [members[0] for members in CLASSES]
  for left, right in itertools.combinations(firsts, 2):
    assert table[left] != table[right], (left, right)


def test_canonical_answers_of_the_table(table):
  """Checks values, because equal answers could all be wrong."""
  expected = {
    '1/2': F(1, 2), '056088': F(56088), '1,000': F(1000), '1024': F(1024),
    '0.333': F(333, 1000), '33%': F(33, 100), '-3^2': F(-9), '(1,2)': '(1, 2)',
    'sqrt(8)': '2*sqrt(2)', '{2,1}': '{1, 2}', 'x=3': 'x = 3', '3<x': '3 < x',
    'y=3,x=2': 'x = 2, y = 3', '(x+1)^2': 'x**2 + 2*x + 1', '5cm': '5 cm',
    '$12.50': '25/2 $', 'x=3, x=2': 'x = {2, 3}', '30°': '30 degree',
    '2pi': '2*pi', '3+4i': '3 + 4*i', '60 mph': '60 mi/h',
  }  # fmt: skip
  assert {text: table.get(text) for text in expected} | {
    '3+4i': '3 + 4*i'
  } == expected


def test_canonical_answers_are_canonical(table, verifier):
  values = sorted(set(table.values()), key=str)
  again = verifier.canonical([str(value) for value in values])
  assert dict(zip(values, again, strict=True)) == {v: v for v in values}


@pytest.mark.parametrize('text', UNPARSED, ids=ascii)
def test_unparsed(text, verifier):
  start = time.monotonic()
  assert verifier.canonical([text]) == [None]
  assert time.monotonic() - start < 4  # less than the time limit of 5 s


@pytest.mark.parametrize(
  'text', ['9' * 10**6, '(' * 10**6, ' ' * 10**6, 'x+' * 10**6, '1' + '0' * 400]
)
def test_a_long_text_is_unparsed_without_a_worker(text):
  verifier = verifier_lib.Verifier()  # not started, so it has no workers
  assert verifier.canonical([text]) == [None]
  assert verifier.unparsed == {'long': 1}


@pytest.mark.parametrize(
  'part',
  ['(', '1 cm/', '1 ', '°\\', '√cm/', '\\pm', '1,', 'x=', ' and ', '1 a ', '$',
   '|', '∪', "°1'", '0.1\\overline{', '1{,}', '\\text{a{', '.', '1^{', 'x_{',
   '人', 'x = ', '\n', '(x, y)', '- a\n',
   '{', '&', '\\text{', '((1)', '1<', '\\begin{pmatrix}', '1/1 ', 'per '],
)  # fmt: skip
def test_parsing_without_sympy_takes_bounded_time(part):
  """Only workers have a time limit; this code runs outside of them."""
  start = time.monotonic()
  verifier_lib._parse_without_sympy((part * 1000)[:1000], 1000)
  verifier_lib._parse_without_sympy('1 ' + (part * 1000)[:998], 1000)
  assert time.monotonic() - start < 2  # measured: 0.1 s


def test_plain_answers_need_no_worker():
  verifier = verifier_lib.Verifier()  # not started
  texts = ['5', '1/2', '50%', '1,000', 'x = 3', '(1, 2)', '$5', '5 cm', 'five']
  assert verifier.canonical(texts)[:3] == [F(5), F(1, 2), F(1, 2)]
  assert verifier.unparsed == {'word': 1}
  with pytest.raises(RuntimeError, match='closed'):
    verifier.canonical(['sqrt(2)'])


@pytest.mark.parametrize(
  'texts, expected',
  [
    ([], []),
    (['', 'no answer'], [None, None]),
    (['5', '5.0', '6', ''], [F(5), F(5), F(6), None]),
    # A number without a unit equals the same number with a unit.
    (['5', '5 cm', '6'], [F(5), F(5), F(6)]),
    (['5 cm', '5', '5.0 cm'], ['5 cm', '5 cm', '5 cm']),
    (['5 cm', '6 m', '5'], ['5 cm', '6 m', '5 cm']),
    # If a group has two units, a number without a unit equals neither.
    (['5 cm', '5 m', '5'], ['5 cm', '5 m', F(5)]),
    (['5', '$5', '€5', '5'], [F(5), '5 $', '5 EUR', F(5)]),
    (['60 minutes', '1 hour'], ['60 min', '1 h']),  # nothing is converted
    # The same rules apply to labels.
    (['x=3', '3', 'x=4'], ['x = 3', 'x = 3', 'x = 4']),
    (['3', 'x=3', 'y=3'], [F(3), 'x = 3', 'y = 3']),
    (['x = 5 cm', '5', 'x = 5', '5 cm'], ['x = 5 cm'] * 4),
    (['x = 5 cm', '5', '5 m'], ['x = 5 cm', F(5), '5 m']),
    (['x = 2 or x = 3', '{2, 3}', '2, 3'], ['x = {2, 3}'] * 3),
    (['x = 2, y = 3', '(2, 3)'], ['x = 2, y = 3', '(2, 3)']),
    (['50%', '1/2', '0.5 m'], [F(1, 2)] * 3),
    (['1/3', '0.333333333'], [F(1, 3), F(333333333, 10**9)]),
    (['9%', '9'], [F(9, 100), F(9)]),
    (['sqrt(8)', r'2\sqrt{2} cm', '2.83'], ['2*sqrt(2)'] * 2 + [F(283, 100)]),
    # These have different normal forms and are merged by comparison.
    (['y - 2x = 1', 'y = 2x + 1'], ['-2*x + y = 1'] * 2),
    (['x^2 + y^2 = 4', '4 - y^2 = x^2'], ['4 = x**2 + y**2'] * 2),
    (['x + y = 1', 'x + y = 2'], ['1 = x + y', '2 = x + y']),
    (['x = 1', 'x = 1', 'y = x'], ['x = 1', 'x = 1', 'y = x']),
  ],
)
def test_group(texts, expected, verifier):
  assert verifier.group(texts) == expected


def test_pairs_of_the_table_merge_only_with_a_label_or_unit(verifier):
  """Every two lists of the table, as the answers to one question."""
  pairs = list(itertools.combinations([members[0] for members in CLASSES], 2))
  merged = {
    pair
    for pair, answers in zip(pairs, verifier.groups(pairs), strict=True)
    if answers[0] == answers[1]
  }
  labels, times = ('x=3', 'y=3', 'x_1 = 3'), ('3 hours', '3 minutes')
  assert merged == {
    *itertools.product(('3',), labels + times),
    *itertools.product(labels, times),
    ('1,000', '$1,000'),
    ('-5', '-$5'),
    ('1500000', '$1.5 million'),
    ('2pi', '2 pi cm'),
    ('5 cm', 'x = 5 cm'),
  }


def test_groups_are_independent(verifier):
  assert verifier.groups([['5 cm', '5'], ['5'], [], ['5', '5 m']]) == [
    ['5 cm', '5 cm'],
    [F(5)],
    [],
    [F(5), F(5)],
  ]


def test_comparisons_are_bounded():
  texts = ['y - 2x = 1', 'y = 2x + 1']
  with verifier_lib.Verifier(workers=1, max_comparisons=0) as verifier:
    assert verifier.group(texts) == ['-2*x + y = 1', 'y = 2*x + 1']


# Expressions that exceed the time or memory limit in sympy.
ENDLESS = [
  '(a+b+c+x+y+z)^99(a-b)^99',
  r'\sin(\cos(\tan(x^9+y)))^{40}(x+y+z)^{60}/(x-y+\sqrt{x+\sqrt{y}})^{50}',
]


@pytest.mark.parametrize('text', ENDLESS)
def test_a_text_that_hangs_does_not_affect_other_texts(text):
  with verifier_lib.Verifier(workers=2, time_limit=2.0) as verifier:
    verifier.canonical(['sqrt(2)', 'sqrt(3)', 'sqrt(5)'])
    start = time.monotonic()
    answers = verifier.canonical(
      ['sqrt(8)', text, '2^5', 'x+x', '(1, sqrt(4))']
    )
    seconds = time.monotonic() - start
  assert answers == ['2*sqrt(2)', None, F(32), '2*x', '(1, 2)']
  assert set(verifier.unparsed) <= {'timeout', 'memory', 'too_large'}
  assert verifier.unparsed.total() == 1
  assert seconds < 20


def test_a_killed_worker_is_replaced():
  with verifier_lib.Verifier(workers=1, time_limit=3) as verifier:
    verifier.canonical(['sqrt(2)'])
    (victim,) = verifier._pool.pids()
    timer = threading.Timer(0.3, os.kill, (victim, signal.SIGKILL))
    timer.start()
    answers = verifier.canonical([ENDLESS[0], 'sqrt(8)'])
    timer.join()
  assert answers == [None, '2*sqrt(2)']
  # The task was retried, and the second worker exceeded the time limit.
  assert set(verifier.unparsed) <= {'timeout', 'memory'}
  assert verifier.unparsed.total() == 1


def test_group_works_outside_of_the_main_thread():
  answers = []

  def group():
    with verifier_lib.Verifier(workers=1) as verifier:
      answers.extend(verifier.group(['sqrt(8)', '2 sqrt 2', '']))

  thread = threading.Thread(target=group)
  thread.start()
  thread.join()
  assert answers == ['2*sqrt(2)', '2*sqrt(2)', None]


HOSTILE = [
  "__import__('os').system('touch {path}')",
  "open('{path}','w')",
  "open('{path}','w').close()",
  "exec(\"open('{path}','w')\")",
  "().__class__.__base__.__subclasses__()[0]('{path}')",
  "sympify(\"open('{path}','w')\")",
  "sqrt(open('{path}','w'))",
  "\\sqrt{{open('{path}','w')}}",
  "$open('{path}','w')$",
  "\\boxed{{open('{path}','w')}}",
  "\\text{{open('{path}','w')}}",
  "x = open('{path}','w')",
  "(1, open('{path}','w'))",
  "5 open('{path}','w')",
  "1 < open('{path}','w')",
  'f\'{{open("{path}","w")}}\'',
  "lambda: open('{path}','w')",
  "[open('{path}','w') for x in [1]]",
  "x_{{open('{path}','w')}}",
  "2**open('{path}','w')",
  "import os; os.open('{path}', 64)",
  "5\n__import__('os').open('{path}', 64)",
  'touch {path}',
  '$(touch {path})',
  '`touch {path}`',
  '; touch {path}',
  '\\write18{{touch {path}}}',
  "Symbol('x', open('{path}','w'))",
  "E.func(open('{path}','w'))",
  "sqrt.__globals__['__builtins__']['open']('{path}','w')",
]


def test_answers_are_not_executed(tmp_path, verifier):
  path = tmp_path / 'made'
  texts = [text.format(path=path) for text in HOSTILE]
  assert set(verifier.canonical(texts)) == {None}
  for text in texts:
    verifier.group(['x', text, 'sqrt(8)', text])
  # The parser alone, without the checks before it.
  for text in texts:
    with pytest.raises((plain_text.ParseError, IndexError, ValueError)):
      parser.Parser(text).parse()
  assert not path.exists()


def test_parsing_and_comparing_evaluate_no_answer(monkeypatch):
  """Sympy evaluates only numbers that it has printed itself."""
  texts = [text for members in CLASSES for text in members]
  texts += [text for text in UNPARSED if len(text) < 300]
  for text in texts:
    _work(text)  # completes sympy's lazy imports
  verifier_lib.work(['same', '-2*x + y = 1', 'y = 2*x + 1'])
  sources = []

  def watch(name):
    builtin = getattr(builtins, name)

    def watched(source, *args, **kwargs):
      sources.append(source)
      return builtin(source, *args, **kwargs)

    return watched

  with monkeypatch.context() as patch:
    for name in ('eval', 'exec', 'compile'):
      patch.setattr(builtins, name, watch(name))
    for text in texts:
      _work(text)
    assert verifier_lib.work(['same', '-2*x + y = 1', 'y = 2*x + 1'])
  allowed = re.compile(
    r"(Integer|Float|sqrt|[\d\s()+*/.,'-])*|from sympy import \*"
  )
  for source in sources:
    if isinstance(source, str):  # a code object was checked as text before
      assert allowed.fullmatch(source), source


def _work(text):
  with contextlib.suppress(plain_text.ParseError, RecursionError):
    verifier_lib.work(['parse', plain_text.clean(text)])


@hypothesis.settings(max_examples=300, deadline=None)
@hypothesis.given(st.lists(st.text(max_size=40), max_size=4))
def test_any_texts_can_be_grouped(verifier, texts):
  assert len(verifier.group(texts)) == len(texts)


SYNTAX = st.text(
  string.digits + 'xyabie=+-*/^(){}[],.;|!%$<>_\\ √π²\u2212\u0665'
  "°≠≈∈∪±¹⁻₂½θ円。、\n'f",
  max_size=14,
)
WORDS = st.lists(
  st.sampled_from(
    [r'\frac', r'\sqrt', r'\pi', r'\left(', r'\right)', r'\boxed{', r'\text{',
     *'{}()012.,xy=<+-*/^$%_!|ei', 'and', 'or', 'cm', 'm', 'sin', 'log', 'sqrt',
     r'\pm', '10', '3.5', '1,000', r'\quad', r'\\', '°', r'\sin', '^{-1}', '|',
     r'\cup', '∈', '≠', '≈', r'\circ', '\n', 'f(x)', "'", '_{10}', r'\theta']
  ),
  max_size=8,
).map(' '.join)  # fmt: skip


@hypothesis.settings(max_examples=400, deadline=None)
@hypothesis.given(SYNTAX | WORDS)
def test_canonical_is_idempotent(verifier, text):
  (once,) = verifier.canonical([text])
  hash(once)
  if once is not None:
    assert verifier.canonical([str(once)]) == [once]


@hypothesis.settings(max_examples=100, deadline=None)
@hypothesis.given(
  st.lists(
    st.sampled_from(
      ['5', '5 cm', '5 m', 'x=5', 'y=5', '', 'sqrt(25)', '5 cm ', 'x=5 m',
       'y - x = 0', 'y = x', 'x = y', '(1,2)', '{1,2}', '2,1', 'sqrt(8)']
    ),
    max_size=6,
  ).flatmap(lambda x: st.tuples(st.just(x), st.permutations(range(len(x)))))
)  # fmt: skip
def test_merging_does_not_depend_on_the_order(verifier, case):
  texts, order = case
  answers = verifier.group(texts)
  permuted = verifier.group([texts[i] for i in order])
  for (i, a), (j, b) in itertools.combinations(enumerate(order), 2):
    assert (answers[a] == answers[b]) == (permuted[i] == permuted[j]), (
      texts[a],
      texts[b],
    )


@hypothesis.settings(max_examples=100, deadline=None)
@hypothesis.given(st.fractions(max_denominator=10**6), st.integers(1, 10**6))
def test_all_notations_of_a_fraction_are_equal(verifier, value, factor):
  above, below = value.numerator, value.denominator
  texts = [
    str(value),
    rf'\frac{{{above}}}{{{below}}}',
    rf'\dfrac{{{above * factor}}}{{{below * factor}}}',
    f'({above})/({below})',
    f'{above * 100}/{below}%',
    f'{above} * {below}^{{-1}}',
  ]
  assert verifier.canonical(texts) == [value] * len(texts)


ARITHMETIC = st.recursive(
  st.integers(0, 99).map(str) | st.decimals(0, 9, places=2).map(str),
  lambda inner: st.one_of(
    st.tuples(inner, st.sampled_from('+-*/'), inner).map(''.join),
    inner.map(lambda text: f'({text})'),
    inner.map(lambda text: f'(-{text})'),
  ),
  max_leaves=8,
)


@hypothesis.settings(max_examples=300, deadline=None)
@hypothesis.given(ARITHMETIC)
def test_arithmetic_agrees_with_python(verifier, text):
  expected = arithmetic.value(text)  # uses Python's parser
  answers = verifier.canonical([text, text.replace('*', r'\cdot ')])
  assert answers == [expected, expected]


@pytest.mark.parametrize('max_length', [0, 1001])
def test_bounds(max_length):
  with pytest.raises(ValueError, match='max_length'):
    verifier_lib.Verifier(max_length=max_length)
