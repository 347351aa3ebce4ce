"""Metrics of a self-play step."""

import contextlib
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sqlm_jax.game import contamination, exclusion, types
from sqlm_jax.ops import masked
from sqlm_jax.sandbox import sandbox, unit_tests
from sqlm_jax.selfplay import exchange, responses, signals, step_types
from sqlm_jax.tasks import base


class StageClock:
  """Accumulates the seconds of each stage of a step.

  Args:
    on_stage: called with the name of each stage when it begins.
  """

  def __init__(self, on_stage: Callable[[str], None] = lambda stage: None):
    self.seconds: dict[str, float] = {}
    self._on_stage = on_stage

  @contextlib.contextmanager
  def __call__(self, stage: str) -> Generator[None]:
    self._on_stage(stage)
    start = time.perf_counter()
    yield
    self.add({stage: time.perf_counter() - start})

  def add(self, seconds: Mapping[str, float]) -> None:
    """Adds seconds that were measured elsewhere, by stage."""
    for stage, value in seconds.items():
      self.seconds[stage] = self.seconds.get(stage, 0.0) + value

  def metrics(self) -> dict[str, float]:
    """Returns the seconds by name of the metric."""
    return {f'time/{stage}': value for stage, value in self.seconds.items()}


def of_rounds(
  rounds: Sequence[step_types.Round], game: step_types.GameSetup
) -> dict[str, float]:
  """Computes the metrics of a step, except those of the updates."""
  questions = [q for game_round in rounds for q in game_round.questions]
  metrics = of_questions(questions, game.task)
  proposed = step_types.proposed(questions)
  metrics |= of_contamination(proposed, game.gate.guard)
  metrics |= signals.of_step(rounds, game)
  if len(rounds) > 1:
    metrics['sample/rounds'] = float(len(rounds))
  proposals = responses.join([r.proposals for r in rounds])
  solutions = responses.join([r.solutions for r in rounds])
  metrics |= of_responses('proposer', proposals)
  return metrics | of_responses('solver', solutions)


def of_questions(
  questions: Sequence[types.ScoredQuestion], task: base.Task
) -> dict[str, float]:
  """Computes metrics of questions, answers and rewards, over all processes.

  A mean over no values is left out.

  Args:
    questions: the scored questions of the step.
    task: the task of the questions.
  """
  proposed = step_types.proposed(questions)
  readable = [q for q in questions if q.problem.ok]
  metrics = _means(
    {
      'proposer/valid_rate': [q.problem.ok for q in proposed],
      'proposer/reward': [
        q.proposer_reward for q in proposed if q.proposer_reward is not None
      ],
      'solver/reward': [
        r for q in readable for r in q.solver_rewards if r is not None
      ],
    }
  )
  if texts := [q.problem.text for q in proposed if q.problem.ok]:
    metrics['proposer/distinct_rate'] = len(set(texts)) / len(texts)
  refused = _counts('gate', [q.problem.reason for q in questions])
  # Only the process that graded the answers to a question knows them.
  local = [q for q in readable if q.answers]
  means, counts = (_of_tests if task.run_tests else _of_votes)(
    step_types.proposed(local), task
  )
  means |= _of_replayed(local, task)
  means['solver/unparsed_rate'] = [
    answer is None
    for q in local
    for answer in exclusion.accepted(q.answers, q.excluded[: len(q.answers)])
  ]
  sums = exchange.sums(means)
  metrics |= {name: total / n for name, (total, n) in sums.items() if n}
  if not task.run_tests:
    metrics['vote/num_checked'] = float(sums['vote/accuracy'][1])
  for reason, count in task.given_up().items():
    counts[f'grading/given_up/{reason}'] = float(count)
  counts |= _counts('gate', [q.refused for q in local])
  counts |= _counts('exclude/answers', [r for q in local for r in q.excluded])
  counts |= _counts('gate/leaked', [q.problem.leaked for q in local])
  counts |= _of_labels(local)
  sums = exchange.sums({name: [count] for name, count in counts.items()})
  metrics |= {name: total for name, (total, _) in sums.items()}
  for name, count in refused.items():
    metrics[name] = metrics.get(name, 0.0) + count
  return metrics


def _of_replayed(
  local: Sequence[types.ScoredQuestion], task: base.Task
) -> dict[str, Sequence[float]]:
  """Returns the votes on questions that are asked again without a verdict."""
  replayed = [q for q in local if q.problem.replayed and q.label is None]
  if not replayed:
    return {}
  values, _ = _of_votes(replayed, task)
  return {
    'vote/replayed/majority_rate': values['vote/majority_rate'],
    'vote/replayed/agreement': values['vote/agreement'],
    'vote/replayed/accuracy': values['vote/accuracy'],
  }


def _of_labels(local: Sequence[types.ScoredQuestion]) -> dict[str, float]:
  """Counts the questions whose label is a true answer instead of the vote."""
  labeled = [q for q in local if q.label is not None]
  if not labeled:
    return {}
  overruled = sum(
    q.vote is None or q.label is None or q.vote.answer != q.label.answer
    for q in labeled
  )
  return {
    'review/labeled': float(len(labeled)),
    'review/overruled': float(overruled),
    'review/replayed': float(sum(q.problem.replayed for q in labeled)),
  }


def _of_votes(
  local: Sequence[types.ScoredQuestion], task: base.Task
) -> tuple[dict[str, Sequence[float]], dict[str, float]]:
  """Computes the agreement of the answers and the accuracy of the votes.

  `vote/accuracy` compares votes with the task's checker, if the checker knows
  the answer. It is a diagnostic metric that training never uses.

  Returns:
    The values of each mean, and the counts.
  """
  votes = [(q.problem.text, q.vote) for q in local if q.vote is not None]
  with_majority = [
    (text, vote) for text, vote in votes if vote.answer is not None
  ]
  checked = [
    task.is_true(vote.answer, true)
    for text, vote in with_majority
    if (true := task.true_answer(text)) is not None
  ]
  values: dict[str, Sequence[float]] = {
    'vote/majority_rate': [vote.answer is not None for _, vote in votes],
    'vote/agreement': [vote.count / vote.size for _, vote in with_majority],
    'vote/unanimous_rate': [0 < vote.count == vote.size for _, vote in votes],
    'vote/accuracy': checked,
  }
  return values, _counts('vote/no_majority', [v.reason for _, v in votes])


def _of_tests(
  local: Sequence[types.ScoredQuestion], _: base.Task
) -> tuple[dict[str, Sequence[float]], dict[str, float]]:
  """Computes how many tests the programs pass.

  A test that no program or every program passes does not distinguish programs.

  Returns:
    The values of each mean, and the counts.
  """
  tables = [exclusion.accepted(q.results, q.excluded) for q in local]
  results = [r for table in tables for row in table for r in row]
  # (number of programs that pass a test, number of programs) of each test.
  passes = [
    (count, len(table))
    for table in tables
    for count in unit_tests.passed_by(table)
  ]
  values: dict[str, Sequence[float]] = {
    'tests/pass_rate': [r.status == unit_tests.PASSED for r in results],
    'tests/passed_by_none': [count == 0 for count, _ in passes],
    'tests/passed_by_all': [count == size for count, size in passes],
  }
  counts = {}
  if lost := sum(map(sandbox.is_lost, results)):
    counts['grading/given_up/sandbox'] = float(lost)
  for status, count in unit_tests.statuses(results).items():
    counts[f'tests/{status}'] = float(count)
  return values, counts


def of_contamination(
  questions: Sequence[types.ScoredQuestion], guard: contamination.Guard
) -> dict[str, float]:
  """Computes the share of readable questions that are in an evaluation set.

  Args:
    questions: the questions that the proposer asked.
    guard: recognizes the questions of the evaluation sets.
  """
  if not guard.keys:
    return {}
  contaminated = []
  for question in questions:
    problem = question.problem
    if problem.reason == types.CONTAMINATED:
      contaminated.append(True)
    elif problem.ok:
      contaminated.append(guard.has(problem.text))
  return _means({'proposer/contaminated_rate': contaminated})


def of_responses(
  role: str, sampled: responses.Responses | None
) -> dict[str, float]:
  """Computes mean length, finished share and mean -log p of a token."""
  if sampled is None:
    return {}
  rollout, rows = sampled.rollout, len(sampled.prompt_ids)
  lengths, logprobs = rollout.lengths[:rows], rollout.logprobs[:rows]
  mask = masked.up_to(jnp.asarray(lengths), logprobs.shape[-1])
  return {
    f'sample/{role}/surprisal': float(
      -masked.mean(jnp.asarray(logprobs), mask)
    ),
    f'sample/{role}/tokens': float(np.mean(lengths)),
    f'sample/{role}/finished_rate': float(np.mean(rollout.finished[:rows])),
  }


def of_updates(
  totals: Sequence[Mapping[str, Any]], prefix: str
) -> dict[str, float]:
  """Computes means over updates from their (sum, count) pairs.

  Values that are not finite are left out of the mean and counted in
  `not_finite/`. The learner has skipped such an update.

  Args:
    totals: the (sum, count) pairs of each update, by name, on any device.
    prefix: prefix of the metric names.
  """
  metrics: dict[str, float] = {}
  totals = jax.device_get(totals)
  for name in totals[0] if totals else ():
    pairs = np.array([update[name] for update in totals], np.float64)
    finite = np.isfinite(pairs[:, 0])
    total, count = pairs[finite].sum(axis=0)
    if count:
      metrics[f'{prefix}/{name}'] = float(total / count)
    if not finite.all():
      metrics[f'{prefix}/not_finite/{name}'] = float((~finite).sum())
  return metrics


def _means(values: Mapping[str, Sequence[float]]) -> dict[str, float]:
  return {name: float(np.mean(v)) for name, v in values.items() if v}


def _counts(prefix: str, reasons: Sequence[str]) -> dict[str, float]:
  """Counts how often each reason occurs; '' is ignored."""
  counts: dict[str, float] = {}
  for reason in filter(None, reasons):
    key = f'{prefix}/{reason}'
    counts[key] = counts.get(key, 0.0) + 1.0
  return counts
