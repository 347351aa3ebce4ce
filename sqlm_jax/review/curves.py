"""Curves of a run as points of SVG polylines, which templates draw."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlm_jax.reporting import curve_metrics, messages
from sqlm_jax.workdir import evaluations

WIDTH, HEIGHT = 320, 120
_mark = messages.mark
_MAX_POINTS = 200


class Line(NamedTuple):
  """A curve.

  Attributes:
    label: Text of the legend.
    points: Points 'x,y x,y ...' within `WIDTH` and `HEIGHT`.
    last: Value of the last point.
  """

  label: str
  points: str
  last: float


class Chart(NamedTuple):
  """Curves over steps that share their axes."""

  title: str
  lines: list[Line]
  low: float
  high: float
  first_step: int
  last_step: int


def charts(
  metrics: Sequence[Mapping[str, Any]], results: Sequence[Mapping[str, Any]]
) -> list[Chart]:
  """Returns the charts of a run; a chart without values is left out.

  Args:
    metrics: Rows of metrics.jsonl.
    results: Rows of eval.jsonl.
  """
  series = {_mark('Accuracy'): _accuracies(results)}
  for title, names in curve_metrics.BY_CHART.items():
    series[title] = {
      label: list(zip(*curve_metrics.values(metrics, name), strict=True))
      for name, label in names.items()
    }
  return [
    _chart(title, curves)
    for title, curves in series.items()
    if any(curves.values())
  ]


def _accuracies(
  results: Iterable[Mapping[str, Any]],
) -> dict[str, list[tuple[int, float]]]:
  curves: dict[str, list[tuple[int, float]]] = {}
  for result in results:
    if not isinstance(result.get('step'), int):
      continue
    for name in evaluations.figure_names(result):
      if name == 'greedy' or name.startswith('mean@'):
        label = f'{result.get("set")}: {name}'
        curves.setdefault(label, []).append((result['step'], result[name]))
  return {label: sorted(points) for label, points in curves.items()}


def _chart(
  title: str, curves: Mapping[str, Sequence[tuple[int, float]]]
) -> Chart:
  points = [point for curve in curves.values() for point in curve]
  steps, values = [step for step, _ in points], [value for _, value in points]
  # Shares are easier to compare on one scale.
  low, high = min(0.0, *values), max(1.0, *values)
  first, last = min(steps), max(steps)

  def place(step: int, value: float) -> str:
    x = WIDTH * (step - first) / max(last - first, 1)
    y = HEIGHT * (high - value) / (high - low)
    return f'{x:.1f},{y:.1f}'

  return Chart(
    title,
    [
      Line(
        label,
        ' '.join(place(*point) for point in _thin(curve)),
        curve[-1][1],
      )
      for label, curve in curves.items()
      if curve
    ],
    low,
    high,
    first,
    last,
  )


def _thin(
  curve: Sequence[tuple[int, float]],
) -> list[tuple[int, float]]:
  """Returns the mean of every few neighbors of a long curve."""
  size = math.ceil(len(curve) / _MAX_POINTS)
  parts = [curve[i : i + size] for i in range(0, len(curve), size)]
  return [
    (part[-1][0], sum(value for _, value in part) / len(part)) for part in parts
  ]
