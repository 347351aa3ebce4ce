"""A verdict before training: samples, votes and times of the untrained model.

1. The untrained solver answers the labeled questions of the validation set, and
   its votes are counted as in a training step (`run.pilot_votes`).
2. The first step of the run is played in memory, for its questions, answers,
   time and memory. If it is quick, up to two more steps are played, because
   their times include less compilation. All updates are thrown away.
3. The figures lead to a verdict (`evaluation.verdict`).
"""

import collections
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from sqlm_jax import display
from sqlm_jax.config import schema as config_lib
from sqlm_jax.evaluation import labeled_votes, pilot_report, verdict
from sqlm_jax.game import types
from sqlm_jax.run import build, evaluation_sets, pilot_votes, train_states
from sqlm_jax.selfplay import learning, step_types
from sqlm_jax.selfplay import step as step_lib
from sqlm_jax.text import json_text
from sqlm_jax.workdir import storage

FILE = 'pilot.json'
_MAX_STEPS = 3
_QUICK = 120.0  # seconds of all steps, after which no other step is played


def pilot(
  config: config_lib.ConfigLike, workdir: str | None = None
) -> dict[str, Any]:
  """Measures the untrained model, shows a verdict, and writes it to a file.

  Args:
    config: Config of the run.
    workdir: Directory for `pilot.json`, None to write no file.

  Returns:
    The content of the file.
  """
  if workdir:
    storage.check(workdir)
  parts = build.build(config, workdir)
  parts.task.prepare()
  display.message(f'Loading the model: {parts.config.model.path}')
  states = train_states.initial_states(parts)
  game = build.make_game(parts)
  votes = _measure_votes(parts, states, game)
  display.message('Playing a step in memory.')
  outcome, cost = _measure_step(parts, states, game)
  asked = [q for game_round in outcome.rounds for q in game_round.questions]
  questions = measure_questions(
    asked, outcome.metrics, band=parts.config.proposer.band
  )
  decided = verdict.decide(questions, votes)
  result = {
    'task': parts.config.task.name,
    'model': parts.config.model.path,
    'seed': parts.config.seed,
    'questions': questions._asdict(),
    'asked': describe_questions(asked),
    'votes': votes,
    'cost': cost,
    'verdict': decided._asdict(),
  }
  _show(result, questions, decided)
  if workdir:
    directory = epath.Path(workdir)
    directory.mkdir(parents=True, exist_ok=True)
    text = json_text.dumps(result, indent=2)
    storage.write_text(directory / FILE, f'{text}\n')
    display.message(f'\nWritten to {directory / FILE}')
  return result


def _measure_votes(
  parts: build.Parts, states: step_types.States, game: step_types.GameSetup
) -> dict[str, Any] | None:
  """Returns the figures of votes on the validation set, None without it."""
  validation = parts.sets(evaluation_sets.VALIDATION)
  if validation is None or parts.task.run_tests is not None:
    return None
  display.message(f'Answering {len(validation.examples)} labeled questions.')
  return labeled_votes.summarize(
    pilot_votes.vote_on(validation.examples, states, game),
    target=parts.config.evaluation.vote_precision,
    min_agreement=parts.config.vote.min_agreement,
  )


def _measure_step(
  parts: build.Parts, states: step_types.States, game: step_types.GameSetup
) -> tuple[step_types.Outcome, dict[str, Any]]:
  """Plays the first steps of a run, and estimates the cost of all steps.

  Returns:
    The outcome of the first step, and the cost.
  """
  memory = build.make_memory(parts.config)
  seconds: list[float] = []
  outcomes: list[step_types.Outcome] = []
  limit = min(_MAX_STEPS, max(parts.config.num_steps, 1))
  while not seconds or (len(seconds) < limit and sum(seconds) < _QUICK):
    start = time.perf_counter()
    states, memory, outcome = step_lib.self_play_step(
      len(seconds), states, memory, game
    )
    jax.block_until_ready(states)
    seconds.append(time.perf_counter() - start)
    outcomes.append(outcome)
  # A later step may still compile something, so the fastest one counts.
  fastest = min(range(len(seconds)), key=seconds.__getitem__)
  metrics = outcomes[fastest].metrics
  answered = sum(
    len(q.answers) for r in outcomes[fastest].rounds for q in r.questions
  )
  cost = {
    'first_step_seconds': seconds[0],
    'fastest_step_seconds': seconds[fastest],
    'stages': {
      name: value for name, value in metrics.items() if name.startswith('time/')
    },
    'peak_memory_bytes': _peak_memory(),
    'peak_device_memory_bytes': _peak_device_memory(),
    'num_steps': parts.config.num_steps,
  }
  # Without a readable question, nothing is known about the time of an answer.
  evaluations = None
  if answered:
    per_answer = metrics['time/solve'] / answered
    evaluations = per_answer * num_evaluation_answers(parts)
  later_steps = max(parts.config.num_steps - 1, 0) * seconds[fastest]
  cost['evaluation_seconds'] = evaluations
  cost['run_seconds'] = seconds[0] + later_steps + (evaluations or 0.0)
  return outcomes[0], cost


def num_evaluation_answers(parts: build.Parts) -> int:
  """Returns the number of answers that the evaluations of a run sample."""
  c = parts.config
  every = c.evaluation.every
  middle = (c.num_steps - 1) // every if every else 0
  answers = 0
  for purpose in evaluation_sets.PURPOSES:
    if (found := parts.sets(purpose)) is not None:
      times = 2 + (middle if purpose == evaluation_sets.VALIDATION else 0)
      answers += times * len(found.examples)
  return answers * (1 + c.evaluation.samples * c.evaluation.seeds)


def _peak_memory() -> int:
  """Returns the largest memory that this process has used, in bytes."""
  import resource  # not available on Windows

  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return peak if sys.platform == 'darwin' else peak * 1024


def _peak_device_memory() -> int | None:
  """Returns the largest memory of an accelerator, None on a CPU."""
  used = [device.memory_stats() for device in jax.local_devices()]
  peaks = [stats['peak_bytes_in_use'] for stats in used if stats]
  return max(peaks, default=None)


def measure_questions(
  questions: Sequence[types.ScoredQuestion],
  metrics: Mapping[str, float],
  *,
  band: tuple[float, float],
) -> verdict.Questions:
  """Computes the figures of the questions of a step.

  Args:
    questions: The scored questions of the step.
    metrics: The metrics of the step.
    band: `proposer.band`.
  """
  readable = [q for q in questions if q.problem.ok]
  votes = {
    q.problem.text: str(q.vote.answer)
    for q in readable
    if q.vote is not None and q.vote.answer is not None
  }
  in_band = None
  all_votes = [q.vote for q in readable if q.vote is not None]
  if all_votes:
    shares = [vote.count / vote.size for vote in all_votes if vote.count]
    low, high = band
    in_band = sum(low <= share <= high for share in shares) / len(readable)
  top = collections.Counter(votes.values()).most_common(1)
  # Fewer questions may have the same answer by coincidence.
  top_answer, count = top[0] if len(votes) >= 4 else (None, 0)
  learnable = None
  if readable:
    learnable = float(np.mean([learning.rewards_differ(q) for q in readable]))
  refused = [q.problem.reason or q.refused for q in questions]
  return verdict.Questions(
    total=len(questions),
    readable=len(readable) / len(questions),
    reasons=dict(collections.Counter(filter(None, refused)).most_common()),
    distinct=metrics.get('proposer/distinct_rate'),
    majority=metrics.get('vote/majority_rate'),
    agreement=metrics.get('vote/agreement'),
    right=metrics.get('vote/accuracy'),
    unanimous=metrics.get('vote/unanimous_rate'),
    in_band=in_band,
    learnable=learnable,
    top_answer=top_answer,
    top_share=count / len(votes) if top_answer is not None else None,
    pass_rate=metrics.get('tests/pass_rate'),
  )


def describe_questions(
  questions: Sequence[types.ScoredQuestion],
) -> list[dict[str, Any]]:
  """Returns the text, the vote and the reason of refusal of each question."""
  rows: list[dict[str, Any]] = []
  for q in questions:
    has_vote = q.vote is not None and q.vote.answer is not None
    rows.append(
      {
        'question': q.problem.text,
        'refused': q.problem.reason or q.refused or None,
        'vote': str(q.vote.answer) if has_vote else None,
        'agreement': q.vote.count / q.vote.size if has_vote else None,
      }
    )
  return rows


def _show(
  result: Mapping[str, Any],
  questions: verdict.Questions,
  decided: verdict.Verdict,
) -> None:
  display.summary('Questions of step 0', pilot_report.questions(questions))
  display.summary('Some of them', pilot_report.examples(result['asked']))
  if result['votes'] is not None:
    display.summary(
      'Votes on the validation set', pilot_report.votes(result['votes'])
    )
  display.summary('Time and memory', pilot_report.cost(result['cost']))
  rows = {'verdict': decided.line()}
  if decided.reason not in rows['verdict']:
    rows['reason'] = decided.reason
  for i, note in enumerate(decided.notes, 1):
    rows[f'note {i}'] = note
  display.summary('Verdict', rows)
