"""Formats the figures of a pilot as tables of names and values."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from sqlm_jax.evaluation import report, verdict

_MAX_EXAMPLES = 4
_MAX_CHARACTERS = 100


def questions(figures: verdict.Questions) -> dict[str, str]:
  """Formats the figures of the questions of a step."""
  reasons = ', '.join(f'{n} {reason}' for reason, n in figures.reasons.items())
  rows = {
    'questions': str(figures.total),
    'readable': f'{figures.readable:.0%}',
  }
  if reasons:
    rows['refused'] = reasons
  shares = {
    'different': figures.distinct,
    'with a majority': figures.majority,
    'agreement': figures.agreement,
    'votes right, by task.checker': figures.right,
    'unanimous': figures.unanimous,
    'in proposer.band': figures.in_band,
    'with different rewards': figures.learnable,
    'tests passed': figures.pass_rate,
  }
  rows |= {name: f'{x:.0%}' for name, x in shares.items() if x is not None}
  if figures.top_share is not None:
    rows['most common vote'] = (
      f'{report.code(figures.top_answer or "")}, for {figures.top_share:.0%} '
      'of the different questions with a majority'
    )
  return rows


def examples(asked: Sequence[Mapping[str, Any]]) -> dict[str, str]:
  """Formats a few questions, readable ones first.

  Args:
    asked: Questions with the entries 'question', 'refused', 'vote' and
      'agreement'.
  """
  readable = [row for row in asked if not row['refused']][:_MAX_EXAMPLES]
  refused = [row for row in asked if row['refused']][:_MAX_EXAMPLES]
  rows = {}
  for i, row in enumerate(readable, 1):
    vote = 'no majority'
    if row['vote'] is not None:
      vote = f'{report.code(row["vote"])}, {row["agreement"]:.0%} agree'
    rows[f'question {i}'] = f'{_one_line(row["question"])}  ->  {vote}'
  for i, row in enumerate(refused, 1):
    rows[f'refused {i}'] = f'{_one_line(row["question"])}  ({row["refused"]})'
  return rows


def _one_line(text: str) -> str:
  return report.code(textwrap.shorten(text, _MAX_CHARACTERS))


def votes(figures: Mapping[str, Any]) -> dict[str, str]:
  """Formats the figures of votes on labeled questions."""
  rows = {
    'labeled questions': str(figures['questions']),
    'greedy answers': f'{figures["greedy"]:.0%} right',
    'sampled answers': f'{figures["sampled"]:.0%} right',
    'most common label': f'{report.code(figures["constant"]["label"])}, '
    f'{figures["constant"]["share"]:.0%} of the questions',
  }
  if figures['configured'] is None:
    rows['votes as configured'] = 'no question keeps its vote'
  else:
    rows |= _at_threshold('votes as configured', figures['configured'])
  suggestion = figures['suggestion']
  if suggestion is not None:
    rows |= _at_threshold('votes at the best threshold', suggestion)
    rows['certainty'] = report.describe_certainty(suggestion, figures['target'])
  return rows


def _at_threshold(name: str, votes: Mapping[str, Any]) -> dict[str, str]:
  return {
    name: f'vote.min_agreement={report.round_down(votes["agreement"])}: '
    f'{votes["right"]} of {votes["votes"]} right, {report.percentage(votes)}; '
    f'{votes["kept"]:.0%} of the questions keep their vote',
    f'  against the label above ({votes["votes"]})': _difference(
      votes['vs_constant']
    ),
    f'  against greedy answers ({votes["votes"]})': _difference(
      votes['vs_greedy']
    ),
  }


def _difference(x: Mapping[str, float]) -> str:
  interval = report.interval(x, signed=True)
  return f'{interval}, {report.describe_p(x["p"])}'


def cost(figures: Mapping[str, Any]) -> dict[str, str]:
  """Formats the time and the memory of a run."""
  rows = {
    'first step (measured)': f'{figures["first_step_seconds"]:.0f} s, with '
    'compilation',
  }
  fastest = figures['fastest_step_seconds']
  if fastest < figures['first_step_seconds']:
    rows['fastest step (measured)'] = f'{fastest:.1f} s'
  rows['run (computed)'] = (
    f'{_duration(figures["run_seconds"])} for {figures["num_steps"]} steps, '
  )
  if figures['evaluation_seconds'] is None:
    rows['run (computed)'] += 'without evaluations'
  else:
    rows['run (computed)'] += (
      f'of which {_duration(figures["evaluation_seconds"])} for evaluations'
    )
  rows['peak memory (measured)'] = _gigabytes(figures['peak_memory_bytes'])
  if figures['peak_device_memory_bytes'] is not None:
    rows['peak device memory (measured)'] = _gigabytes(
      figures['peak_device_memory_bytes']
    )
  return rows


def _duration(seconds: float) -> str:
  if seconds < 120:
    return f'{seconds:.0f} s'
  if seconds < 7200:
    return f'{seconds / 60:.0f} min'
  return f'{seconds / 3600:.1f} h'


def _gigabytes(count: int) -> str:
  return f'{count / 1e9:.1f} GB'
