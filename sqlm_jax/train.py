"""The training loop of self-play.

Start reading here: `train` sets up the run and loops over steps,
`selfplay.step.self_play_step` is one step, and `engine.learner` computes the
gradient.
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
from sqlm_jax.distributed import processes
from sqlm_jax.game import repetition
from sqlm_jax.run import build, divergence, evaluation_sets, train_states
from sqlm_jax.selfplay import rounds as rounds_lib
from sqlm_jax.selfplay import step as step_lib
from sqlm_jax.workdir import (
  checkpoints,
  evaluation_files,
  rollout_rows,
  run_writer,
  storage,
)


def train(config: config_lib.Config, workdir: str) -> bool:
  """Trains by self-play, and resumes the run if `workdir` contains one.

  Steps are counted from 0. A checkpoint or an evaluation of step n is of
  weights that have been trained for n steps, so the evaluation before training
  has step 0.

  Args:
    config: Config of the run; may be a ConfigDict.
    workdir: Directory of the run, see `writers`.

  Returns:
    True if the run finished, False if a signal stopped it.

  Raises:
    ValueError: If `workdir` contains a run with another config, or the model
      does not fit the config.
    RuntimeError: If another process is writing to `workdir`.
    OSError: If a file cannot be written; earlier checkpoints stay intact.
    divergence.DivergedError: If the run has diverged according to
      `model_config.divergence`.
  """
  config = config_lib.of(config)
  storage.check(workdir)
  directory = epath.Path(workdir)
  parts = _prepare(config, directory)
  with contextlib.ExitStack() as stack:
    stop = stack.enter_context(_stop_signals())
    # Process 0 takes the lock; if it fails, every process raises.
    processes.broadcast_from_first(
      lambda: stack.enter_context(storage.locked(directory))
    )
    manager = stack.enter_context(_open_checkpoints(directory, config))
    step, states, memory, health = _restore_or_start(parts, manager)

    # Opened after all checks, so that an invalid run writes no config.json.
    writer = stack.enter_context(_open_writer(directory, parts.config, step))
    game = build.make_game(parts)
    table = stack.enter_context(
      display.LiveTable(_columns(parts), title=f'{directory}')
    )
    scores = _evaluate(parts, game, states, step, writer, manager, stop)
    # The first round of the next step if it was sampled ahead, and the number
    # of optimizer steps of the weights that sampled it.
    asked = sampled_by = None
    stack.callback(lambda: asked and asked.grading.cancel())
    if step:
      # If the run was killed during an evaluation, its checkpoint has no score.
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
      # The table shows the scores of an evaluation in the next step's row.
      shown = metrics | scores | {'step': step}
      table.update(shown, rollout_rows.sample_questions(outcome))
      states, health, rolled_back = divergence.react(
        parts, manager, step, states, health, outcome
      )
      if rolled_back and asked:
        asked.grading.cancel()
        asked = None
      step += 1
      # Saved before the evaluation, so that a kill during it loses no step.
      must_save = rolled_back or step == config.num_steps
      _save(manager, step, states, memory, health, force=must_save)
      scores = _evaluate(parts, game, states, step, writer, manager, stop)
      choice = run_evaluations.choose(parts, writer, step)
      _save(manager, step, states, memory, health, choice=choice)
    if scores and step:
      table.update(scores | {'step': step})
    _save(manager, step, states, memory, health, force=True)
    checkpoints.wait(manager)
    best = checkpoints.best_step(manager)
  if processes.is_first():
    closing.report(parts, writer, step, best)
  # A run that was stopped after its last step may lack its last evaluation.
  return step >= config.num_steps and not stop.now()


def _prepare(config: config_lib.Config, directory: epath.Path) -> build.Parts:
  """Prepares everything except arrays, so that invalid input fails early."""
  parts = build.build(config, directory)
  parts.task.prepare()
  sets = [parts.sets(purpose) for purpose in evaluation_sets.PURPOSES]
  if all(sets):
    evaluation_sets.check_disjoint(*sets)
  stored = config_lib.to_dict(parts.config)
  processes.broadcast_from_first(
    lambda: run_writer.check_config(
      directory,
      stored,
      may_change=config_lib.MAY_CHANGE,
      complete=config_lib.complete,
    )
  )
  return parts


def _policy_steps(
  parts: build.Parts, states: rounds_lib.States
) -> dict[str, int]:
  """Returns, for each role, the optimizer steps of its current weights."""
  return {role: int(states[owner].step) for role, owner in parts.owner.items()}


def _rollout_rows(
  parts: build.Parts,
  outcome: rounds_lib.Outcome,
  sampled_by: dict[str, int],
  policy_steps: dict[str, int],
) -> list[dict[str, Any]]:
  return rollout_rows.rollout_rows(
    outcome,
    seed=parts.config.seed,
    sampled_by=sampled_by,
    policy_steps=policy_steps,
    show=functools.partial(parts.tokens.decode, skip_special=False),
  )


def _open_checkpoints(
  directory: epath.Path, config: config_lib.Config
) -> contextlib.AbstractContextManager[checkpoints.Manager]:
  """Opens the checkpoints of the run.

  Raises if the checkpoint directory is missing although metrics.jsonl exists,
  for example because a disk is not mounted; otherwise the run would start from
  the beginning. The directory is always created before metrics.jsonl. A bucket
  has no directories, so there the check is skipped.
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
  return checkpoints.open_checkpoints(path, keep=keep, every=every)


def _restore_or_start(
  parts: build.Parts, manager: checkpoints.Manager
) -> tuple[int, rounds_lib.States, repetition.Memory, divergence.Health]:
  memory = build.make_memory(parts.config)
  if checkpoints.latest_step(manager) is None:
    display.message(f'Loading the model: {parts.config.model.path}')
    return 0, train_states.initial_states(parts), memory, divergence.Health()
  step, states, host = checkpoints.restore(
    manager, train_states.abstract_states(parts)
  )
  display.message(f'Going on from the checkpoint of step {step}.')
  health = divergence.from_host(host['health'])
  return step, states, memory.add(host['asked']), health


@contextlib.contextmanager
def _open_writer(
  directory: epath.Path, config: config_lib.Config, step: int
) -> Iterator[run_writer.RunWriter]:
  """Opens the writer, and removes output written after `step` steps."""
  stored = config_lib.to_dict(config)
  processes.broadcast_from_first(
    lambda: run_writer.write_config(directory, stored)
  )
  writer = run_writer.RunWriter(directory, processes.index(), processes.count())
  with contextlib.closing(writer):
    processes.broadcast_from_first(lambda: _forget_after(step, writer))
    yield writer


def _forget_after(step: int, writer: run_writer.RunWriter) -> None:
  writer.rewind(step)
  evaluation_files.forget_after(writer.workdir, step)


def _looks_ahead(config: config_lib.Config, step: int) -> bool:
  """Returns True if the next step is sampled before `step` is learned from.

  The next step is not sampled ahead if a checkpoint or an evaluation, which may
  save a checkpoint, comes between the two steps, because a restart only has the
  weights of the checkpoint.
  """
  after = step + 1
  stops = (config.checkpoint.every, config.evaluation.every, config.num_steps)
  return config.sampler.one_step_ahead and not any(
    every and after % every == 0 for every in stops
  )


def _save(
  manager: checkpoints.Manager,
  step: int,
  states: rounds_lib.States,
  memory: repetition.Memory,
  health: divergence.Health,
  *,
  choice: run_evaluations.Choice | None = None,
  force: bool = False,
) -> None:
  """Saves a checkpoint if it is due, forced or the best so far.

  If a checkpoint of the step exists, the score of `choice` is added to it.
  """
  host_state = {'asked': list(memory.questions), 'health': health._asdict()}
  checkpoints.save(
    manager,
    step,
    states,
    host_state,
    score=choice.score if choice else None,
    start_score=choice.start if choice else None,
    force=force or bool(choice and choice.is_best),
  )


def _evaluate(
  parts: build.Parts,
  game: rounds_lib.Game,
  states: rounds_lib.States,
  step: int,
  writer: run_writer.RunWriter,
  manager: checkpoints.Manager,
  stop: '_Stop',
) -> dict[str, float]:
  """Runs the evaluations that are due, and returns their figures as metrics."""
  return run_evaluations.evaluate_due(
    parts,
    lambda: rounds_lib.params_of('solver', states, game),
    step,
    writer,
    stopped=stop.now,
    # Waits until a checkpoint that is being saved is on disk.
    before=lambda: checkpoints.wait(manager),
  )


def _columns(parts: build.Parts) -> tuple[display.Column, ...]:
  shown = evaluation_sets.TEST
  if parts.sets(evaluation_sets.VALIDATION):
    shown = evaluation_sets.VALIDATION
  return display.columns(
    f'{parts.config.task.name}/{shown}', parts.config.evaluation.samples
  )


class _Stop(NamedTuple):
  """Functions that report whether Ctrl-C or SIGTERM has asked the run to stop.

  Attributes:
    before: Function `before(step)` that returns True if the run should stop
      before this step.
    now: Function `now()` that returns True if an evaluation should stop before
      it is complete. With several processes it always returns False, because
      all processes can agree to stop only between steps.
  """

  before: Callable[[int], bool]
  now: Callable[[], bool]


@contextlib.contextmanager
def _stop_signals() -> Iterator[_Stop]:
  """Handles Ctrl-C and SIGTERM until the run ends.

  After the first signal, the current step is finished and saved; a second
  signal ends the process. With several processes, a signal to one of them stops
  all: jax handles SIGTERM, and finds the next step that no process has started.
  """
  several = processes.count() > 1
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
    yield asked  # only the main thread can install signal handlers
    return
  before = [signal.signal(signum, stop) for signum in signals]
  try:
    yield asked
  finally:
    for signum, handler in zip(signals, before, strict=True):
      signal.signal(signum, handler)
