"""Comparisons of answers that are known."""

import json

import pytest

from sqlm_jax.evaluation import comparison, report

SETTINGS = {
  'step': 0,
  'task': 'sums',
  'set': 'test',
  'origin': 'task.test',
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
  """Returns 20 questions: 5 become right, 1 becomes wrong, 2 stay wrong."""
  before = ['2'] * 5 + ['1'] + ['2', '3'] + ['1'] * 10 + ['2', None]
  after = ['1'] * 5 + ['2'] + ['3', None] + ['1'] * 10 + ['2', None]
  return [
    [row(i, [answer, '1', '2']) for i, answer in enumerate(answers)]
    for answers in (before, after)
  ]


def compare(one, other, **changes):
  return comparison.compare(
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


def test_a_difference_that_is_everywhere_the_same_says_so():
  """In sides() the sampled answers are the same, and half of them right."""
  found = compare(*sides())
  difference = found['figures']['mean@2']['difference']
  # 1.96^2 / (20 + 1.96^2)
  assert difference['value'] == 0
  assert difference['high'] == pytest.approx(0.1611, abs=1e-4)
  assert not found['figures']['greedy']['difference']['constant']
  said = report.to_markdown(found)
  assert 'All 20 questions differ alike in mean@2, pass@2, maj@2, so' in said
  assert 'nan' not in said


def test_ten_examples_each_way():
  one = [row(i, ['2']) for i in range(30)]
  other = [row(i, ['1']) for i in range(30)]
  found = comparison.compare(
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
