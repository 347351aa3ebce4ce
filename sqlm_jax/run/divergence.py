"""Raises alarms, and stops or rolls back a run if an alarm requires it."""

from collections.abc import Mapping, Sequence

import jax
from absl import logging

from sqlm_jax.distributed import processes
from sqlm_jax.run import (
  alarm_rules,
  build,
  train_states,
  unreadable_questions,
  webhook,
)
from sqlm_jax.selfplay import step_types
from sqlm_jax.workdir import checkpoints, run_writer


class DivergedError(RuntimeError):
  """Raised to end a run that would also diverge after a restart."""


def check(
  parts: build.Parts,
  state: alarm_rules.State,
  *,
  step: int,
  metrics: Mapping[str, float],
  outcome: step_types.Outcome,
) -> tuple[alarm_rules.State, list[alarm_rules.Event]]:
  """Returns the alarms that are raised or end in a step.

  Every process must call this function.

  Args:
    parts: Parts of the run.
    state: State of the alarms before the step.
    step: The step, counted from 0.
    metrics: Metrics of the step.
    outcome: Outcome of the step, from which details of alarms are taken.

  Returns:
    The state after the step, and the alarms.
  """

  def numbers() -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items()}

  state, events = alarm_rules.check(
    alarm_rules.make_rules(parts.config.alarms),
    state,
    step=step,
    # Times differ between processes, but all must make the same decision.
    metrics=processes.broadcast_from_first(numbers),
  )
  return state, [
    event._replace(detail=_detail(event.signal, outcome, parts))
    if event.event == 'raised'
    else event
    for event in events
  ]


def _detail(
  signal: str, outcome: step_types.Outcome, parts: build.Parts
) -> str:
  if signal == 'proposer/valid_rate':
    problems = [
      question.problem
      for game_round in outcome.rounds
      for question in step_types.proposed(game_round.questions)
    ]
    return unreadable_questions.describe(problems, parts.config)
  if signal.endswith('/skipped_rate'):
    prefix = f'{signal.removesuffix("skipped_rate")}not_finite/'
    names = [m for m in outcome.metrics if m.startswith(prefix)]
    causes = ', '.join(name.removeprefix(prefix) for name in names)
    return f'these metrics were not finite: {causes}'
  return ''


def announce(
  events: Sequence[alarm_rules.Event],
  writer: run_writer.RunWriter,
  hook: webhook.Webhook,
) -> None:
  """Writes alarms to alarms.jsonl, the terminal and the webhook."""
  writer.alarms([event._asdict() for event in events])
  if not processes.is_first():
    return
  for event in events:
    text = f'step {event.step}: {alarm_rules.describe(event)}'
    logging.warning('%s', text)
    # Chat programs show the field `text`.
    hook.post(event._asdict() | {'workdir': f'{writer.workdir}', 'text': text})


def react(
  parts: build.Parts,
  manager: checkpoints.Manager,
  *,
  step: int,
  states: step_types.States,
  alarms: alarm_rules.State,
  events: Sequence[alarm_rules.Event],
) -> tuple[step_types.States, alarm_rules.State, list[alarm_rules.Event]]:
  """Continues after a step, rolls back to a checkpoint, or stops the run.

  Repeating the same steps would give the same result, because all randomness
  is derived from the step number. A rollback therefore continues with the next
  step from the weights of the last checkpoint, which helped PaLM (Chowdhery et
  al., 2022, section 5.1).

  An alarm with the action `not_best` is raised steps after its condition began
  to hold. Checkpoints that were scored in between lose their scores.

  Returns:
    The states, the state of the alarms, and the alarms that a rollback ended;
    [] if there was no rollback.

  Raises:
    DivergedError: If the run must stop; the message has the reason and the last
      checkpoint.
  """
  for event in events:
    if (event.event, event.action) == ('raised', 'not_best'):
      checkpoints.withdraw_scores(manager, event.since)
  raised = {e.action: e for e in reversed(events) if e.event == 'raised'}
  event = raised.get('stop') or raised.get('roll_back')
  if event is None:
    return states, alarms, []
  config = parts.config.alarms
  last = checkpoints.latest_step(manager)
  if (
    event.action == 'stop'
    or last is None
    or alarms.rollbacks >= config.max_rollbacks
  ):
    where = 'There is no checkpoint yet.'
    if last is not None:
      where = f'The last good checkpoint is {manager.place / str(last)}.'
    raise DivergedError(
      f'step {step}: {alarm_rules.describe(event)}. The run has diverged after '
      f'{alarms.rollbacks} rollbacks and stops. {where}'
    )
  logging.warning(
    'step %d: rolling back to the weights of step %d.', step, last
  )
  jax.tree.map(lambda x: x.delete(), states)  # there is memory for one copy
  _, states, _ = checkpoints.restore(
    manager, train_states.abstract_states(parts)
  )
  rules = alarm_rules.make_rules(config)
  ended = [
    e._replace(event='ended', detail='rolled back')
    for e in events
    if (e.event, e.action) == ('raised', 'roll_back')
  ]
  return states, alarm_rules.after_rollback(alarms, rules), ended
