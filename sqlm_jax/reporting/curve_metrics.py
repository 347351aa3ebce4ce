"""The metrics of a step that reports and review pages draw as curves."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from sqlm_jax.reporting import messages

_mark = messages.mark

# Metrics by the title of their chart, each with its label in the legend.
BY_CHART: dict[str, dict[str, str]] = {
  _mark('Agreement of votes'): {
    'vote/agreement': _mark('mean agreement'),
    'vote/unanimous_rate': _mark('unanimous'),
    'vote/accuracy': _mark('right by the checker'),
    'review/vote_accuracy': _mark('right by reviewers'),
  },
  _mark('Quality of questions'): {
    'proposer/valid_rate': _mark('readable'),
    'proposer/distinct_rate': _mark('distinct'),
    'proposer/new_rate': _mark('new'),
    'vote/majority_rate': _mark('with a majority'),
  },
  _mark('Rewards'): {
    'solver/reward': _mark('solver'),
    'proposer/reward': _mark('proposer'),
  },
}


def values(
  metrics: Iterable[Mapping[str, Any]], name: str
) -> tuple[list[int], list[float]]:
  """Returns the steps that have a metric, and its values in these steps.

  Args:
    metrics: Rows of metrics.jsonl.
    name: Name of the metric.
  """
  points = [
    (row['step'], row[name])
    for row in metrics
    if isinstance(row.get('step'), int)
    and isinstance(row.get(name), int | float)
    and math.isfinite(row[name])
  ]
  return [step for step, _ in points], [value for _, value in points]
