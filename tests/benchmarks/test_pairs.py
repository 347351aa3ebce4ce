"""Alternating measurements and their summaries."""

import json

from benchmarks import pairs


def test_sides_are_measured_in_turn():
  order = []

  def side(name, values):
    return lambda: order.append(name) or next(values)

  measured = pairs.in_turn(
    {'a': side('a', iter([3.0, 8.0])), 'b': side('b', iter([2.0, 4.0]))}, 2
  )
  assert order == ['a', 'b', 'a', 'b']
  assert measured == {'a': [3.0, 8.0], 'b': [2.0, 4.0]}
  # Computed for each round: the ratio of the medians would be 5.5 / 3.
  assert pairs.ratios(measured['a'], measured['b']) == [1.5, 2.0]


def test_median_and_range():
  assert pairs.spread([5.0, 1.0, 2.0]) == {
    'median': 2.0,
    'low': 1.0,
    'high': 5.0,
    'values': [5.0, 1.0, 2.0],
  }
  assert pairs.summarize([5.0, 1.0, 2.0]) == '2 (1-5)'


def test_a_result_is_a_line_of_json_and_a_line_of_text(capsys):
  pairs.show('name', {'x': {'median': 1.23456, 'n': 12345}}, 'as text')
  first, second = capsys.readouterr().out.splitlines()
  result = json.loads(first)
  assert (result['benchmark'], result['x']) == (
    'name',
    {'median': 1.235, 'n': 12345},
  )
  assert 'jax' in result['machine']
  assert second == 'name: as text'
