"""The state of a run that checkpoints store."""

import dataclasses
from typing import Any

from etils import epath

from sqlm_jax import display
from sqlm_jax.game import repetition
from sqlm_jax.run import alarm_rules, build, probe, reviewing, train_states
from sqlm_jax.selfplay import signals, step_types
from sqlm_jax.workdir import checkpoints


@dataclasses.dataclass
class Progress:
  """The state of a run after `step` steps, which checkpoints store.

  It is mutable so that old train states are freed as soon as they are replaced.
  """

  step: int
  states: step_types.States
  memory: repetition.Memory
  history: signals.History
  alarms: alarm_rules.State
  probe: probe.State

  def to_host(self) -> dict[str, Any]:
    """Returns everything except the train states, for JSON."""
    return {
      'questions': list(self.memory.questions),
      'signals': self.history.to_host(),
      'alarms': alarm_rules.to_host(self.alarms),
      'probe': self.probe._asdict(),
      'review_lines': self.memory.verdicts.num_lines,
    }


def restore_or_start(
  parts: build.Parts, manager: checkpoints.Manager, directory: epath.Path
) -> Progress:
  """Restores the newest checkpoint, or loads the model for step 0."""
  memory = build.make_memory(parts.config)
  if checkpoints.latest_step(manager) is None:
    display.message(f'Loading the model: {parts.config.model.path}')
    states = train_states.initial_states(parts)
    memory = reviewing.resume(directory, 0, memory)
    return Progress(
      0,
      states,
      memory,
      signals.History(),
      alarm_rules.State(),
      probe.State(),
    )
  step, states, host = checkpoints.restore(
    manager, train_states.abstract_states(parts)
  )
  display.message(f'Resuming from the checkpoint of step {step}.')
  # Checkpoints of earlier versions have read no verdicts.
  num_lines = host.get('review_lines', 0)
  memory = memory.add(host['questions'])
  return Progress(
    step,
    states,
    reviewing.resume(directory, step, memory, num_lines),
    signals.from_host(host['signals']),
    alarm_rules.from_host(host['alarms']),
    probe.from_host(host['probe']),
  )
