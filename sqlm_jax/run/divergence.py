"""Detects from the metrics that a run has diverged.

Updates that are not finite are already skipped on the device. This module
counts consecutive skipped updates, and raises an alarm if the policy is too far
from the initial model or its entropy is too low. It also counts and reports
consecutive steps in which most questions are unreadable.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
from absl import logging

from sqlm_jax.config import schema as config_lib
from sqlm_jax.distributed import processes
from sqlm_jax.run import build, train_states, unreadable_questions
from sqlm_jax.selfplay import step_types
from sqlm_jax.workdir import checkpoints


class DivergedError(RuntimeError):
  """Raised to end a run that would also diverge after a restart."""


class Health(NamedTuple):
  """Counts over earlier steps, which are stored in checkpoints.

  Attributes:
    skipped: Number of consecutive skipped updates by the name of the updated
      model. A step in which at least one update was applied resets it to 0.
    rollbacks: Number of times that the run returned to earlier weights.
    unreadable: Number of consecutive steps in which most questions could not
      be used.
  """

  skipped: Mapping[str, int] = {}
  rollbacks: int = 0
  unreadable: int = 0


def from_host(state: Mapping[str, Any]) -> Health:
  """Converts the stored form of `Health._asdict`, also of earlier versions."""
  return Health(**state)._replace(skipped=dict(state['skipped']))


def count_skipped(health: Health, metrics: Mapping[str, float]) -> Health:
  """Returns the health with the skipped updates of a step added."""
  skipped = dict(health.skipped)
  for metric, rate in metrics.items():
    name = metric.removesuffix('/skipped_rate')
    if name != metric:
      # A critic is updated as often as the policy of its role.
      updates = int(metrics[f'train/{name.split("/")[-1]}/updates'])
      skipped[name] = skipped.get(name, 0) + updates if rate == 1 else 0
  return health._replace(skipped=skipped)


def not_finite(
  health: Health, metrics: Mapping[str, float], limit: int
) -> str | None:
  """Returns a message if too many consecutive updates were skipped, or None.

  Args:
    health: Counts that include this step.
    metrics: Metrics of this step.
    limit: Number of consecutive skipped updates that stops the run; 0 for no
      limit.
  """
  for name, count in health.skipped.items():
    if limit and count >= limit:
      prefix = f'{name}/not_finite/'
      causes = [m.removeprefix(prefix) for m in metrics if m.startswith(prefix)]
      return (
        f'{count} consecutive updates of {name} were skipped because these '
        f'metrics were not finite: {", ".join(causes)} '
        f'(divergence.max_skipped_updates={limit})'
      )
  return None


def alarm(
  metrics: Mapping[str, float], rules: config_lib.Divergence
) -> str | None:
  """Returns a message about the first metric out of bounds, None if all fit."""
  for name, value in metrics.items():
    kind = name.split('/')[-1] if name.startswith('train/') else ''
    if kind == 'kl' and rules.max_kl and value > rules.max_kl:
      return f'{name}={value:.4g} (divergence.max_kl={rules.max_kl})'
    if kind == 'entropy' and value < rules.min_entropy:
      return f'{name}={value:.4g} (divergence.min_entropy={rules.min_entropy})'
  return None


def react(
  parts: build.Parts,
  manager: checkpoints.Manager,
  *,
  step: int,
  states: step_types.States,
  health: Health,
  outcome: step_types.Outcome,
) -> tuple[step_types.States, Health, bool]:
  """Continues after a step, rolls back to a checkpoint, or stops the run.

  Repeating the same steps would give the same result, because all randomness
  is derived from the step number. A rollback therefore continues with the next
  step from the weights of the last checkpoint, which helped PaLM (Chowdhery et
  al., 2022, section 5.1).

  Returns:
    The states, the health that includes this step, and True if the states were
    rolled back.

  Raises:
    DivergedError: If the run must stop; the message has the reason and the last
      checkpoint.
  """
  rules, metrics = parts.config.divergence, outcome.metrics
  health = count_skipped(health, metrics)
  health = health._replace(
    unreadable=unreadable_questions.count(health.unreadable, metrics)
  )
  failure = not_finite(health, metrics, rules.max_skipped_updates)
  warning = alarm(metrics, rules) or _unreadable(
    parts.config, outcome, step=step, num_steps=health.unreadable
  )
  if not failure and not warning:
    return states, health, False
  last = checkpoints.latest_step(manager)
  can_roll_back = rules.action == 'roll_back' and last is not None
  if failure or not can_roll_back or health.rollbacks >= rules.max_rollbacks:
    where = 'There is no checkpoint yet.'
    if last is not None:
      where = f'The last good checkpoint is {manager.place / str(last)}.'
    raise DivergedError(
      f'step {step}: {failure or warning}. The run has diverged after '
      f'{health.rollbacks} rollbacks and stops. {where}'
    )
  logging.warning(
    'step %d: %s; rolling back to the weights of step %d.', step, warning, last
  )
  jax.tree.map(lambda x: x.delete(), states)  # there is memory for one copy
  _, states, _ = checkpoints.restore(
    manager, train_states.abstract_states(parts)
  )
  return states, Health(rollbacks=health.rollbacks + 1), True


def _unreadable(
  config: config_lib.Config,
  outcome: step_types.Outcome,
  *,
  step: int,
  num_steps: int,
) -> str | None:
  """Warns about unreadable questions, or returns the message of an alarm.

  Args:
    config: Config of the run.
    outcome: Outcome of the step.
    step: Number of the step.
    num_steps: Number of consecutive steps with mostly unreadable questions.
  """
  limit = config.divergence.max_unreadable_steps
  is_alarm = limit > 0 and num_steps >= limit
  if not is_alarm and num_steps != unreadable_questions.WARN_AFTER:
    return None
  problems = [
    question.problem
    for game_round in outcome.rounds
    for question in step_types.proposed(game_round.questions)
  ]
  text = unreadable_questions.describe(problems, config, num_steps)
  if is_alarm:
    return f'{text} (divergence.max_unreadable_steps={limit})'
  if processes.is_first():
    logging.warning('step %d: %s.', step, text)
  return None
