"""Reports of evaluations and comparisons."""

import json
import re

import hypothesis
import pytest
from hypothesis import strategies as st

from sqlm_jax.evaluation import accuracy, reliability, report
from sqlm_jax.game import vote as voting
from tests.evaluation.test_comparison import SETTINGS, compare, row, sides


def test_settings_that_differ_are_shown():
  text = report.to_markdown(compare(*sides(), temperature=0.5))
  assert '## Not asked alike' in text
  assert '| temperature | `1.0` | `0.5` |' in text


def test_what_is_written(tmp_path):
  found = compare(*sides())
  report.write(tmp_path / 'new', found)
  names = sorted(path.name for path in (tmp_path / 'new').iterdir())
  kinds = ('json', 'md', 'png', 'svg')
  assert names == [f'comparison.{kind}' for kind in kinds]
  stored = json.loads((tmp_path / 'new' / 'comparison.json').read_text())
  assert stored == found
  text = (tmp_path / 'new' / 'comparison.md').read_text()
  assert '| greedy | 0.550 (' in text
  assert '+0.200 (' in text
  assert '0.219 | McNemar, exact |' in text
  png = (tmp_path / 'new' / 'comparison.png').read_bytes()
  svg = (tmp_path / 'new' / 'comparison.svg').read_bytes()
  assert png.startswith(b'\x89PNG')
  assert b'<svg' in svg
  # The same comparison makes the same files.
  report.write(tmp_path / 'again', found)
  for kind, content in (('png', png), ('svg', svg)):
    path = tmp_path / 'again' / f'comparison.{kind}'
    assert path.read_bytes() == content


def test_a_single_evaluation(tmp_path):
  rows = sides()[0]
  result = accuracy.summarize(rows, 2)
  curve = reliability.measure(rows, samples=2, target=0.8)
  report.write_result(tmp_path, result, curve, SETTINGS)
  names = {path.name for path in tmp_path.iterdir()}
  assert names == {
    *('result.json', 'result.md', 'reliability.png', 'reliability.svg')
  }
  stored = json.loads((tmp_path / 'result.json').read_text())
  assert stored['figures']['greedy']['value'] == 11 / 20
  assert stored['reliability']['bins'] == curve['bins']
  text = (tmp_path / 'result.md').read_text()
  assert '| greedy | 0.550 (' in text
  # Each vote is of 1 and 2, and the first one is right.
  assert '| 0.50 | 20 | 100.0% (83.9%-100.0%) |' in text
  assert 'vote.min_agreement=0.5' in text


def test_votes_that_are_never_good_enough():
  rows = [row(i, ['1', '2', '1']) for i in range(20)]
  curve = reliability.measure(rows, samples=2, target=0.8)
  assert 'No agreement makes votes' in report.describe_votes(curve)


def test_a_record_for_people():
  record = {
    'greedy': 0.5,
    'intervals': {'greedy': [0.25, 0.75]},
    'questions': 20,
    'settings': SETTINGS,
    'reliability': {'suggested_min_agreement': None},
  }
  assert report.rows(record) == {
    'greedy': '0.500 (0.250-0.750)',
    'questions': '20 of task.test',
    'decoding': 'greedy, up to 4 tokens; 2 answers of 1 seeds at temperature '
    '1.0, top_p 1.0',
    'suggested vote.min_agreement': 'none is enough',
  }


@pytest.mark.parametrize(
  'text, shown',
  [
    ('1 + 1', '`1 + 1`'),
    ('a\nb\t\x1b[31mc', '`a b [31mc`'),
    ('a|b', r'`a\|b`'),
    ('`x` ``y``', '``` `x` ``y`` ```'),
    ('', ''),
    (' \n', ''),
    ('x' * 100, '`' + 'x' * 59 + '…`'),
    ('<b>', '`<b>`'),
    ('\u202eabc', '`abc`'),
  ],
)
def test_texts_of_models_are_quoted(text, shown):
  assert report.code(text) == shown


@hypothesis.given(st.text(max_size=80))
def test_any_text_stays_in_its_cell(text):
  shown = report.table(['a', 'b'], [[report.code(text), 'end']])
  *_, line = shown.split('\n')
  assert shown.count('\n') == 2
  assert line.endswith(' | end |')
  assert line.replace(r'\|', '').count('|') == 3


def test_a_suggested_agreement_keeps_the_votes_that_it_is_of():
  """7 of 8 is 0.875: rounded to 0.88 it would exclude them."""
  votes = [['a'] * 7 + ['b']] * 60 + [['a'] + ['c'] * 5 + ['b'] * 2] * 60
  rows = [
    {'answers': ['a', *vote], 'right': [True] + [x == 'a' for x in vote]}
    for vote in votes
  ]
  curve = reliability.measure(rows, samples=8, target=0.9)
  (said,) = re.findall(
    r'vote.min_agreement=(\S+)', report.describe_votes(curve)
  )
  assert voting.majority(votes[0], min_agreement=float(said)).answer == 'a'


def test_a_bin_shows_what_is_kept_from_its_lowest_agreement_on():
  """Agreements of 20, 21 and 22 of 32 answers share a bin."""
  votes = [['a'] * n + ['b'] * (32 - n) for n in (20, 21, 22)]
  rows = [{'answers': ['a', *v], 'right': [True] * 33} for v in votes]
  curve = reliability.measure(rows, samples=32, target=0.9)
  assert len(curve['bins']) == 1
  assert report.votes(curve).endswith('| 100% |')
