"""Comparisons and reports of answers that are known."""

import json

import hypothesis
import pytest
from hypothesis import strategies as st

from sqlm_jax.evaluation import metrics, reliability, report

SETTINGS = {
  'step': 0,
  'task': 'sums',
  'set': 'test',
  'origin': 'task.evaluation',
  'questions': 20,
  'answer_kind': 'number',
  'samples': 2,
  'seeds': 1,
  'max_tokens': 4,
  'temperature': 1.0,
  'top_p': 1.0,
}


def row(index, answers, question=None):
  """The true answer is always 1."""
  return {
    'index': index,
    'question': question or f'{index} * 0 + 1',
    'true': '1',
    'responses': [f'so {a}' for a in answers],
    'answers': answers,
    'right': [a == '1' for a in answers],
  }


def sides():
  """Of 20 questions 5 get right, 1 gets wrong and 2 change their error."""
  before = ['2'] * 5 + ['1'] + ['2', '3'] + ['1'] * 10 + ['2', None]
  after = ['1'] * 5 + ['2'] + ['3', None] + ['1'] * 10 + ['2', None]
  return [
    [row(i, [answer, '1', '2']) for i, answer in enumerate(answers)]
    for answers in (before, after)
  ]


def compare(one, other, **changes):
  return report.compare(
    one,
    other,
    names=('0', 'best'),
    settings=(SETTINGS, SETTINGS | {'step': 12} | changes),
  )


def test_a_comparison_worked_by_hand():
  found = compare(*sides())
  assert found['changed'] == {
    'wrong to right': 5,
    'right to wrong': 1,
    'wrong to another wrong one': 2,
    'right both times': 10,
    'the same wrong one': 2,
  }
  greedy = found['figures']['greedy']
  assert [one['value'] for one in greedy['values']] == [11 / 20, 15 / 20]
  assert greedy['difference']['value'] == pytest.approx(4 / 20)
  # Of 6 that changed at most 1 the other way: 2 (1 + 6) / 2^6.
  assert greedy['difference']['p'] == pytest.approx(14 / 64)
  assert found['figures']['mean@2']['difference']['p'] == 1
  assert [e['question'] for e in found['lost']] == ['5 * 0 + 1']
  assert found['lost'][0]['answers'] == ['1', '2']
  assert len(found['gained']) == 5
  assert found['settings_differ'] == {}
  assert json.loads(json.dumps(found)) == found


def test_ten_examples_each_way():
  one = [row(i, ['2']) for i in range(30)]
  other = [row(i, ['1']) for i in range(30)]
  found = report.compare(
    one, other, names=('a', 'b'), settings=(SETTINGS | {'samples': 0},) * 2
  )
  assert len(found['gained']) == 10
  assert found['changed']['wrong to right'] == 30
  assert found['figures']['greedy']['difference']['p'] == 2 / 2**30


def test_other_questions_are_refused():
  one, other = sides()
  with pytest.raises(ValueError, match='found 20 and 19'):
    compare(one, other[:-1])
  other[3] = row(3, ['1', '1', '1'], question='what?')
  with pytest.raises(ValueError, match=r"'3 \* 0 \+ 1' and 'what\?' at num"):
    compare(one, other)


def test_settings_that_differ_are_told():
  found = compare(*sides(), temperature=0.5)
  assert found['settings_differ'] == {'temperature': [1.0, 0.5]}
  assert '## Not asked alike' in report.to_markdown(found)
  assert '| temperature | `1.0` | `0.5` |' in report.to_markdown(found)


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
  result = metrics.summarize(rows, 2)
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
  assert 'vote.min_agreement=0.50' in text


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
    'questions': '20 of task.evaluation',
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
