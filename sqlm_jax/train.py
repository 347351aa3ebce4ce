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

import orbax.checkpoint as ocp
from absl import logging
from etils import epath
from jax.experimental import multihost_utils

from sqlm_jax import (
  assemble,
  checkpoint,
  display,
  divergence,
  evaluate,
  evaluation_files,
  evaluation_sets,
  hosts,
  records,
  storage,
  writers,
)
from sqlm_jax import config as config_lib
from sqlm_jax import states as states_lib
from sqlm_jax.game import repetition
from sqlm_jax.selfplay import game as game_lib
from sqlm_jax.selfplay import step as step_lib


def train(config: config_lib.Config, workdir: str) -> bool:
  """Trains by self-play in `workdir`, from where an earlier start stopped.

  Steps are counted from 0. A checkpoint or an evaluation of step n has seen n
  steps: the evaluation before training is number 0.

  Args:
    config: what to train, on what, for how long.
    workdir: where everything is kept that the run leaves behind.

  Returns:
    Whether all is done; not, if a signal has stopped it.

  Raises:
    ValueError: if `workdir` belongs to another config, or model and config do
      not fit.
    RuntimeError: if another run is writing there.
    OSError: if something cannot be written; what is saved stays whole.
    divergence.DivergedError: as `divergence` of the config says.
  """
  directory = epath.Path(workdir)
  parts = _prepare(config, directory)
  with contextlib.ExitStack() as stack:
    stop = stack.enter_context(_stop_signals())
    # By the one that writes what all share; refused, all are.
    hosts.from_first(lambda: stack.enter_context(storage.locked(directory)))
    manager = stack.enter_context(_open_checkpoints(directory, config))
    step, states, memory, health = _restore_or_start(parts, manager)

    def save(**how):
      host_state = _host_state(memory, health)
      checkpoint.save(manager, step, states, host_state, **how)

    # Last: what does not fit leaves no config behind.
    writer = stack.enter_context(_open_writer(directory, parts.config, step))
    game = assemble.make_game(parts)
    table = stack.enter_context(
      display.LiveTable(_columns(parts), title=f'{directory}')
    )
    found = _evaluate(parts, game, states, step, writer, stop.now)
    asked = sampled_by = None  # a step's first round, where it is there before
    stack.callback(lambda: asked and asked.reading.cancel())
    if step:
      # What it was saved without, if it was stopped before it was evaluated.
      save(score=hosts.from_first(lambda: _score(parts, writer, step))[0])
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
      # An evaluation stands in the line of the step that it came before.
      shown = metrics | found | {'step': step}
      table.update(shown, records.sample_questions(outcome))
      states, health, rolled_back = divergence.react(
        parts, manager, step, states, health, outcome
      )
      if rolled_back and asked:
        asked.reading.cancel()
        asked = None
      step += 1
      found = _evaluate(parts, game, states, step, writer, stop.now)
      score, is_best = hosts.from_first(
        functools.partial(_score, parts, writer, step)
      )
      last = step == config.num_steps
      save(score=score, force=is_best or rolled_back or last)
    if found and step:
      table.update(found | {'step': step})
    save(force=True)
    checkpoint.wait(manager)
    best = checkpoint.best_step(manager)
  if hosts.is_first():
    _say_goodbye(parts, directory, step, best)
  # Stopped behind the last step it may have an evaluation left.
  return step >= config.num_steps and not stop.now()


def _prepare(
  config: config_lib.Config, directory: epath.Path
) -> assemble.Parts:
  """Everything but arrays; what cannot be read says so before the model is."""
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
  """Role -> optimizer steps of the weights that it uses now."""
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
) -> contextlib.AbstractContextManager[ocp.CheckpointManager]:
  """Refuses to play everything again, should a disk not be mounted, say.

  The directory is made before the first line; in a bucket there is none.
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
  parts: assemble.Parts, manager: ocp.CheckpointManager
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
  """Forgets what an earlier start wrote after the checkpoint of `step`."""
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
  """Whether the step behind `step` is sampled before this one is learned from.

  Not behind a checkpoint, nor behind an evaluation, which may save one: what
  goes on from there has only the weights that are in it.
  """
  after = step + 1
  stops = (config.checkpoint.every, config.evaluation.every, config.num_steps)
  return config.sampler.one_step_ahead and not any(
    every and after % every == 0 for every in stops
  )


def _host_state(
  memory: repetition.Memory, health: divergence.Health
) -> dict[str, Any]:
  """What a checkpoint holds beside arrays."""
  return {'asked': list(memory.questions), 'health': health._asdict()}


def _evaluate(
  parts: assemble.Parts,
  game: game_lib.Game,
  states: game_lib.States,
  step: int,
  writer: writers.RunWriter,
  stopped: Callable[[], bool],
) -> dict[str, float]:
  """The evaluations that are due after so many steps, as metrics.

  The test set is looked at before and after the training, the validation set
  on schedule, too. What was evaluated before is not evaluated again. Stopped,
  it leaves the rest of the questions to a later start.
  """
  config = parts.config
  every, ends = config.evaluation.every, (0, config.num_steps)
  due = {
    evaluation_sets.VALIDATION: step in ends
    or bool(every and step % every == 0),
    evaluation_sets.TEST: step in ends,
  }
  found = {}
  for purpose, is_due in due.items():
    asked = parts.sets(purpose) if is_due else None
    if asked is None:
      continue
    planned = evaluate.plan(parts, asked, step=step, workdir=writer.workdir)
    record = hosts.from_first(
      functools.partial(writer.find_evaluation, planned.files.settings)
    )
    if record is None:
      title = f'Evaluating after {step} steps ({purpose})'
      with display.progress(title, len(asked.examples)) as progress:
        record = evaluate.evaluate(
          planned,
          game_lib.params_of('solver', states, game),
          progress=progress,
          stopped=stopped,
        )
      if record is None:
        return found
      writer.evaluation(record)
    found |= writers.evaluation_metrics(record)
  return found


def _score(
  parts: assemble.Parts, writer: writers.RunWriter, step: int
) -> tuple[float | None, bool]:
  """How good the solver is after a step, and whether it is better than ever.

  Told by the validation set alone, asked as the run asks: whoever chooses a
  checkpoint by the test set has nothing left to measure it by.
  """
  asked = parts.sets(evaluation_sets.VALIDATION)
  if asked is None:
    return None, False
  c = parts.config.evaluation
  name = f'mean@{c.samples}' if c.best_by == 'mean' and c.samples else 'greedy'
  scores = {
    record['step']: record[name]
    for record in writer.evaluations()
    if evaluate.asks_the_same(record, parts, asked) and name in record
  }
  score = scores.pop(step, None)
  earlier = [value for at, value in scores.items() if 0 < at < step]
  return score, score is not None and score > max(earlier, default=-1.0)


def _columns(parts: assemble.Parts) -> tuple[display.Column, ...]:
  shown = evaluation_sets.TEST
  if parts.sets(evaluation_sets.VALIDATION):
    shown = evaluation_sets.VALIDATION
  return display.columns(
    f'{parts.config.task.name}/{shown}', parts.config.evaluation.samples
  )


def _say_goodbye(
  parts: assemble.Parts, directory: epath.Path, step: int, best: int | None
) -> None:
  """Before, after, and where everything is."""
  config, rows = parts.config, {}
  evaluations = []
  if (directory / 'eval.jsonl').exists():
    evaluations = writers.read_jsonl(directory / 'eval.jsonl')
  tested = [r for r in evaluations if r.get('set') == evaluation_sets.TEST]
  for name, record in zip(
    ('before', 'after'), (tested[:1] + tested[1:][-1:]), strict=False
  ):
    rows[name] = (
      f'{writers.accuracies(record)} '
      f'on {record["questions"]} questions ({record["step"]} steps)'
    )
  rows['checkpoint'] = str(directory / 'checkpoints' / str(step))
  if best is not None:
    rows['best'] = (
      f'{directory / "checkpoints" / str(best)} (on the validation set)'
    )
  rows |= {
    'metrics': str(directory / 'metrics.jsonl'),
    'rollouts': str(directory / 'rollouts'),
    'talk to it': 'python -m sqlm_jax.main --mode=sample '
    f'--workdir={directory}',
  }
  title = f'Trained {step} steps.'
  if step < config.num_steps:
    title = (
      f'Stopped after {step} of {config.num_steps} steps, and saved. '
      'The same command goes on from here.'
    )
  display.summary(title, rows)


class _Stop(NamedTuple):
  """Whether Ctrl-C or SIGTERM asks to stop."""

  before: Callable[[int], bool]  # a step
  now: Callable[[], bool]  # in the middle; several processes never do


@contextlib.contextmanager
def _stop_signals() -> Iterator[_Stop]:
  """Yields what knows whether to stop.

  The step that is being played is finished and saved first; a second signal
  ends the process. Of several processes one is enough: jax, which watches for
  SIGTERM, finds the next step that none of them has begun.
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
    # Between steps, where all agree to.
    asked = _Stop(multihost_utils.reached_preemption_sync_point, lambda: False)
  signals = (signal.SIGINT,) if several else (signal.SIGINT, signal.SIGTERM)
  if threading.current_thread() is not threading.main_thread():
    yield asked  # signals reach the main thread alone
    return
  before = [signal.signal(signum, stop) for signum in signals]
  try:
    yield asked
  finally:
    for signum, handler in zip(signals, before, strict=True):
      signal.signal(signum, handler)
