"""Tests of comparisons, on known answers."""

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
  """Returns a row of an evaluation; the true answer is always 1."""
  return {
    'index': index,
    'question': question or f'{index} * 0 + 1',
    'true': '1',
    'responses': [f'so {a}' for a in answers],
    'answers': answers,
    'right': [a == '1' for a in answers],
  }


def sides():
  """Returns both sides: 5 of 20 become right, 1 wrong, 2 change their error."""
  before = ['2'] * 5 + ['1'] + ['2', '3'] + ['1'] * 10 + ['2', None]
  after = ['1'] * 5 + ['2'] + ['3', None] + ['1'] * 10 + ['2', None]
  return [
    [row(i, [answer, '1', '2']) for i, answer in enumerate(answers)]
    for answers in (before, after)
  ]


def compare(first, second, **changes):
  return comparison.compare(
    first,
    second,
    names=('0', 'best'),
    settings=(SETTINGS, SETTINGS | {'step': 12} | changes),
  )


def test_a_comparison_worked_by_hand():
  compared = compare(*sides())
  assert compared['changed'] == {
    'wrong to right': 5,
    'right to wrong': 1,
    'wrong to another wrong answer': 2,
    'right both times': 10,
    'same wrong answer': 2,
  }
  greedy = compared['figures']['greedy']
  assert [x['value'] for x in greedy['values']] == [11 / 20, 15 / 20]
  assert greedy['difference']['value'] == pytest.approx(4 / 20)
  # 6 changed, at most 1 in the other direction: 2 (1 + 6) / 2^6.
  assert greedy['difference']['p'] == pytest.approx(14 / 64)
  assert compared['figures']['mean@2']['difference']['p'] == 1
  assert [e['question'] for e in compared['lost']] == ['5 * 0 + 1']
  assert compared['lost'][0]['answers'] == ['1', '2']
  assert len(compared['gained']) == 5
  assert compared['settings_differ'] == {}
  assert json.loads(json.dumps(compared)) == compared


def test_a_constant_difference_is_explained():
  """The sampled answers of `sides` are the same, and half of them are right."""
  compared = compare(*sides())
  difference = compared['figures']['mean@2']['difference']
  # 1.96^2 / (20 + 1.96^2)
  assert difference['value'] == 0
  assert difference['high'] == pytest.approx(0.1611, abs=1e-4)
  assert not compared['figures']['greedy']['difference']['constant']
  text = report.to_markdown(compared)
  assert 'All 20 questions have the same difference in mean@2, pass@2' in text
  assert 'nan' not in text


def test_ten_examples_are_kept_in_each_direction():
  first = [row(i, ['2']) for i in range(30)]
  second = [row(i, ['1']) for i in range(30)]
  compared = comparison.compare(
    first, second, names=('a', 'b'), settings=(SETTINGS | {'samples': 0},) * 2
  )
  assert len(compared['gained']) == 10
  assert compared['changed']['wrong to right'] == 30
  assert compared['figures']['greedy']['difference']['p'] == 2 / 2**30


def test_different_questions_are_rejected():
  first, second = sides()
  with pytest.raises(ValueError, match='found 20 and 19 questions'):
    compare(first, second[:-1])
  second[3] = row(3, ['1', '1', '1'], question='what?')
  with pytest.raises(ValueError, match=r"'3 \* 0 \+ 1' and 'what\?' at num"):
    compare(first, second)


def test_settings_that_differ_are_listed():
  compared = compare(*sides(), temperature=0.5)
  assert compared['settings_differ'] == {'temperature': [1.0, 0.5]}
