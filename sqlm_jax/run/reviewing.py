"""Brings the verdicts of reviewers into training.

Verdicts may arrive at any time, but a run must be repeatable. Before a step
begins, the number of lines of reviews.jsonl that it has read is therefore
written to reviews_read.jsonl. A step that is repeated after a crash reads the
same number of lines, even if there are more by then. Lines never change.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

from etils import epath

from sqlm_jax import display
from sqlm_jax.config import gate_schema
from sqlm_jax.distributed import processes
from sqlm_jax.game import ballots, repetition, verdicts
from sqlm_jax.run import build
from sqlm_jax.tasks import base
from sqlm_jax.workdir import metrics, reviews, rollout_rows

_POLL_SECONDS = 1.0


def resume(
  workdir: epath.PathLike,
  step: int,
  memory: repetition.Memory,
  num_lines: int = 0,
) -> repetition.Memory:
  """Prepares to repeat the steps after a checkpoint.

  All processes call this function, before `run_writer.RunWriter.rewind`.

  Args:
    workdir: Directory of the run.
    step: Number of steps of the checkpoint, 0 without one.
    memory: Memory of the checkpoint, without verdicts.
    num_lines: Number of lines of reviews.jsonl that the checkpoint had read.

  Returns:
    The memory with the verdicts that the checkpoint had read.

  Raises:
    ValueError: If reviews.jsonl has lost some of these lines.
  """
  path = epath.Path(workdir)

  def prepare() -> list[reviews.Event | None]:
    events = _check(path, num_lines)
    played = metrics.last_step(path)
    counts = reviews.read_counts(path)
    last_step, lines = counts[-1] if counts else (-1, 0)
    if played is not None and played >= step and played > last_step:
      # These steps had read nothing new. Later verdicts take effect after them.
      reviews.append_count(path, played, lines)
    return events

  events = processes.broadcast_from_first(prepare)
  return memory._replace(verdicts=verdicts.fold(events))


def before_step(
  workdir: epath.PathLike,
  step: int,
  memory: repetition.Memory,
  config: gate_schema.Review,
  stopped: Callable[[], bool],
) -> repetition.Memory:
  """Returns the memory with the verdicts that apply to a step, see `read`."""
  known = read(
    workdir, step, memory.verdicts, wait=config.wait, stopped=stopped
  )
  return memory._replace(verdicts=known)


def read(
  workdir: epath.PathLike,
  step: int,
  previous: verdicts.Verdicts,
  *,
  wait: int = 0,
  stopped: Callable[[], bool] = lambda: False,
) -> verdicts.Verdicts:
  """Reads the verdicts that apply to a step of training.

  All processes call this function and get the same verdicts.

  Args:
    workdir: Directory of the run.
    step: Self-play step, counted from 0.
    previous: Verdicts of the step before it.
    wait: Number of verdicts of people to wait for, see `review.wait`.
    stopped: Returns True if a signal has stopped the run, which ends waiting.

  Raises:
    ValueError: If reviews.jsonl has lost lines that an earlier step had read.
  """
  path = epath.Path(workdir)

  def read_in_first() -> dict[str, Any]:
    num_lines = _count_lines(path, step, wait=wait, stopped=stopped)
    is_new = num_lines != previous.num_lines
    events = _check(path, num_lines) if is_new else []
    return {'num_lines': num_lines, 'events': events}

  received = processes.broadcast_from_first(read_in_first)
  if received['num_lines'] == previous.num_lines:
    return previous
  return verdicts.fold(received['events'])


def simulate(
  parts: build.Parts,
  workdir: epath.PathLike,
  step: int,
  rows: Sequence[rollout_rows.Row],
  known: verdicts.Verdicts,
) -> None:
  """Appends the verdicts of the simulated reviewer on the votes of a step.

  The task's checker decides about the votes that `review.pick` puts first. A
  repeated step appends nothing that it has appended before.

  Args:
    parts: Parts of the run.
    workdir: Directory of the run.
    step: Self-play step.
    rows: Rows of the rollouts that this process has graded.
    known: Verdicts that the step has read.
  """
  config, task = parts.config, parts.task
  if config.review.by != verdicts.CHECKER:
    return
  local = ballots.from_rows(rows, step=step, num_views=config.num_prompts)
  checked = []
  for ballot in local:
    true = task.true_answer(ballot.question)
    if ballot.id not in known.by_id and true is not None:
      checked.append((*ballot, str(true), _is_right(ballot, true, task)))
  gathered = [
    (_ballot(*fields), true, is_right)
    for received in processes.all_gather(checked)
    for *fields, true, is_right in received
  ]
  if not processes.is_first():
    return
  grades = {ballot: grade for ballot, *grade in gathered}
  order = ballots.order(
    list(grades),
    pick=config.review.pick,
    random_share=config.review.random_share,
    seed=config.seed,
    num_decided=len(known.by_id),
  )
  events = [
    _to_event(ballot, pick, *grades[ballot])
    for ballot, pick in order[: config.review.budget]
  ]
  num_written = sum(
    event is not None
    and event.get('reviewer') == verdicts.CHECKER
    and event.get('step') == step
    for event in reviews.read(workdir)
  )
  reviews.append(workdir, events[num_written:])


def to_metrics(known: verdicts.Verdicts) -> dict[str, float]:
  """Returns metrics of the verdicts that a step has read, {} without any."""
  if not known.num_lines:
    return {}
  values = {'review/questions': float(len(known.by_id))}
  right, total = known.random_right, known.random_total
  return values | ({'review/vote_accuracy': right / total} if total else {})


def _count_lines(
  path: epath.Path, step: int, *, wait: int, stopped: Callable[[], bool]
) -> int:
  """Returns how many lines a step reads, and records it."""
  counts = reviews.read_counts(path)
  if counts and step <= counts[-1][0]:  # the step is repeated
    return next((n for at, n in reversed(counts) if at <= step), 0)
  last = counts[-1][1] if counts else 0
  events = reviews.read(path)
  if wait and step > 0:
    events = _wait(path, last, wait=wait, stopped=stopped)
    if stopped():
      return last  # the step does not begin, and waits again
  if len(events) != last:
    reviews.append_count(path, step, len(events))
  return len(events)


def _wait(
  path: epath.Path, first: int, *, wait: int, stopped: Callable[[], bool]
) -> list[reviews.Event | None]:
  """Waits until people have given a number of verdicts in new lines."""
  is_told = False
  while True:
    events = reviews.read(path)
    new = verdicts.fold(events[first:]).by_id
    if len(new) >= wait or stopped():
      return events
    if not is_told:
      display.message(
        f'Waiting for {wait} verdicts (review.wait={wait}): '
        f'python -m sqlm_jax.main --mode=review --workdir={path}'
      )
      is_told = True
    time.sleep(_POLL_SECONDS)


def _check(path: epath.Path, num_lines: int) -> list[reviews.Event | None]:
  """Returns the first lines of reviews.jsonl; raises if some are missing."""
  events = reviews.read(path, num_lines)
  if len(events) < num_lines:
    raise ValueError(
      f'{path / reviews.NAME}: expected at least {num_lines} lines, which the '
      f'run has trained with, but there are {len(events)}. Restore the file.'
    )
  return events


def _is_right(ballot: ballots.Ballot, true: Any, task: base.Task) -> bool:
  if ballot.vote is None:
    return False
  return task.is_true(task.parse_answer(ballot.vote), true)


def _ballot(step, index, question, vote, views, reason) -> ballots.Ballot:
  """Returns a ballot from its fields, whose tuples were sent as lists."""
  views = tuple(map(tuple, views))
  return ballots.Ballot(step, index, question, vote, views, reason)


def _to_event(
  ballot: ballots.Ballot, pick: str, true: str, is_right: bool
) -> dict[str, Any]:
  event = {
    'time': reviews.now(),
    'reviewer': verdicts.CHECKER,
    'step': ballot.step,
    'id': ballot.id,
    'question': ballot.question,
    'vote': ballot.vote,
    'pick': pick,
  }
  if is_right:
    return event | {'verdict': 'accept'}
  return event | {'verdict': 'correct', 'answer': true}
