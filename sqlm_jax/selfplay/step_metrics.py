"""Metrics of a self-play step."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sqlm_jax.game import contamination, types
from sqlm_jax.ops import masked
from sqlm_jax.sandbox import sandbox, unit_tests
from sqlm_jax.selfplay import exchange, responses
from sqlm_jax.tasks import base


def of_verdicts(
  verdicts: Sequence[types.Verdict], task: base.Task
) -> dict[str, float]:
  """Computes metrics of questions, answers and rewards, over all processes.

  A mean over no values is left out.

  Args:
    verdicts: the verdicts of the step.
    task: the task of the questions.
  """
  asked = [v for v in verdicts if v.problem.ok]
  metrics = _means(
    {
      'proposer/valid_rate': [v.problem.ok for v in verdicts],
      'proposer/reward': [
        v.proposer_reward for v in verdicts if v.proposer_reward is not None
      ],
      'solver/reward': [r for v in asked for r in v.solver_rewards],
    }
  )
  if asked:
    distinct = {v.problem.text for v in asked}
    metrics['proposer/distinct_rate'] = len(distinct) / len(asked)
  metrics |= _counts(
    'proposer/unreadable', [v.problem.reason for v in verdicts]
  )
  # Only the process that judged a question knows its answers.
  judged = [v for v in asked if v.answers]
  means, counts = (_of_tests if task.run_tests else _of_votes)(judged, task)
  blank = [answer is None for v in judged for answer in v.answers]
  found = exchange.sums({'solver/unparsed_rate': blank} | means)
  metrics |= {name: total / n for name, (total, n) in found.items() if n}
  if not task.run_tests:
    metrics['vote/num_checked'] = float(found['vote/accuracy'][1])
  given_up = task.given_up().items()
  counts |= {f'grading/given_up/{why}': float(n) for why, n in given_up}
  counts = {name: [value] for name, value in counts.items()}
  counts = exchange.sums(counts)
  return metrics | {name: total for name, (total, _) in counts.items()}


def _of_votes(
  judged: Sequence[types.Verdict], task: base.Task
) -> tuple[dict[str, list[float]], dict[str, float]]:
  """Computes the agreement of the answers and the accuracy of the votes.

  `vote/accuracy` compares votes with the task's checker, if the checker knows
  the answer. It is a diagnostic metric that training never uses.

  Returns:
    The values of each mean, and the counts.
  """
  labelled = [v for v in judged if v.vote.answer is not None]
  checked = [
    task.is_true(v.vote.answer, true)
    for v in labelled
    if (true := task.true_answer(v.problem.text)) is not None
  ]
  values = {
    'vote/majority_rate': [v.vote.answer is not None for v in judged],
    'vote/agreement': [v.vote.count / v.vote.size for v in labelled],
    'vote/unanimous_rate': [v.vote.count == v.vote.size for v in judged],
    'vote/accuracy': checked,
  }
  return values, _counts('vote/no_majority', [v.vote.reason for v in judged])


def _of_tests(
  judged: Sequence[types.Verdict], _: base.Task
) -> tuple[dict[str, list[float]], dict[str, float]]:
  """Computes how many tests the programs pass.

  A test that no program or every program passes does not distinguish programs.

  Returns:
    The values of each mean, and the counts.
  """
  results = [r for v in judged for row in v.results for r in row]
  passed = [(n, v) for v in judged for n in unit_tests.passed_by(v.results)]
  values = {
    'tests/pass_rate': [r.status == unit_tests.PASSED for r in results],
    'tests/passed_by_none': [count == 0 for count, _ in passed],
    'tests/passed_by_all': [count == len(v.answers) for count, v in passed],
  }
  counts = {}
  if lost := sum(map(sandbox.is_lost, results)):
    counts['grading/given_up/sandbox'] = float(lost)
  found = unit_tests.statuses(results)
  counts |= {f'tests/{name}': float(n) for name, n in found.items()}
  return values, counts


def of_contamination(
  verdicts: Sequence[types.Verdict], guard: contamination.Guard
) -> dict[str, float]:
  """Computes the share of readable questions that are in an evaluation set."""
  if not guard.keys:
    return {}
  excluded = [v.problem.reason == types.CONTAMINATED for v in verdicts]
  readable = [
    v for v, out in zip(verdicts, excluded, strict=True) if v.problem.ok or out
  ]
  return _means(
    {
      'proposer/contaminated_rate': [
        not v.problem.ok or guard.has(v.problem.text) for v in readable
      ]
    }
  )


def of_responses(
  role: str, written: responses.Responses | None
) -> dict[str, float]:
  """Computes mean length, finished share and mean -log p of a token."""
  if written is None:
    return {}
  rollout, rows = written.rollout, len(written.prompt_ids)
  lengths, logprobs = rollout.lengths[:rows], rollout.logprobs[:rows]
  mask = masked.up_to(lengths, logprobs.shape[-1])
  return {
    f'sample/{role}/surprisal': float(-masked.mean(logprobs, mask)),
    f'sample/{role}/tokens': float(np.mean(rollout.lengths[:rows])),
    f'sample/{role}/finished_rate': float(np.mean(rollout.finished[:rows])),
  }


def of_updates(
  totals: Sequence[Mapping[str, Any]], prefix: str
) -> dict[str, float]:
  """Computes means over updates from their (sum, count) pairs.

  Values that are not finite are left out of the mean and counted in
  `not_finite/`. The learner has skipped such an update.

  Args:
    totals: the (sum, count) pairs of each update, by name.
    prefix: prefix of the metric names.
  """
  metrics = {}
  for name in totals[0] if totals else ():
    pairs = np.array([found[name] for found in totals], np.float64)
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
