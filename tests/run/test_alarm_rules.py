"""Tests of the rules that raise and end alarms."""

import json
import math
import pathlib

import pytest

from sqlm_jax.config import alarms_schema
from sqlm_jax.run import alarm_rules


def make_rules(*rules, defaults=False):
  return alarm_rules.make_rules(alarms_schema.Alarms(rules, defaults=defaults))


NEW = alarm_rules.State()


def play(rules, steps, state=NEW):
  """Returns the events and the `alarm/` metrics of each step."""
  all_events, all_metrics = [], []
  for step, metrics in enumerate(steps):
    state, events = alarm_rules.check(rules, state, step=step, metrics=metrics)
    # As if the run were resumed after every step.
    stored = json.loads(json.dumps(alarm_rules.to_host(state)))
    assert alarm_rules.from_host(stored) == state
    state = alarm_rules.from_host(stored)
    all_events += events
    all_metrics.append(alarm_rules.to_metrics(state, events))
  return all_events, all_metrics


def test_an_alarm_is_raised_after_its_steps_and_ends():
  rules = make_rules(('high', 'vote/agreement > 0.9', 3, 'warn'))
  values = [0.95, 0.8, 0.91, 0.92, None, 0.93, 0.99, None, 0.9, 0.95]
  steps = [{} if v is None else {'vote/agreement': v} for v in values]
  events, metrics = play(rules, steps)
  assert [(e.step, e.event, e.value, e.since) for e in events] == [
    (5, 'raised', 0.93, 2),
    (8, 'ended', 0.9, 2),
  ]
  assert [m.get('alarm/high') for m in metrics] == [
    *[None] * 5,
    *[1, 1, 1],  # a step without the metric changes nothing
    0,
    None,
  ]
  assert alarm_rules.describe(events[0]) == (
    'alarm high: vote/agreement=0.93 > 0.9 since step 2'
  )
  assert alarm_rules.describe(events[1]) == (
    'alarm high has ended: vote/agreement=0.9 (since step 2)'
  )
  detailed = events[0]._replace(detail='why')
  assert alarm_rules.describe(detailed).endswith('since step 2; why')


def test_a_value_is_compared_with_the_first_one_of_the_run():
  rules = make_rules(('short', 'a < 0.5 * start', 1, 'warn'))
  (event,), _ = play(rules, [{}, {'a': 8.0}, {'a': 4.0}, {'a': 3.0}])
  assert (event.step, event.threshold) == (3, 4.0)


def test_a_value_is_compared_with_the_highest_one_so_far():
  rules = make_rules(('fall', 'a < 0.5 * highest', 2, 'finish'))
  values = [4.0, 8.0, 3.0, None, 5.0, 3.0, 2.0, 1.0]
  steps = [{} if v is None else {'a': v} for v in values]
  (event,), _ = play(rules, steps)
  assert (event.step, event.since, event.threshold) == (6, 5, 4.0)


def test_a_raised_alarm_finishes_a_run():
  rules = make_rules(
    ('low', 'a < 1', 2, 'finish'), ('high', 'a > 2', 1, 'warn')
  )
  state, found = NEW, []
  for step, value in enumerate([3, 0, 0, None]):
    metrics = {} if value is None else {'a': value}
    state, _ = alarm_rules.check(rules, state, step=step, metrics=metrics)
    found.append(alarm_rules.is_finished(state, rules))
  assert found == [False, False, True, True]
  # With another action, the run can be continued.
  others = make_rules(('low', 'a < 1', 2, 'warn'))
  assert not alarm_rules.is_finished(state, others)


def test_each_metric_of_a_pattern_has_its_own_steps():
  """Different options in turn are no alarm; one option always is."""
  rules = make_rules(('option', 'vote/option_share/* > 0.9', 2, 'warn'))

  def shares(option):
    return {f'vote/option_share/{o}': float(o == option) for o in 'ABC'}

  assert play(rules, map(shares, 'ABABAB')) == ([], [{}] * 6)
  events, metrics = play(rules, map(shares, 'ABBBA'))
  assert [(e.step, e.event, e.signal) for e in events] == [
    (2, 'raised', 'vote/option_share/B'),
    (4, 'ended', 'vote/option_share/B'),
  ]
  assert [m.get('alarm/option') for m in metrics] == [None, None, 1, 1, 0]


@pytest.mark.parametrize(
  'other, raised', [({'kl': 2.0}, True), ({'kl': 1.0}, False), ({}, False)]
)
def test_all_comparisons_must_hold(other, raised):
  rules = make_rules(('both', 'agreement > 0.9 and k* > 1', 1, 'warn'))
  events, _ = play(rules, [{'agreement': 1.0} | other])
  assert [(e.signal, e.value) for e in events] == (
    [('agreement', 1.0)] if raised else []
  )


def test_a_value_that_is_not_a_number_changes_nothing():
  rules = make_rules(('high', 'a > 0.9', 2, 'warn'))
  events, _ = play(rules, [{'a': 1.0}, {'a': math.nan}, {'a': math.inf}])
  assert [e.step for e in events] == [2]


def test_own_rules_replace_default_rules_of_their_name():
  names = [rule.name for rule in make_rules(defaults=True)]
  assert names == [name for name, *_ in alarms_schema.DEFAULTS]
  rules = make_rules(
    ('one_answer', 'a > 1', 7, 'stop'),
    ('unreadable', '', 1, 'off'),
    ('mine', 'b > 1', 1, 'warn'),
    defaults=True,
  )
  by_name = {rule.name: rule for rule in rules}
  assert by_name['one_answer'].steps == 7
  assert set(by_name) == {*names, 'mine'} - {'unreadable'}
  assert make_rules() == ()


def test_a_rollback_starts_the_conditions_of_its_rules_again():
  rules = make_rules(
    ('kl', 'kl > 1', 1, 'roll_back'), ('a', 'a > 1', 2, 'warn')
  )
  state, _ = alarm_rules.check(
    rules, alarm_rules.State(), step=0, metrics={'kl': 2.0, 'a': 2.0}
  )
  state = alarm_rules.after_rollback(state, rules)
  assert state.rollbacks == 1
  events, _ = play(rules, [{'kl': 2.0, 'a': 2.0}], state)
  assert [(e.name, e.since) for e in events] == [('kl', 0), ('a', 0)]


def test_the_docs_list_the_default_alarms():
  page = pathlib.Path(__file__).parents[2] / 'docs' / 'watch.md'
  rows = [
    tuple(cell.strip(' `') for cell in line.split('|')[1:5])
    for line in page.read_text(encoding='utf-8').splitlines()
  ]
  expected = [
    (name, condition, str(steps), action)
    for name, condition, steps, action in alarms_schema.DEFAULTS
  ]
  first = rows.index(expected[0])
  assert rows[first : first + len(expected)] == expected
