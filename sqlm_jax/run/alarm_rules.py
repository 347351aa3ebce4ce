"""Decides from the metrics of a step which alarms are raised and which end.

An alarm is raised when its condition has held for a number of consecutive
steps, and it ends at the first step in which the condition does not hold. A
step without the metric changes nothing. All functions are pure, and their state
is stored in checkpoints, so a resumed run raises the same alarms.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from sqlm_jax.config import alarms_schema, conditions


class Rule(NamedTuple):
  """A rule of the config, parsed.

  Attributes:
    name: Name of the alarm.
    comparisons: All must hold. The alarm reports the metric of the first one,
      and there is one alarm for each metric that its pattern matches.
    steps: Number of consecutive steps after which the alarm is raised.
    action: One of `alarms_schema.ACTIONS`.
  """

  name: str
  comparisons: tuple[conditions.Comparison, ...]
  steps: int
  action: str


class Holding(NamedTuple):
  """A condition that held in the last step that had its metric.

  Attributes:
    since: First of the consecutive steps in which it held.
    steps: Number of these steps.
    is_raised: True if the alarm has been raised.
  """

  since: int
  steps: int
  is_raised: bool


class State(NamedTuple):
  """The state of all alarms after a step, which checkpoints store.

  Attributes:
    starts: First value of each metric that is compared with its start.
    highest: Highest value of each metric that is compared with it.
    holding: Conditions that hold, by name of the rule and by metric.
    rollbacks: Number of times that the run returned to earlier weights.
  """

  starts: Mapping[str, float] = {}
  holding: Mapping[str, Mapping[str, Holding]] = {}
  rollbacks: int = 0
  highest: Mapping[str, float] = {}

  def reference(self, comparison: conditions.Comparison, name: str) -> float:
    """Returns the value that a metric is compared with, NaN without one."""
    values = {'start': self.starts, 'highest': self.highest}
    return values.get(comparison.reference, {}).get(name, math.nan)


class Event(NamedTuple):
  """An alarm that is raised, or that ends, in a step.

  Attributes:
    step: The step, counted from 0.
    name: Name of the alarm.
    event: 'raised' or 'ended'.
    signal: The metric.
    value: Value of the metric in this step.
    sign: Comparison of the value with the threshold: <, <=, > or >=.
    threshold: The threshold.
    since: First step in which the condition held.
    action: Action of the rule.
    detail: Further text about this step, '' for none.
  """

  step: int
  name: str
  event: str
  signal: str
  value: float
  sign: str
  threshold: float
  since: int
  action: str
  detail: str = ''


def make_rules(config: alarms_schema.Alarms) -> tuple[Rule, ...]:
  """Returns the rules that are not off, the default ones first."""
  defaults = alarms_schema.DEFAULTS if config.defaults else ()
  rules = {rule[0]: rule for rule in (*defaults, *config.rules)}
  return tuple(
    Rule(name, conditions.parse(condition), steps, action)
    for name, condition, steps, action in rules.values()
    if action != 'off'
  )


def from_host(stored: Mapping[str, Any]) -> State:
  """Converts the stored form of a `State`, see `to_host`."""
  return State(
    stored['starts'],
    {
      name: {signal: Holding(*fields) for signal, fields in signals.items()}
      for name, signals in stored['holding'].items()
    },
    stored['rollbacks'],
    stored.get('highest', {}),  # not in checkpoints of earlier versions
  )


def to_host(state: State) -> dict[str, Any]:
  """Returns the state as JSON-serializable values."""
  holding = {
    name: {signal: list(fields) for signal, fields in signals.items()}
    for name, signals in state.holding.items()
  }
  return state._asdict() | {
    'starts': dict(state.starts),
    'highest': dict(state.highest),
    'holding': holding,
  }


def check(
  rules: Sequence[Rule],
  state: State,
  *,
  step: int,
  metrics: Mapping[str, float],
) -> tuple[State, list[Event]]:
  """Compares the metrics of a step with all rules.

  Args:
    rules: The rules.
    state: State before the step.
    step: The step, counted from 0.
    metrics: Metrics of the step. A value that is not a number is ignored.

  Returns:
    The state after the step, and the alarms that are raised or end.
  """
  metrics = {k: v for k, v in metrics.items() if not math.isnan(v)}
  highest = dict(_compared(rules, metrics, 'highest'))
  state = state._replace(
    starts=dict(_compared(rules, metrics, 'start')) | dict(state.starts),
    highest=dict(state.highest)
    | {k: max(v, state.highest.get(k, v)) for k, v in highest.items()},
  )
  holding, events = {}, []
  for rule in rules:
    held = dict(state.holding.get(rule.name, {}))
    for signal, holds in _signals(rule, metrics, state):
      before = held.pop(signal, Holding(step, 0, is_raised=False))
      steps = before.steps + 1
      is_raised = before.is_raised or steps >= rule.steps
      if holds:
        held[signal] = Holding(before.since, steps, is_raised)
      if before.is_raised != (holds and is_raised):
        first = rule.comparisons[0]
        event = Event(
          step=step,
          name=rule.name,
          event='raised' if holds else 'ended',
          signal=signal,
          value=metrics[signal],
          sign=first.sign,
          threshold=first.threshold(state.reference(first, signal)),
          since=before.since,
          action=rule.action,
        )
        events.append(event)
    if held:
      holding[rule.name] = held
  return state._replace(holding=holding), events


def _compared(
  rules: Sequence[Rule], metrics: Mapping[str, float], reference: str
) -> Iterator[tuple[str, float]]:
  """Yields the metrics that some rule compares with a reference."""
  for rule in rules:
    for comparison in rule.comparisons:
      if comparison.reference == reference:
        yield from _matching(comparison, metrics)


def _matching(
  comparison: conditions.Comparison, metrics: Mapping[str, float]
) -> list[tuple[str, float]]:
  return [(k, v) for k, v in metrics.items() if comparison.matches(k)]


def _signals(
  rule: Rule, metrics: Mapping[str, float], state: State
) -> Iterator[tuple[str, bool]]:
  """Yields each metric of a rule, and True if the condition holds for it."""
  first, *others = rule.comparisons
  others_hold = []
  for comparison in others:
    values = _matching(comparison, metrics)
    if not values:
      return
    others_hold.append(
      any(
        comparison.holds(v, state.reference(comparison, k)) for k, v in values
      )
    )
  for name, value in _matching(first, metrics):
    holds = first.holds(value, state.reference(first, name))
    yield name, holds and all(others_hold)


def to_metrics(state: State, events: Sequence[Event]) -> dict[str, float]:
  """Returns `alarm/<name>`: 1 while an alarm is raised, 0 when it ends."""
  ended = {f'alarm/{event.name}': 0.0 for event in events}
  raised = {
    f'alarm/{name}': 1.0
    for name, signals in state.holding.items()
    if any(holding.is_raised for holding in signals.values())
  }
  return ended | raised


def after_rollback(state: State, rules: Sequence[Rule]) -> State:
  """Returns the state after a rollback, whose conditions start again."""
  roll_back = {rule.name for rule in rules if rule.action == 'roll_back'}
  holding = {k: v for k, v in state.holding.items() if k not in roll_back}
  return state._replace(holding=holding, rollbacks=state.rollbacks + 1)


def is_finished(state: State, rules: Sequence[Rule]) -> bool:
  """Returns True if an alarm is raised whose action is to finish the run."""
  return any(
    holding.is_raised
    for rule in rules
    if rule.action == 'finish'
    for holding in state.holding.get(rule.name, {}).values()
  )


def describe(event: Event) -> str:
  """Describes an alarm in one line."""
  value = f'{event.signal}={event.value:.4g}'
  if event.event == 'ended':
    text = f'alarm {event.name} has ended: {value} (since step {event.since})'
  else:
    text = (
      f'alarm {event.name}: {value} {event.sign} {event.threshold:.4g} since '
      f'step {event.since}'
    )
  return f'{text}; {event.detail}' if event.detail else text
