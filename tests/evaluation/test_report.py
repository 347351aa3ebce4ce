"""Tests of reports of evaluations and comparisons."""

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
  assert '## Settings that differ' in text
  assert '| temperature | `1.0` | `0.5` |' in text


def test_a_comparison_is_written_as_json_markdown_and_plots(tmp_path):
  compared = compare(*sides())
  report.write(tmp_path / 'new', compared)
  names = sorted(path.name for path in (tmp_path / 'new').iterdir())
  kinds = ('json', 'md', 'png', 'svg')
  assert names == [f'comparison.{kind}' for kind in kinds]
  stored = json.loads((tmp_path / 'new' / 'comparison.json').read_text())
  assert stored == compared
  text = (tmp_path / 'new' / 'comparison.md').read_text()
  assert '| greedy | 0.550 (' in text
  assert '+0.200 (' in text
  assert '0.219 | McNemar, exact |' in text
  png = (tmp_path / 'new' / 'comparison.png').read_bytes()
  svg = (tmp_path / 'new' / 'comparison.svg').read_bytes()
  assert png.startswith(b'\x89PNG')
  assert b'<svg' in svg
  # The files are deterministic.
  report.write(tmp_path / 'again', compared)
  for kind, content in (('png', png), ('svg', svg)):
    path = tmp_path / 'again' / f'comparison.{kind}'
    assert path.read_bytes() == content


def test_an_evaluation_is_written_as_json_markdown_and_plots(tmp_path):
  rows = sides()[0]
  figures = accuracy.summarize(rows, 2)
  curve = reliability.measure(rows, samples=2, target=0.8)
  report.write_result(tmp_path, figures, curve=curve, settings=SETTINGS)
  names = {path.name for path in tmp_path.iterdir()}
  assert names == {
    *('result.json', 'result.md', 'reliability.png', 'reliability.svg')
  }
  stored = json.loads((tmp_path / 'result.json').read_text())
  assert stored['figures']['greedy']['value'] == 11 / 20
  assert stored['reliability']['bins'] == curve['bins']
  text = (tmp_path / 'result.md').read_text()
  assert '| greedy | 0.550 (' in text
  # Each vote is between 1 and 2, and the first of them is right.
  assert '| 0.50 | 20 | 100.0% (83.9%-100.0%) |' in text
  assert 'vote.min_agreement=0.5' in text


def test_no_agreement_is_suggested_if_votes_are_never_right():
  rows = [row(i, ['1', '2', '1']) for i in range(20)]
  curve = reliability.measure(rows, samples=2, target=0.8)
  assert 'At no level of agreement' in report.describe_votes(curve)


def test_a_result_is_shown_as_names_and_values():
  result = {
    'greedy': 0.5,
    'intervals': {'greedy': [0.25, 0.75]},
    'questions': 20,
    'settings': SETTINGS,
    'reliability': {'suggested_min_agreement': None},
  }
  assert report.rows(result) == {
    'greedy': '0.500 (0.250-0.750)',
    'questions': '20 of task.test',
    'decoding': 'greedy, up to 4 tokens; 2 answers for each of 1 seeds at '
    'temperature 1.0, top_p 1.0',
    'suggested vote.min_agreement': 'none is high enough',
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
def test_generated_text_becomes_a_code_span(text, shown):
  assert report.code(text) == shown


@hypothesis.given(st.text(max_size=80))
def test_no_text_leaves_its_table_cell(text):
  shown = report.table(['a', 'b'], [[report.code(text), 'end']])
  *_, line = shown.split('\n')
  assert shown.count('\n') == 2
  assert line.endswith(' | end |')
  assert line.replace(r'\|', '').count('|') == 3


def test_a_suggested_agreement_is_rounded_down():
  """7 of 8 is 0.875. Rounded up to 0.88, it would exclude these votes."""
  votes = [['a'] * 7 + ['b']] * 60 + [['a'] + ['c'] * 5 + ['b'] * 2] * 60
  rows = [
    {'answers': ['a', *vote], 'right': [True] + [x == 'a' for x in vote]}
    for vote in votes
  ]
  curve = reliability.measure(rows, samples=8, target=0.9)
  (suggested,) = re.findall(
    r'vote.min_agreement=(\S+)', report.describe_votes(curve)
  )
  assert voting.majority(votes[0], min_agreement=float(suggested)).answer == 'a'


def test_a_bin_is_shown_with_the_threshold_at_its_lowest_agreement():
  """An agreement of 20, 21 or 22 of 32 falls into the same of ten bins."""
  votes = [['a'] * n + ['b'] * (32 - n) for n in (20, 21, 22)]
  rows = [{'answers': ['a', *v], 'right': [True] * 33} for v in votes]
  curve = reliability.measure(rows, samples=32, target=0.9)
  assert len(curve['bins']) == 1
  assert report.votes(curve).endswith('| 100% |')
