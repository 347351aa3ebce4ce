"""Measuring in turn, and what is made of the numbers."""

import json

from benchmarks import pairs


def test_sides_are_measured_in_turn():
  order = []

  def side(name, values):
    return lambda: order.append(name) or next(values)

  found = pairs.in_turn(
    {'a': side('a', iter([3.0, 8.0])), 'b': side('b', iter([2.0, 4.0]))}, 2
  )
  assert order == ['a', 'b', 'a', 'b']
  assert found == {'a': [3.0, 8.0], 'b': [2.0, 4.0]}
  # Round by round: the ratio of the medians would be 5.5 / 3.
  assert pairs.ratios(found['a'], found['b']) == [1.5, 2.0]


def test_median_and_range():
  assert pairs.spread([5.0, 1.0, 2.0]) == {
    'median': 2.0,
    'low': 1.0,
    'high': 5.0,
    'values': [5.0, 1.0, 2.0],
  }
  assert pairs.tell([5.0, 1.0, 2.0]) == '2 (1-5)'


def test_a_result_is_one_line_of_json_and_one_for_people(capsys):
  pairs.show('name', {'x': {'median': 1.23456, 'n': 12345}}, 'as text')
  first, second = capsys.readouterr().out.splitlines()
  found = json.loads(first)
  assert (found['benchmark'], found['x']) == (
    'name',
    {'median': 1.235, 'n': 12345},
  )
  assert 'jax' in found['machine']
  assert second == 'name: as text'
