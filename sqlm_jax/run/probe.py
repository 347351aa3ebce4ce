"""Asks the solver the same questions every few steps.

The metrics of a step describe the questions that the proposer asks in this
step. If the proposer has stopped asking some kind of question, they do not show
that the solver forgets it or settles on a wrong answer. The probe is a fixed
set of the run's own first questions. It compares their votes with earlier
votes, which needs no labels.

The probe does not change the weights. With `evaluation.best_by='probe'`, it
selects the best checkpoint. Otherwise, the next step may be sampled before the
probe (`sampler.one_step_ahead`).
"""

import collections
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from sqlm_jax import display
from sqlm_jax.config import alarms_schema
from sqlm_jax.distributed import processes
from sqlm_jax.game import agreement, repetition, vote
from sqlm_jax.models import policy as policy_lib
from sqlm_jax.run import build
from sqlm_jax.selfplay import random_streams, responses, step_types

INFORMATION = 'probe/information'  # see `agreement.information`

_LOCKED_AGREEMENT = 0.9
_LOCKED_MEASUREMENTS = 3  # in a row


class Result(NamedTuple):
  """The vote on a question in the last measurement.

  Attributes:
    response: A response with the majority answer; None without a majority. The
      answer itself is not stored, because canonical answers may depend on the
      other answers of their group.
    locked: Number of measurements in a row in which at least 90% of the answers
      were the same majority.
  """

  response: str | None
  locked: int


class State(NamedTuple):
  """The probe after a step, which checkpoints store.

  Attributes:
    candidates: Distinct questions of the first steps, until the set is drawn.
    questions: The fixed set; () before it is drawn.
    results: One per question; () before the first measurement.
  """

  candidates: tuple[str, ...] = ()
  questions: tuple[str, ...] = ()
  results: tuple[Result, ...] = ()


def from_host(stored: Mapping[str, Any]) -> State:
  """Converts the stored form of `State._asdict`."""
  return State(
    tuple(stored['candidates']),
    tuple(stored['questions']),
    tuple(Result(*fields) for fields in stored['results']),
  )


def after_step(
  parts: build.Parts,
  state: State,
  *,
  step: int,
  outcome: step_types.Outcome,
  params: Callable[[], policy_lib.Params],
) -> tuple[State, dict[str, float]]:
  """Collects questions in the first steps, and measures votes when it is due.

  Every process must call this function.

  Args:
    parts: Parts of the run.
    state: State before the step.
    step: The step, counted from 0.
    outcome: Outcome of the step.
    params: Returns the parameters of the solver after the step.

  Returns:
    The state after the step, and the metrics of the measurement.
  """
  config, start = parts.config.probe, time.perf_counter()
  if not config.every:
    return state, {}
  if not state.questions:
    readable = step_types.readable_questions(outcome.rounds)
    questions = step_types.proposed(readable)
    state = collect(
      state, [q.problem.text for q in questions], config, step=step
    )
  if not is_due(state, config, step + 1):
    return state, {}
  state, metrics = measure(parts, params(), state, step=step + 1)
  return state, metrics | {'time/probe': time.perf_counter() - start}


def collect(
  state: State,
  questions: Sequence[str],
  config: alarms_schema.Probe,
  *,
  step: int,
) -> State:
  """Adds the questions of a step, and draws the set after the first steps.

  Args:
    state: State before the set is drawn.
    questions: Readable questions of the step.
    config: Settings of the probe.
    step: The step, counted from 0.
  """
  candidates = tuple(dict.fromkeys((*state.candidates, *questions)))
  if step + 1 < config.steps or not candidates:
    return State(candidates)
  return State(questions=repetition.spread(candidates, config.questions))


def is_due(state: State, config: alarms_schema.Probe, step: int) -> bool:
  """Returns True if a measurement is due after `step` steps."""
  if not state.questions:
    return False
  return not state.results or (step - config.steps) % config.every == 0


def may_measure(state: State, config: alarms_schema.Probe, step: int) -> bool:
  """Returns True if a measurement after `step` steps is possible.

  Args:
    state: State after an earlier step.
    config: Settings of the probe.
    step: Number of steps.
  """
  if not config.every or step < config.steps:
    return False
  return not state.results or (step - config.steps) % config.every == 0


def measure(
  parts: build.Parts, params: policy_lib.Params, state: State, *, step: int
) -> tuple[State, dict[str, float]]:
  """Answers the questions of the probe, and compares votes with earlier votes.

  Every process must call this function.

  Args:
    parts: Parts of the run.
    params: Parameters of the solver.
    state: State before the measurement.
    step: Number of self-play steps that the parameters have been trained for.

  Returns:
    The state after the measurement, and its metrics.
  """
  total = len(state.questions)
  size = min(parts.config.evaluation.batch_questions, total)
  rows = []
  with display.progress(f'Probing after {step} steps', total) as progress:
    for first in range(0, total, size):
      progress(first, total)
      indices = range(first, min(first + size, total))
      rows += _answer(parts, params, state, indices, num_rows=size, step=step)
    progress(total, total)
  results = tuple(Result(row['response'], row['locked']) for row in rows)
  values = {
    'probe/agreement': [row['agreement'] for row in rows],
    'probe/locked_rate': [
      row['locked'] >= _LOCKED_MEASUREMENTS for row in rows
    ],
    'probe/flip_rate': [row['flipped'] for row in rows if state.results],
    'probe/accuracy': [
      row['right'] for row in rows if row['right'] is not None
    ],
  }
  metrics = {name: float(np.mean(v)) for name, v in values.items() if v}
  information = agreement.information([row['answers'] for row in rows])
  if information is not None:
    metrics[INFORMATION] = information
  return state._replace(results=results), metrics


def _answer(
  parts: build.Parts,
  params: policy_lib.Params,
  state: State,
  indices: range,
  *,
  num_rows: int,
  step: int,
) -> list[dict[str, Any]]:
  """Samples answers to a range of questions, and compares their votes.

  Each process parses the answers to its own share; the results are exchanged.
  """
  sampler = parts.samplers['probe']
  questions = state.questions[indices.start : indices.stop]
  local_rows = processes.local_share(len(indices))
  sampled = responses.sample(
    sampler,
    params,
    [_encode(parts, question) for question in questions],
    path=random_streams.key_path(
      parts.config.seed, step, random_streams.Stream.PROBE
    ),
    num_rows=num_rows,
    first_row=indices.start,
    local_rows=local_rows,
  )
  rows = []
  for row in local_rows:
    texts = sampled.texts[row]
    assert texts is not None  # this process decodes its local rows
    last = state.results[indices[row]] if state.results else Result(None, 0)
    rows.append(_compare(parts, questions[row], texts, last))
  return [row for rows_P in processes.all_gather(rows) for row in rows_P]


def _compare(
  parts: build.Parts, question: str, texts: Sequence[str], last: Result
) -> dict[str, Any]:
  """Compares the vote on a question with that of the last measurement."""
  task = parts.task
  # Parsed together, because canonical answers depend on their group.
  earlier = [] if last.response is None else [last.response]
  parsed = task.read_answers([*texts, *earlier])
  answers = parsed[: len(texts)]
  majority = vote.majority(answers, ties=parts.config.vote.ties).answer
  flipped = majority != (parsed[-1] if earlier else None)
  counts = collections.Counter(a for a in answers if a is not None)
  share = max(counts.values(), default=0) / len(answers)
  locked = 0
  if majority is not None and share >= _LOCKED_AGREEMENT:
    locked = 1 if flipped else last.locked + 1
  right = None
  if (true := task.true_answer(question)) is not None:
    right = majority is not None and task.is_true(majority, true)
  response = None if majority is None else texts[answers.index(majority)]
  return {
    'agreement': share,
    # As text, because processes exchange them.
    'answers': [None if a is None else str(a) for a in answers],
    'flipped': flipped,
    'locked': locked,
    'response': response,
    'right': right,
  }


def _encode(parts: build.Parts, question: str) -> list[int]:
  prompt = parts.task.solver_prompts(question)[0]
  ids = parts.samplers['probe'].encode(prompt)
  assert ids is not None  # a question whose prompt is too long is not readable
  return ids
