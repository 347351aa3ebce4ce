"""The main job: a language model teaches itself.

Start here: `train` sets up and loops, `selfplay.step.self_play_step` is one
turn of the loop, `engine.learner` is the gradient.
"""

import contextlib
import functools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from absl import logging
from etils import epath
from jax.experimental import multihost_utils

from sqlm_jax import closing, display, run_evaluations
from sqlm_jax.config import schema as config_lib
from sqlm_jax.distributed import hosts
from sqlm_jax.game import repetition
from sqlm_jax.run import assemble, divergence, evaluation_sets
from sqlm_jax.run import states as states_lib
from sqlm_jax.selfplay import game as game_lib
from sqlm_jax.selfplay import step as step_lib
from sqlm_jax.workdir import (
  checkpoint,
  evaluation_files,
  records,
  storage,
  writers,
)


def train(config: config_lib.Config, workdir: str) -> bool:
  """Trains by self-play in `workdir`, from where an earlier start stopped.

  Steps are counted from 0. A checkpoint or an evaluation of step n has seen n
  steps: the evaluation before training is number 0.

  Args:
    config: what to train, on what, for how long; may be a ConfigDict.
    workdir: the run's directory, see `writers`.

  Returns:
    True if the run is done, False if a signal has stopped it.

  Raises:
    ValueError: if `workdir` belongs to another config, or model and config do
      not fit.
    RuntimeError: if another run is writing there.
    OSError: if something cannot be written; earlier checkpoints stay intact.
    divergence.DivergedError: if the run has diverged, by the config's
      `divergence`.
  """
  config = config_lib.of(config)
  storage.check(workdir)
  directory = epath.Path(workdir)
  parts = _prepare(config, directory)
  with contextlib.ExitStack() as stack:
    stop = stack.enter_context(_stop_signals())
    # The first process takes the lock; if it fails, every process raises.
    hosts.from_first(lambda: stack.enter_context(storage.locked(directory)))
    manager = stack.enter_context(_open_checkpoints(directory, config))
    step, states, memory, health = _restore_or_start(parts, manager)

    # After all checks: a run that does not fit leaves no config.json.
    writer = stack.enter_context(_open_writer(directory, parts.config, step))
    game = assemble.make_game(parts)
    table = stack.enter_context(
      display.LiveTable(_columns(parts), title=f'{directory}')
    )
    scores = _evaluate(parts, game, states, step, writer, manager, stop)
    # The next step's first round, if it was sampled ahead, and the optimizer
    # steps of the weights that sampled it.
    asked = sampled_by = None
    stack.callback(lambda: asked and asked.reading.cancel())
    if step:
      # A run that was killed in an evaluation has saved without the score.
      choice = run_evaluations.choose(parts, writer, step)
      _save(manager, step, states, memory, health, choice=choice)
    while step < config.num_steps and not stop.before(step):
      start = time.perf_counter()
      policy_steps = _policy_steps(parts, states)
      sampled_by = sampled_by if asked else policy_steps
      states, memory, outcome = step_lib.self_play_step(
        step,
        states,
        memory,
        game,
        asked,
        look_ahead=_looks_ahead(config, step),
      )
      metrics = outcome.metrics | {'time/step': time.perf_counter() - start}
      rows = _rollout_rows(parts, outcome, sampled_by, policy_steps)
      asked, sampled_by = outcome.coming, policy_steps
      writer.rollouts(step, rows)
      writer.metrics(step, metrics)
      # The table shows an evaluation in the line of the step after it.
      shown = metrics | scores | {'step': step}
      table.update(shown, records.sample_questions(outcome))
      states, health, rolled_back = divergence.react(
        parts, manager, step, states, health, outcome
      )
      if rolled_back and asked:
        asked.reading.cancel()
        asked = None
      step += 1
      # Before the evaluation, so that a kill in it does not lose the step.
      must_save = rolled_back or step == config.num_steps
      _save(manager, step, states, memory, health, force=must_save)
      scores = _evaluate(parts, game, states, step, writer, manager, stop)
      choice = run_evaluations.choose(parts, writer, step)
      _save(manager, step, states, memory, health, choice=choice)
    if scores and step:
      table.update(scores | {'step': step})
    _save(manager, step, states, memory, health, force=True)
    checkpoint.wait(manager)
    best = checkpoint.best_step(manager)
  if hosts.is_first():
    closing.report(parts, writer, step, best)
  # A run that is stopped after its last step may have an evaluation left.
  return step >= config.num_steps and not stop.now()


def _prepare(
  config: config_lib.Config, directory: epath.Path
) -> assemble.Parts:
  """Prepares everything but arrays, so that bad input fails early."""
  parts = assemble.build(config, directory)
  parts.task.prepare()
  sets = [parts.sets(purpose) for purpose in evaluation_sets.PURPOSES]
  if all(sets):
    evaluation_sets.check_disjoint(*sets)
  stored = config_lib.to_dict(parts.config)
  hosts.from_first(
    lambda: writers.check_config(
      directory,
      stored,
      may_change=config_lib.MAY_CHANGE,
      complete=config_lib.complete,
    )
  )
  return parts


def _policy_steps(
  parts: assemble.Parts, states: game_lib.States
) -> dict[str, int]:
  """Returns role -> optimizer steps of the weights that it uses now."""
  return {role: int(states[owner].step) for role, owner in parts.owner.items()}


def _rollout_rows(
  parts: assemble.Parts,
  outcome: game_lib.Outcome,
  sampled_by: dict[str, int],
  policy_steps: dict[str, int],
) -> list[dict[str, Any]]:
  return records.rollout_rows(
    outcome,
    seed=parts.config.seed,
    sampled_by=sampled_by,
    policy_steps=policy_steps,
    show=functools.partial(parts.tokens.decode, skip_special=False),
  )


def _open_checkpoints(
  directory: epath.Path, config: config_lib.Config
) -> contextlib.AbstractContextManager[checkpoint.Manager]:
  """Opens the checkpoints of the run.

  If they are gone, because a disk is not mounted, say, it refuses instead of
  playing the run again. The directory is made before the first line of
  metrics.jsonl is written. A bucket has no directories to check.
  """
  path = directory / 'checkpoints'
  if (
    (directory / 'metrics.jsonl').exists()
    and not storage.is_remote(directory)
    and not path.exists()
  ):
    raise ValueError(
      f'{path}: expected the checkpoints of the run whose metrics.jsonl is '
      'beside it, and they are gone. Bring them back, or name another --workdir'
    )
  every, keep = config.checkpoint.every, config.checkpoint.keep
  return checkpoint.open_checkpoints(path, keep=keep, every=every)


def _restore_or_start(
  parts: assemble.Parts, manager: checkpoint.Manager
) -> tuple[int, game_lib.States, repetition.Memory, divergence.Health]:
  memory = assemble.make_memory(parts.config)
  if checkpoint.latest_step(manager) is None:
    display.message(f'Loading the model: {parts.config.model.path}')
    return 0, states_lib.initial_states(parts), memory, divergence.Health()
  step, states, host = checkpoint.restore(
    manager, states_lib.abstract_states(parts)
  )
  display.message(f'Going on from the checkpoint of step {step}.')
  health = divergence.from_host(host['health'])
  return step, states, memory.add(host['asked']), health


@contextlib.contextmanager
def _open_writer(
  directory: epath.Path, config: config_lib.Config, step: int
) -> Iterator[writers.RunWriter]:
  """Opens the writer, and removes what was written after `step` steps."""
  stored = config_lib.to_dict(config)
  hosts.from_first(lambda: writers.write_config(directory, stored))
  writer = writers.RunWriter(directory, hosts.index(), hosts.count())
  with contextlib.closing(writer):
    hosts.from_first(lambda: _forget_after(step, writer))
    yield writer


def _forget_after(step: int, writer: writers.RunWriter) -> None:
  writer.rewind(step)
  evaluation_files.forget_after(writer.workdir, step)


def _looks_ahead(config: config_lib.Config, step: int) -> bool:
  """Returns True if the next step is sampled before `step` is learned from.

  It is not if a checkpoint or an evaluation, which may save one, comes between
  the two steps: a restart has only the weights of the checkpoint.
  """
  after = step + 1
  stops = (config.checkpoint.every, config.evaluation.every, config.num_steps)
  return config.sampler.one_step_ahead and not any(
    every and after % every == 0 for every in stops
  )


def _save(
  manager: checkpoint.Manager,
  step: int,
  states: game_lib.States,
  memory: repetition.Memory,
  health: divergence.Health,
  *,
  choice: run_evaluations.Choice | None = None,
  force: bool = False,
) -> None:
  """Saves a checkpoint if it is due, forced or the best so far.

  If the step is saved already, the score of `choice` is added to it.
  """
  host_state = {'asked': list(memory.questions), 'health': health._asdict()}
  checkpoint.save(
    manager,
    step,
    states,
    host_state,
    score=choice.score if choice else None,
    start_score=choice.start if choice else None,
    force=force or bool(choice and choice.is_best),
  )


def _evaluate(
  parts: assemble.Parts,
  game: game_lib.Game,
  states: game_lib.States,
  step: int,
  writer: writers.RunWriter,
  manager: checkpoint.Manager,
  stop: '_Stop',
) -> dict[str, float]:
  """Runs the evaluations that are due and returns their figures as metrics."""
  return run_evaluations.evaluate_due(
    parts,
    lambda: game_lib.params_of('solver', states, game),
    step,
    writer,
    stopped=stop.now,
    # A checkpoint that is being saved is on disk before the evaluation begins.
    before=lambda: checkpoint.wait(manager),
  )


def _columns(parts: assemble.Parts) -> tuple[display.Column, ...]:
  shown = evaluation_sets.TEST
  if parts.sets(evaluation_sets.VALIDATION):
    shown = evaluation_sets.VALIDATION
  return display.columns(
    f'{parts.config.task.name}/{shown}', parts.config.evaluation.samples
  )


class _Stop(NamedTuple):
  """Tells if Ctrl-C or SIGTERM has asked the run to stop.

  Attributes:
    before: `step -> True` if the run stops before this step.
    now: returns True if an evaluation is to stop in the middle. Several
      processes stop between steps only, where all of them agree.
  """

  before: Callable[[int], bool]
  now: Callable[[], bool]


@contextlib.contextmanager
def _stop_signals() -> Iterator[_Stop]:
  """Handles Ctrl-C and SIGTERM until the run ends.

  After a first signal the current step is finished and saved; a second signal
  ends the process. A signal to one of several processes stops all of them: jax
  watches for SIGTERM, and finds the next step that none of them has begun.
  """
  several = hosts.count() > 1
  event = threading.Event()

  def stop(signum, _):
    event.set()
    signal.signal(signum, signal.default_int_handler)
    name = signal.Signals(signum).name
    logging.warning('%s: finishing this step, then saving.', name)
    if several:
      os.kill(os.getpid(), signal.SIGTERM)

  asked = _Stop(lambda _: event.is_set(), event.is_set)
  if several:
    asked = _Stop(multihost_utils.reached_preemption_sync_point, lambda: False)
  signals = (signal.SIGINT,) if several else (signal.SIGINT, signal.SIGTERM)
  if threading.current_thread() is not threading.main_thread():
    yield asked  # only the main thread can handle signals
    return
  before = [signal.signal(signum, stop) for signum in signals]
  try:
    yield asked
  finally:
    for signum, handler in zip(signals, before, strict=True):
      signal.signal(signum, handler)
