"""The training loop of self-play.

The library's own loop starts here: `train` opens the run and loops over steps,
`selfplay.step.self_play_step` is one step, and `engine.learner` computes the
gradient.
"""

import contextlib
import functools
import time
from collections.abc import Generator, Mapping, Sequence
from typing import NamedTuple

from etils import epath

from sqlm_jax import display
from sqlm_jax.config import schema as config_lib
from sqlm_jax.distributed import processes
from sqlm_jax.models import policy as policy_lib
from sqlm_jax.run import (
  alarm_rules,
  build,
  divergence,
  evaluation_sets,
  probe,
  provenance,
  reviewing,
  scheduled_evaluations,
  step_callbacks,
  stop_signals,
  summary,
  webhook,
)
from sqlm_jax.run import progress as progress_lib
from sqlm_jax.selfplay import prefetch, signals, step_types
from sqlm_jax.selfplay import step as step_lib
from sqlm_jax.workdir import (
  checkpoints,
  config_json,
  rollout_rows,
  run_writer,
  storage,
  trackers,
)


class _Run(NamedTuple):
  """The parts of a run that do not change from step to step.

  Attributes:
    parts: Parts of the run.
    game: Compiled programs and settings of a step.
    manager: Checkpoints of the run.
    writer: Writer of metrics and rollouts.
    table: Table on the terminal.
    prefetcher: Samples the next step ahead if the config asks for it.
    hook: Receives alarms.
    stop: Reports whether the run has to stop.
  """

  parts: build.Parts
  game: step_types.GameSetup
  manager: checkpoints.Manager
  writer: run_writer.RunWriter
  table: display.LiveTable
  prefetcher: prefetch.Prefetcher
  hook: webhook.Webhook
  stop: stop_signals.Stop


def train(
  config: config_lib.ConfigLike,
  workdir: str,
  *,
  callbacks: Sequence[step_callbacks.Callback] = (),
) -> bool:
  """Trains by self-play, and resumes the run if `workdir` contains one.

  Steps are counted from 0. A checkpoint or an evaluation of step n is of
  weights that have been trained for n steps, so the evaluation before training
  has step 0.

  Args:
    config: Config of the run.
    workdir: Directory of the run, see `workdir.run_writer`.
    callbacks: Functions that are called after each step, when its results
      are on disk.

  Returns:
    True if the run finished, False if a signal stopped it.

  Raises:
    ValueError: If `workdir` contains a run with another config, or the model
      does not fit the config.
    RuntimeError: If another process is writing to `workdir`.
    OSError: If a file cannot be written; earlier checkpoints stay intact.
    divergence.DivergedError: If the run has diverged according to
      `config.alarms`.
  """
  config = config_lib.of(config)
  storage.check(workdir)
  directory = epath.Path(workdir)
  parts = _prepare(config, directory)
  # `_train_one_step` saves a checkpoint if one is due, before the evaluation.
  # `_save_score` adds the validation score to it, or saves one if the score is
  # the best so far. `_save` at the end saves the last step, whether due or not.
  with _open_run(parts, directory) as (run, progress):
    scores = _evaluate(run, progress)
    if progress.step:
      # If the run was killed during an evaluation, its checkpoint has no score.
      _save_score(run, progress)
    while _may_continue(run, progress):
      played = _train_one_step(run, progress, scores)
      scores = _evaluate(run, progress)
      _save_score(run, progress)
      step_callbacks.call(callbacks, played, scores, run.stop)
    if scores and progress.step:
      run.table.update(scores | {'step': progress.step})
    _save(run, progress, force=True)
    checkpoints.wait(run.manager)
    best = checkpoints.best_step(run.manager)
  if processes.is_first():
    summary.show(
      parts,
      directory,
      step=progress.step,
      best=best,
      is_finished=_is_finished(run, progress),
    )
  # A run that was stopped after its last step may lack its last evaluation.
  return _is_finished(run, progress) and not run.stop.now()


def _may_continue(run: _Run, progress: progress_lib.Progress) -> bool:
  """Returns True if the run has steps left and no signal has stopped it.

  It also reads the verdicts that the next step obeys, and may wait for them.
  """
  config, step = run.parts.config, progress.step
  if _is_finished(run, progress) or run.stop.before(step):
    return False
  progress.memory = reviewing.before_step(
    run.writer.workdir, step, progress.memory, config.review, run.stop.now
  )
  return not (config.review.wait and run.stop.now())


def _is_finished(run: _Run, progress: progress_lib.Progress) -> bool:
  """Returns True after the last step, or if an alarm has ended the run."""
  has_steps = progress.step < run.parts.config.num_steps
  return not has_steps or _has_ended_early(run, progress)


def _has_ended_early(run: _Run, progress: progress_lib.Progress) -> bool:
  rules = alarm_rules.make_rules(run.parts.config.alarms)
  return alarm_rules.is_finished(progress.alarms, rules)


def _train_one_step(
  run: _Run, progress: progress_lib.Progress, scores: Mapping[str, float]
) -> step_callbacks.PlayedStep:
  """Plays a step, writes its results, and saves a checkpoint if it is due.

  Args:
    run: The run.
    progress: State of the run before the step; it is advanced by one step.
    scores: Results of the evaluations before the step. The table shows them in
      the row of this step.
  """
  step, config = progress.step, run.parts.config
  start = time.perf_counter()
  show_stage = functools.partial(run.table.begin, step)
  first_round = run.prefetcher.first_round(
    step,
    progress.states,
    progress.memory,
    look_ahead=_looks_ahead(config, step, progress.probe),
    on_stage=show_stage,
  )
  remembered = progress.memory
  progress.states, progress.memory, outcome = step_lib.self_play_step(
    step,
    progress.states,
    remembered,
    run.game,
    first_round,
    on_stage=show_stage,
  )
  trends, progress.history = signals.since_start(
    step, outcome, progress.history, remembered, run.game
  )
  metrics = outcome.metrics | trends
  outcome = outcome._replace(metrics=metrics)
  metrics = metrics | {'time/step': time.perf_counter() - start}
  progress.probe, probed = probe.after_step(
    run.parts,
    progress.probe,
    step=step,
    outcome=outcome,
    params=lambda: _probed_params(run, progress),
  )
  metrics |= probed
  progress.alarms, events = divergence.check(
    run.parts,
    progress.alarms,
    step=step,
    metrics=metrics | dict(scores),
    outcome=outcome,
  )
  metrics |= alarm_rules.to_metrics(progress.alarms, events)
  metrics |= reviewing.to_metrics(progress.memory.verdicts)
  rows = rollout_rows.to_rows(
    outcome,
    seed=config.seed,
    show=functools.partial(run.parts.tokens.decode, skip_special=False),
    task=run.game.task,
    topics=run.game.task.topics(step),
  )
  run.writer.rollouts(step, rows)
  run.writer.metrics(step, metrics)
  reviewing.simulate(
    run.parts, run.writer.workdir, step, rows, progress.memory.verdicts
  )
  shown = {**metrics, **scores, 'step': step}
  run.table.update(shown, rollout_rows.sample_questions(outcome))
  divergence.announce(events, run.writer, run.hook)
  progress.states, progress.alarms, ended = divergence.react(
    run.parts,
    run.manager,
    step=step,
    states=progress.states,
    alarms=progress.alarms,
    events=events,
  )
  if ended:  # by a rollback
    divergence.announce(ended, run.writer, run.hook)
    run.prefetcher.cancel()
  progress.step += 1
  # Saved before the evaluation, so that a kill during it loses no step.
  _save(run, progress, force=bool(ended) or _is_finished(run, progress))
  return step_callbacks.PlayedStep(step, metrics, rows)


@contextlib.contextmanager
def _open_run(
  parts: build.Parts, directory: epath.Path
) -> Generator[tuple[_Run, progress_lib.Progress]]:
  """Opens the files of a run, and restores its state or starts it."""
  with contextlib.ExitStack() as stack:
    stop = stack.enter_context(stop_signals.handled())
    # Process 0 takes the lock; if it fails, every process raises.
    processes.broadcast_from_first(
      lambda: stack.enter_context(storage.locked(directory))
    )
    manager = stack.enter_context(
      checkpoints.open_run(
        directory,
        keep=parts.config.checkpoint.keep,
        every=parts.config.checkpoint.every,
      )
    )
    progress = progress_lib.restore_or_start(parts, manager, directory)
    game = build.make_game(parts)
    # Opened after all checks, so that an invalid run writes no config.json.
    writer = stack.enter_context(_open_writer(directory, parts, progress.step))
    table = stack.enter_context(
      display.LiveTable(
        summary.columns(parts),
        title=f'{directory}',
        total=parts.config.num_steps,
      )
    )
    prefetcher = prefetch.Prefetcher(game)
    stack.callback(prefetcher.cancel)
    hook = webhook.Webhook(parts.config.alarms.webhook)
    stack.callback(hook.close)
    yield (
      _Run(parts, game, manager, writer, table, prefetcher, hook, stop),
      progress,
    )


def _prepare(config: config_lib.Config, directory: epath.Path) -> build.Parts:
  """Prepares everything except arrays, so that invalid input fails early."""
  trackers.check(config.tracking.writers)
  parts = build.build(config, directory)
  parts.task.prepare()
  test = parts.sets(evaluation_sets.TEST)
  validation = parts.sets(evaluation_sets.VALIDATION)
  if test is not None and validation is not None:
    evaluation_sets.check_disjoint(test, validation)
  stored = config_lib.to_dict(parts.config)
  processes.broadcast_from_first(
    lambda: config_json.check(
      directory,
      stored,
      may_change=config_lib.MAY_CHANGE_TO_RESUME,
      complete=config_lib.complete,
    )
  )
  return parts


@contextlib.contextmanager
def _open_writer(
  directory: epath.Path, parts: build.Parts, step: int
) -> Generator[run_writer.RunWriter]:
  """Opens the writer, and removes output written after `step` steps."""
  config = parts.config
  stored = config_lib.to_dict(config)
  processes.broadcast_from_first(lambda: config_json.write(directory, stored))
  writers: list[trackers.MetricsWriter] = []
  processes.broadcast_from_first(
    lambda: writers.extend(
      trackers.open_writers(
        config.tracking.writers,
        directory,
        project=config.tracking.project,
        settings=config_lib.without_texts(config),
      )
    )
  )
  writer = run_writer.RunWriter(
    directory,
    processes.index(),
    processes.count(),
    footer=processes.broadcast_from_first(lambda: provenance.collect(parts)),
    writers=writers,
  )
  with contextlib.closing(writer):
    processes.broadcast_from_first(lambda: writer.rewind(step))
    yield writer


def _probed_params(
  run: _Run, progress: progress_lib.Progress
) -> policy_lib.Params:
  """Returns the parameters that the probe uses.

  If the probe chooses the best checkpoint, they are those that are exported.
  """
  config = run.parts.config
  decay = config.policy.average_decay
  if config.evaluation.best_by != 'probe':
    decay = 0.0
  name = step_types.evaluated_state('solver', run.game.state_names, decay)
  return step_types.whole_params(progress.states[name], run.game)


def _looks_ahead(
  config: config_lib.Config, step: int, probed: probe.State
) -> bool:
  """Returns True if the next step is sampled before `step` is learned from.

  The next step is not sampled ahead if a checkpoint, an evaluation or a
  measurement of the probe that may save a checkpoint comes between the two
  steps, because a restart only has the weights of the checkpoint.
  """
  after = step + 1
  if config.evaluation.best_by == 'probe' and probe.may_measure(
    probed, config.probe, after
  ):
    return False
  stops = (config.checkpoint.every, config.evaluation.every, config.num_steps)
  return config.sampler.one_step_ahead and not any(
    every and after % every == 0 for every in stops
  )


def _save(
  run: _Run,
  progress: progress_lib.Progress,
  *,
  choice: scheduled_evaluations.Choice | None = None,
  force: bool = False,
) -> None:
  """Saves a checkpoint if it is due, forced or the best so far.

  If a checkpoint of the step exists, the score of `choice` is added to it.
  """
  checkpoints.save(
    run.manager,
    progress.step,
    progress.states,
    host_state=progress.to_host(),
    score=choice.score if choice else None,
    start_score=choice.start if choice else None,
    force=force or (choice is not None and choice.is_best),
  )


def _save_score(run: _Run, progress: progress_lib.Progress) -> None:
  """Adds the validation score to the checkpoint, or saves it if it is best."""
  choice = scheduled_evaluations.choose(
    run.parts, run.writer.workdir, progress.step
  )
  _save(run, progress, choice=choice)


def _evaluate(run: _Run, progress: progress_lib.Progress) -> dict[str, float]:
  """Runs the evaluations that are due, and returns their figures as metrics."""
  decay = run.parts.config.policy.average_decay
  evaluated = step_types.evaluated_state('solver', run.game.state_names, decay)
  return scheduled_evaluations.evaluate_due(
    run.parts,
    lambda: step_types.whole_params(progress.states[evaluated], run.game),
    step=progress.step,
    ended_early=_has_ended_early(run, progress),
    writer=run.writer,
    stopped=run.stop.now,
    # Waits until a checkpoint that is being saved is on disk.
    before=lambda: checkpoints.wait(run.manager),
  )
