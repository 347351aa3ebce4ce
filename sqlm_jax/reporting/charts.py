"""Charts of a report as SVG images in data URIs.

The only text in an image is numbers. Titles and legends are HTML around the
image, so they can be translated, and text of a model never enters an image.
"""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from etils import epy

from sqlm_jax.reporting import curve_metrics, figures, messages, tallies

with epy.lazy_imports():  # takes half a second
  import matplotlib as mpl
  from matplotlib import figure as figure_lib
  from matplotlib import ticker
  from matplotlib.backends import backend_svg

# Okabe and Ito's palette, which color-blind readers can distinguish.
COLORS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#666666')
_SIZE = (5.2, 2.9)  # inches
_MAX_POINTS = 1500  # of a scatter plot

_mark = messages.mark


class Chart(NamedTuple):
  """A chart.

  Attributes:
    title: English title.
    caption: English description of the axes.
    image: Data URI of the SVG image.
    legend: Color and English label of each series.
  """

  title: str
  caption: str
  image: str
  legend: tuple[tuple[str, str], ...]


class _Series(NamedTuple):
  label: str
  steps: list[int]
  values: list[float]


def of_run(
  metrics: Sequence[Mapping[str, Any]],
  results: Sequence[Mapping[str, Any]],
  points: Sequence[tallies.Point],
) -> list[Chart]:
  """Draws the curves of a run and its map of questions.

  A chart without values is left out.

  Args:
    metrics: Rows of metrics.jsonl.
    results: Rows of eval.jsonl.
    points: Votes of the run.
  """
  charts = [_curves(_mark('Accuracy'), _accuracies(results))]
  for title, labels in curve_metrics.BY_CHART.items():
    series = [
      _Series(label, *curve_metrics.values(metrics, name))
      for name, label in labels.items()
    ]
    charts.append(_curves(title, series))
  charts.append(_question_map(points))
  return [chart for chart in charts if chart is not None]


def reliability(improvement: figures.Improvement) -> Chart | None:
  """Draws how often votes are right by their agreement; None without votes."""
  bins = improvement.reliability.get('bins')
  if not bins:
    return None
  drawn, axes = _axes()
  axes.plot([0, 1], [0, 1], color=COLORS[-1], linestyle=':')
  values = [x['accuracy'] for x in bins]
  bars = [
    [max(x['accuracy'] - x['low'], 0) for x in bins],
    [max(x['high'] - x['accuracy'], 0) for x in bins],
  ]
  axes.errorbar(
    [x['agreement'] for x in bins],
    values,
    yerr=bars,
    fmt='o-',
    color=COLORS[0],
    capsize=3,
  )
  axes.set_xlim(-0.03, 1.03)
  axes.set_ylim(-0.03, 1.03)
  return Chart(
    _mark('How often votes are right'),
    _mark(
      'Across: fraction of the answers that agree. Up: fraction of these votes '
      'that are right, with 95% intervals.'
    ),
    _image(drawn),
    (
      (COLORS[0], _mark('votes')),
      (COLORS[-1], _mark('as often right as they agree')),
    ),
  )


def _accuracies(results: Sequence[Mapping[str, Any]]) -> list[_Series]:
  """Returns the deciding figure of each evaluation set over the steps."""
  sets: dict[str, dict[int, float]] = {}
  for result in results:
    samples = (result.get('settings') or {}).get('samples')
    name = f'mean@{samples}' if f'mean@{samples}' in result else 'greedy'
    is_named = result.get('set') in (figures.TEST, figures.VALIDATION)
    if is_named and isinstance(result.get('step'), int) and name in result:
      sets.setdefault(result['set'], {})[result['step']] = result[name]
  labels = {
    figures.TEST: _mark('test set'),
    figures.VALIDATION: _mark('validation set'),
  }
  series = []
  for name, by_step in sorted(sets.items()):
    steps = sorted(by_step)
    series.append(_Series(labels[name], steps, [by_step[s] for s in steps]))
  return series


def _curves(title: str, series: Sequence[_Series]) -> Chart | None:
  series = [each for each in series if each.steps]
  if not series:
    return None
  drawn, axes = _axes()
  for color, each in zip(COLORS, series, strict=False):
    marker = 'o' if len(each.steps) < 30 else ''
    axes.plot(
      each.steps, each.values, marker=marker, markersize=3.5, color=color
    )
  values = [value for each in series for value in each.values]
  axes.set_ylim(min(-0.03, *values), max(1.03, *values))
  axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
  legend = zip(COLORS, (each.label for each in series), strict=False)
  return Chart(
    title, _mark('Across: self-play step.'), _image(drawn), tuple(legend)
  )


def _question_map(points: Sequence[tallies.Point]) -> Chart | None:
  if not points:
    return None
  every = math.ceil(len(points) / _MAX_POINTS)
  points = points[::every]
  drawn, axes = _axes()
  kinds = (
    (True, COLORS[0], 'o', _mark('right by the checker')),
    (False, COLORS[1], 'x', _mark('wrong by the checker')),
    (None, COLORS[-1], '.', _mark('not checked')),
  )
  legend = []
  for right, color, marker, label in kinds:
    chosen = [point for point in points if point.right is right]
    if not chosen:
      continue
    legend.append((color, label))
    # Spreads the points of a step, in the order of its questions.
    seen: dict[int, int] = {}
    x = []
    for point in chosen:
      number = seen[point.step] = seen.get(point.step, -1) + 1
      x.append(point.step + (number * 0.618 % 1) * 0.7 - 0.35)
    axes.scatter(
      x,
      [point.share for point in chosen],
      s=12,
      color=color,
      marker=marker,
      alpha=0.6,
      linewidths=1,
    )
  axes.set_ylim(-0.05, 1.05)
  axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
  return Chart(
    _mark('Map of questions'),
    _mark(
      'Each mark is a question. Across: self-play step. Up: fraction of the '
      'answers that agree, 0 without a majority.'
    ),
    _image(drawn),
    tuple(legend),
  )


def _axes():
  drawn = figure_lib.Figure(figsize=_SIZE, layout='constrained')
  axes = drawn.subplots()
  axes.grid(axis='y', color='#dddddd', linewidth=0.8)
  axes.set_axisbelow(True)
  axes.spines[['top', 'right']].set_visible(False)
  return drawn, axes


def _image(drawn: 'figure_lib.Figure') -> str:
  buffer = io.BytesIO()
  backend_svg.FigureCanvasSVG(drawn)
  # Numbers are text in the reader's font, and a fixed salt makes the file
  # deterministic.
  settings: Any = {'svg.fonttype': 'none', 'svg.hashsalt': 'sqlm_jax'}
  with mpl.rc_context(settings):
    drawn.savefig(buffer, format='svg', metadata={'Date': None})
  encoded = base64.b64encode(buffer.getvalue()).decode()
  return f'data:image/svg+xml;base64,{encoded}'
