"""Tests of alarms.jsonl."""

import pytest

from sqlm_jax.workdir import alarms


def event(step, kind='raised', **changes):
  row = {'step': step, 'name': 'one_answer', 'event': kind, 'since': step - 1}
  return row | {'signal': 'solver/answer_share_max'} | changes


def test_alarms_are_appended_and_rewound(tmp_path):
  alarms.rewind(tmp_path, 0)
  alarms.append(tmp_path, [])
  assert list(tmp_path.iterdir()) == []
  assert alarms.read(tmp_path) == []
  alarms.append(tmp_path, [event(3), event(5)])
  alarms.append(tmp_path, [event(7)])
  with (tmp_path / 'alarms.jsonl').open('a') as file:
    file.write('{"step": 8, "na')
  assert [row['step'] for row in alarms.read(tmp_path)] == [3, 5, 7]
  alarms.rewind(tmp_path, 7)
  assert alarms.read(tmp_path) == [event(3), event(5)]


@pytest.mark.parametrize(
  'step, raised',
  [(2, False), (3, True), (6, True), (7, False), (9, True), (99, True)],
)
def test_an_alarm_is_about_the_models_of_its_steps(step, raised):
  events = [
    event(4, since=3),
    event(6, 'ended', since=3),
    event(9, since=9),
    event(1, name='unreadable', since=0),
  ]
  assert alarms.is_raised(events, step, {'one_answer'}) is raised
  assert not alarms.is_raised(events, step, set())
