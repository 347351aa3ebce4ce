"""The contract of docs/math_answers.md: a table of pairs, and properties."""

import fractions
import pathlib
import re
import string

import hypothesis
import mpmath
import pytest
from hypothesis import strategies as st

from sqlm_jax.grading import symbols
from sqlm_jax.grading.math import verifier as verifier_lib
from sqlm_jax.grading.math import vocabulary

F = fractions.Fraction
CONTRACT = pathlib.Path(__file__).parents[3] / 'docs' / 'math_answers.md'
TABLE = pathlib.Path(__file__).with_name('math_pairs.tsv')


def _rows():
  """Yields the left answer, right answer, verdict and kind of every row."""
  for line in TABLE.read_text(encoding='utf-8').splitlines():
    if not line.startswith('#'):
      left, right, verdict, kind = line.replace('⏎', '\n').split('\t')
      yield left, right, verdict, kind


ROWS = list(_rows())


@pytest.fixture(name='verifier', scope='module')
def verifier_fixture():
  with verifier_lib.Verifier(
    workers=2, time_limit=10.0, call_limit=300.0
  ) as verifier:
    yield verifier


def _verdict(left, right):
  if left is None:
    return 'unparsed'
  return 'equal' if left == right else 'different'


@pytest.fixture(name='verdicts', scope='module')
def verdicts_fixture(verifier):
  """Returns the verdicts of every row, with its answers in both orders."""
  pairs = [(left, right) for left, right, _, _ in ROWS]
  answers = verifier.groups(pairs)
  swapped = verifier.groups([(right, left) for left, right in pairs])
  return [
    (_verdict(*pair), _verdict(*swapped_pair[::-1]))
    for pair, swapped_pair in zip(answers, swapped, strict=True)
  ]


def test_table_has_300_rows_without_duplicates():
  pairs = [(left, right) for left, right, _, _ in ROWS]
  assert len(ROWS) >= 300
  assert len(set(pairs)) == len(pairs)
  assert {verdict for _, _, verdict, _ in ROWS} == {
    'equal', 'different', 'unparsed',
  }  # fmt: skip


@pytest.mark.parametrize(
  'index',
  range(len(ROWS)),
  ids=[f'{kind}: {left!a} {right!a}' for left, right, _, kind in ROWS],
)
def test_pair(index, verdicts):
  expected = ROWS[index][2]
  assert verdicts[index] == (expected, expected)


def test_different_answers_are_both_parsed(verifier):
  """An unparsed answer differs from every answer, so both must be parsed."""
  texts = [
    text
    for left, right, verdict, _ in ROWS
    if verdict == 'different'
    for text in (left, right)
  ]
  unread = [
    text
    for text, answer in zip(texts, verifier.canonical(texts), strict=True)
    if answer is None
  ]
  assert not unread


def test_canonical_answers_of_the_table_are_canonical(verifier):
  texts = [text for left, right, _, _ in ROWS for text in (left, right)]
  canonical = sorted(
    {str(a) for a in verifier.canonical(texts) if a is not None}
  )
  canonical = [text for text in canonical if len(text) <= 400]
  again = verifier.canonical(canonical)
  assert list(map(str, again)) == canonical


def _examples(heading):
  """Returns the code spans in a section of the contract."""
  section = CONTRACT.read_text(encoding='utf-8').split(f'## {heading}')[1]
  spans = re.findall(r'`([^`\n]+)`', section.split('## ')[0])
  return [span.replace(r'\|', '|') for span in spans]


def test_examples_of_the_contract(verifier):
  refused = _examples('Refused answers')
  assert len(refused) > 15
  assert set(verifier.canonical(refused)) == {None}
  joined = [
    text for text in _examples('Joined statements') if re.search('[=<>]', text)
  ]
  cells = [
    text for text in _examples('Accepted answers') if text[-1:].isalnum()
  ]
  read = [text for text in cells if re.search(r'\d', text)] + joined
  assert len(read) > 40
  unread = [
    text
    for text, answer in zip(read, verifier.canonical(read), strict=True)
    if answer is None
  ]
  assert not unread


# Values: a text, and its value computed by mpmath.

ATOMS = st.one_of(
  st.integers(1, 99).map(lambda n: (str(n), mpmath.mpf(n))),
  st.sampled_from([(r'\pi', mpmath.pi), ('e', mpmath.e)]),
  st.integers(2, 30).map(lambda n: (rf'\sqrt{{{n}}}', mpmath.sqrt(n))),
  st.integers(2, 9).map(lambda n: (rf'\ln {n}', mpmath.log(n))),
  st.sampled_from([15, 30, 36, 45, 60, 75]).map(
    lambda n: (rf'\sin {n}^\circ', mpmath.sin(n * mpmath.pi / 180))
  ),
  st.tuples(st.integers(2, 9), st.integers(20, 99)).map(
    lambda p: (f'{p[0]}^{{-{p[1]}}}', mpmath.mpf(p[0]) ** -p[1])
  ),
)


def _combine(inner):
  return st.one_of(
    st.tuples(inner, inner).map(
      lambda p: (f'({p[0][0]}+{p[1][0]})', p[0][1] + p[1][1])
    ),
    st.tuples(inner, inner).map(
      lambda p: (rf'{p[0][0]} \cdot {p[1][0]}', p[0][1] * p[1][1])
    ),
    st.tuples(inner, inner).map(
      lambda p: (rf'\frac{{{p[0][0]}}}{{{p[1][0]}}}', p[0][1] / p[1][1])
    ),
    inner.map(lambda p: (f'(-{p[0]})', -p[1])),
  )


VALUES = st.recursive(ATOMS, _combine, max_leaves=3)


@pytest.fixture(autouse=True)
def _precision():
  with mpmath.workdps(50):
    yield


@hypothesis.settings(max_examples=40, deadline=None)
@hypothesis.given(st.lists(VALUES, min_size=2, max_size=4))
def test_equal_answers_have_equal_values(verifier, values):
  """Answers that are merged have the same value according to mpmath."""
  with mpmath.workdps(50):
    texts = [text for text, _ in values]
    numbers = [mpmath.mpf(number) for _, number in values]
    answers = verifier.group(texts)
    for i, left in enumerate(numbers):
      for j, right in enumerate(numbers[:i]):
        if answers[i] is not None and answers[i] == answers[j]:
          scale = max(abs(left), abs(right), mpmath.mpf(10) ** -200)
          assert abs(left - right) <= mpmath.mpf(10) ** -35 * scale, (
            texts[i],
            texts[j],
          )


@hypothesis.settings(max_examples=15, deadline=None)
@hypothesis.given(VALUES, st.integers(-60, -10), st.booleans())
def test_close_but_different_numbers_are_different(
  verifier, value, exponent, relative
):
  text, _ = value
  tiny = f'10^{{{exponent}}}'
  other = f'({text})(1+{tiny})' if relative else f'({text})+{tiny}'
  answers = verifier.group([text, other])
  hypothesis.assume(None not in answers)
  hypothesis.assume(answers[0] != F(0))
  assert answers[0] != answers[1]


STATEMENTS = st.sampled_from(
  ['x = 1', 'x = 2', 'y = 2', 'x < 3', 'x > 1', 'y > 0', 'x + y = 3', '(1, 2)',
   '[1, 3)', '{1, 2}', '3', '5 cm', 'x ≠ 2', '(x, y) = (1, 2)', 'z = y = 4',
   'x = ±2', 'f(x) = 2x', '(0, 1) ∪ (2, 3)', r'\sqrt{8}', '30°', r'2\pi']
)  # fmt: skip
JOINERS = st.sampled_from(
  [', ', '; ', ' and ', ' or ', '\n', r' \quad ', r' \\ ', ', and ', ' ∪ ']
)


@st.composite
def joined(draw):
  parts = draw(st.lists(STATEMENTS, min_size=1, max_size=4))
  text = parts[0]
  for part in parts[1:]:
    text += draw(JOINERS) + part
  return text


@hypothesis.settings(max_examples=300, deadline=None)
@hypothesis.given(joined())
def test_canonical_joined_statements_are_canonical(verifier, text):
  (once,) = verifier.canonical([text])
  if once is not None:
    assert verifier.canonical([str(once)]) == [once]


SEPARATED = st.lists(
  st.tuples(st.sampled_from('xyzt'), st.integers(0, 3)),
  min_size=2,
  max_size=4,
  unique_by=lambda pair: pair[0],
)


@hypothesis.settings(max_examples=100, deadline=None)
@hypothesis.given(
  SEPARATED, st.sampled_from([', ', '\n', r' \\ ', r' \quad ', ' and ', ' ∧ '])
)
def test_a_system_keeps_every_assignment(verifier, pairs, joiner):
  text = joiner.join(f'{name} = {value}' for name, value in pairs)
  expected = ', '.join(f'{name} = {value}' for name, value in sorted(pairs))
  changed = dict(pairs) | {pairs[0][0]: pairs[0][1] + 1}
  other = joiner.join(f'{name} = {value}' for name, value in changed.items())
  assert verifier.canonical([text]) == [expected]
  assert verifier.canonical([other]) != [expected]


KNOWN = st.sampled_from(
  ['5', r'\frac{1}{2}', 'x = 3', '(1, 2)', '5 cm', r'\sqrt{8}', 'x < 3', '50%']
)
UNKNOWN = st.one_of(
  st.sampled_from(
    ['approximately', 'because', r'\unknown', r'\foo{x}', r'\to', r'\cap',
     r'\setminus', '@', '#', '?', '"', '…', '→', '∩', '∑', '∫', '∅', 'です',
     '時', 'не', 'ß', '😀', '\u200b', '①', 'Ⅳ', 'the answer', 'no', '...']
  ),
  st.characters(min_codepoint=0x80, exclude_categories=('Cs', 'Zs', 'Nd'))
  .filter(lambda char: not _is_known(char)),
)  # fmt: skip


def _is_known(char):
  return (
    char in symbols.SIGNS
    or char in symbols.MARKS
    or char in symbols.SUPERSCRIPTS
    or char in symbols.SUBSCRIPTS
    or any(
      char in word
      for word in (*symbols.WORDS, '「」『』【】', '\u2028\u2029\x85')
    )
  )


@hypothesis.settings(max_examples=300, deadline=None)
@hypothesis.given(KNOWN, UNKNOWN, st.sampled_from(['after', 'before']))
def test_answers_with_unknown_text_are_unparsed(
  verifier, known, unknown, where
):
  text = f'{known} {unknown}' if where == 'after' else f'{unknown} {known}'
  assert verifier.canonical([text]) == [None]


NAMES = st.sampled_from(
  ['pi', 'theta', 'sin', 'cos', 'log', 'ln', 'sqrt', 'x', 'r', 'z']  # no units
)


@hypothesis.settings(max_examples=200, deadline=None)
@hypothesis.given(st.integers(2, 99), st.lists(NAMES, min_size=1, max_size=4))
def test_joined_names_are_not_counted_things(verifier, number, names):
  answers = verifier.group([f'{number}{"".join(names)}', str(number)])
  assert answers[0] != answers[1]


@pytest.mark.parametrize(
  'text',
  ['-{}', '2{}', '{}x', '{}/2', '3 + {}', r'\sqrt{{{}}}', r'\frac{{1}}{{{}}}',
   r'{}\%', '{} million', 'x < {}', '|{}|', '({}, 2)', r'\sin {}', '{}^2']
)  # fmt: skip
@pytest.mark.parametrize('content', ['5', 'x', r'\frac{1}{2}'])
def test_boxes_in_expressions_are_unparsed(verifier, text, content):
  box = rf'\boxed{{{content}}}'
  assert verifier.canonical([text.format(box)]) == [None]


@hypothesis.settings(max_examples=200, deadline=None)
@hypothesis.given(
  st.text(string.ascii_letters, min_size=1, max_size=8).map(lambda w: '\\' + w)
)
def test_unknown_macros_are_unparsed(verifier, macro):
  hypothesis.assume(macro[1:] not in symbols.MACROS)
  hypothesis.assume(macro[1:] not in vocabulary.FUNCTIONS | vocabulary.SYMBOLS)
  hypothesis.assume(macro[1:] not in ('pi', 'quad', 'qquad', 'newline'))
  assert verifier.canonical([macro, f'{macro} 5', f'5 {macro}']) == [None] * 3
