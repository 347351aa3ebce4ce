"""The main job: a language model teaches itself.

Start here: `train` sets up and loops, `selfplay.step.self_play_step` is one
turn of the loop, `engine.learner` is the gradient.
"""

import contextlib
import functools
import signal
import threading
import time
from collections.abc import Iterator

import orbax.checkpoint as ocp
from absl import logging
from etils import epath

from sqlm_jax import (
  assemble,
  checkpoint,
  display,
  evaluate,
  records,
  writers,
)
from sqlm_jax import config as config_lib
from sqlm_jax import states as states_lib
from sqlm_jax.game import repetition
from sqlm_jax.selfplay import game as game_lib
from sqlm_jax.selfplay import step as step_lib


def train(config: config_lib.Config, workdir: str) -> None:
  """Trains by self-play in `workdir`, from where an earlier start stopped.

  Steps are counted from 0. A checkpoint or an evaluation of step n has seen n
  steps: the evaluation before training is number 0.

  Args:
    config: what to train, on what, for how long.
    workdir: where everything is kept that the run leaves behind.

  Raises:
    ValueError: if `workdir` belongs to another config, or model and config do
      not fit.
  """
  directory = epath.Path(workdir)
  parts = assemble.build(config)
  parts.task.prepare()
  stored = config_lib.to_dict(config)
  writers.check_config(directory, stored, may_change=config_lib.MAY_CHANGE)
  with contextlib.ExitStack() as stack:
    stopped = stack.enter_context(_stop_signals())
    manager = stack.enter_context(
      checkpoint.open_checkpoints(
        directory / 'checkpoints',
        keep=config.checkpoint.keep,
        every=config.checkpoint.every,
      )
    )
    step, states, memory = _restore_or_start(parts, manager)
    # Last: what does not fit leaves no config behind.
    writers.write_config(directory, stored)
    writer = stack.enter_context(
      contextlib.closing(writers.RunWriter(directory))
    )
    writer.rewind(step)
    game = assemble.make_game(parts)
    table = stack.enter_context(
      display.LiveTable(display.columns(config.task.name), title=f'{directory}')
    )
    record = None
    if _evaluation_due(config, step):
      record = _evaluate(parts, game, states, step, writer)
    while step < config.num_steps and not stopped.is_set():
      start = time.perf_counter()
      policy_steps = {
        role: int(states[owner].step) for role, owner in parts.owner.items()
      }
      states, memory, outcome = step_lib.self_play_step(
        step, states, memory, game
      )
      metrics = outcome.metrics | {'time/step': time.perf_counter() - start}
      rows = records.rollout_rows(
        outcome,
        seed=config.seed,
        policy_steps=policy_steps,
        show=functools.partial(parts.tokens.decode, skip_special=False),
      )
      writer.rollouts(step, rows)
      writer.metrics(step, metrics)
      # An evaluation stands in the line of the step that it came before.
      shown = (
        metrics | writers.evaluation_metrics(record or {}) | {'step': step}
      )
      table.update(shown, records.sample_questions(outcome))
      step += 1
      record = None
      if _evaluation_due(config, step):
        record = _evaluate(parts, game, states, step, writer)
      checkpoint.save(manager, step, states, _host_state(memory))
    if record is not None and step:
      table.update(writers.evaluation_metrics(record) | {'step': step})
    checkpoint.save(manager, step, states, _host_state(memory), force=True)
  _say_goodbye(config, directory, step)


def _restore_or_start(
  parts: assemble.Parts, manager: ocp.CheckpointManager
) -> tuple[int, game_lib.States, repetition.Memory]:
  memory = assemble.make_memory(parts.config)
  if checkpoint.latest_step(manager) is None:
    display.message(f'Loading the model: {parts.config.model.path}')
    return 0, states_lib.initial_states(parts), memory
  step, states, host = checkpoint.restore(
    manager, states_lib.abstract_states(parts)
  )
  display.message(f'Going on from the checkpoint of step {step}.')
  return step, states, memory.add(host.get('asked', ()))


def _host_state(memory: repetition.Memory) -> dict[str, list[str]]:
  """What a checkpoint holds beside arrays."""
  return {'asked': list(memory.questions)}


def _evaluation_due(config: config_lib.Config, step: int) -> bool:
  every = config.evaluation.every
  ends = (0, config.num_steps)
  return step in ends or bool(every and step % every == 0)


def _evaluate(
  parts: assemble.Parts,
  game: game_lib.Game,
  states: game_lib.States,
  step: int,
  writer: writers.RunWriter,
) -> dict | None:
  """Evaluates the solver, unless this very evaluation was done before."""
  if not parts.task.evaluation:
    return None
  for record in writer.evaluations():
    if record['step'] == step:
      return record
  params = game_lib.params_of('solver', states, game)
  total = len(parts.task.evaluation)
  with display.progress(f'Evaluating after {step} steps', total) as progress:
    record = evaluate.evaluate(parts, params, step, progress=progress)
  writer.evaluation(record)
  return record


def _say_goodbye(
  config: config_lib.Config, directory: epath.Path, step: int
) -> None:
  """Before, after, and where everything is."""
  rows = {}
  evaluations = []
  if (directory / 'eval.jsonl').exists():
    evaluations = writers.read_jsonl(directory / 'eval.jsonl')
  for name, record in zip(
    ('before', 'after'), (evaluations[:1] + evaluations[-1:]), strict=False
  ):
    rows[name] = (
      f'{record["sampled"]:.1%} sampled, {record["greedy"]:.1%} greedy '
      f'on {record["questions"]} questions ({record["step"]} steps)'
    )
  rows |= {
    'checkpoint': str(directory / 'checkpoints' / str(step)),
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


@contextlib.contextmanager
def _stop_signals() -> Iterator[threading.Event]:
  """Sets an event on Ctrl-C or SIGTERM; a second one ends the process.

  The step that is being played is finished and saved first.
  """
  stopped = threading.Event()

  def stop(signum, _):
    stopped.set()
    signal.signal(signum, signal.default_int_handler)
    name = signal.Signals(signum).name
    logging.warning('%s: finishing this step, then saving.', name)

  signals = (signal.SIGINT, signal.SIGTERM)
  if threading.current_thread() is not threading.main_thread():
    yield stopped  # signals reach the main thread alone
    return
  before = [signal.signal(signum, stop) for signum in signals]
  try:
    yield stopped
  finally:
    for signum, handler in zip(signals, before, strict=True):
      signal.signal(signum, handler)
