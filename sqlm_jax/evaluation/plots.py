"""Plots of evaluations, returned as the bytes of SVG and PNG files."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epy

with epy.lazy_imports():  # takes half a second
  import matplotlib as mpl
  from matplotlib import axes as axes_lib
  from matplotlib import figure
  from matplotlib.backends import backend_agg, backend_svg

# Okabe and Ito's palette, which color-blind readers can distinguish.
_FIRST, _SECOND, _GREY = '#0072B2', '#D55E00', '#666666'


def comparison(compared: Mapping[str, Any]) -> dict[str, bytes]:
  """Plots the figures of two evaluations side by side, with 95% intervals.

  Args:
    compared: Comparison from `comparison.compare`.

  Returns:
    The contents of the files by type, 'svg' and 'png'.
  """
  names = list(compared['figures'])
  drawn = figure.Figure(figsize=(2 + 1.1 * len(names), 4), layout='constrained')
  axes = drawn.subplots()
  for side, color, offset in ((0, _FIRST, -0.12), (1, _SECOND, 0.12)):
    values = [compared['figures'][name]['values'][side] for name in names]
    axes.errorbar(
      [i + offset for i in range(len(names))],
      [x['value'] for x in values],
      yerr=_bars(values),
      fmt='os'[side],
      color=color,
      capsize=3,
      label=_escape(compared['names'][side]),
    )
  axes.set_xticks(range(len(names)), names)
  axes.set_xlim(-0.6, len(names) - 0.4)
  axes.set_ylim(-0.03, 1.03)
  axes.set_ylabel('fraction of questions (95% interval)')
  drawn.legend(loc='outside lower center', ncols=2, frameon=False)
  origin = _escape(compared['origin'])
  axes.set_title(f'{compared["questions"]} questions of {origin}')
  _finish(axes)
  return _files(drawn)


def reliability(curve: Mapping[str, Any]) -> dict[str, bytes]:
  """Plots how often votes are right as a function of their agreement.

  Args:
    curve: Reliability curve from `evaluation.reliability.measure`.

  Returns:
    The contents of the files by type, 'svg' and 'png'.
  """
  bins = curve['bins']
  drawn = figure.Figure(figsize=(5.5, 5), layout='constrained')
  axes, counts = drawn.subplots(
    2, 1, sharex=True, height_ratios=(4, 1), squeeze=True
  )
  axes.plot([0, 1], [0, 1], color=_GREY, linestyle=':', label='calibrated')
  agreements = [x['agreement'] for x in bins]
  values = [x | {'value': x['accuracy']} for x in bins]
  axes.errorbar(
    agreements,
    [x['value'] for x in values],
    yerr=_bars(values),
    fmt='o-',
    color=_FIRST,
    capsize=3,
    label='votes (Wilson interval, 95%)',
  )
  axes.axhline(
    curve['target'],
    color=_SECOND,
    linestyle='--',
    label=f'target {curve["target"]:g}',
  )
  suggested = curve.get('suggested_min_agreement')
  if suggested is not None:
    axes.axvline(
      suggested,
      color=_SECOND,
      linestyle='-.',
      label=f'suggested minimum agreement {suggested:.2f}',
    )
  axes.set_xlim(-0.08, 1.08)
  axes.set_ylim(-0.03, 1.03)
  axes.set_ylabel('fraction of votes that are right')
  _finish(axes)
  drawn.legend(loc='outside upper center', ncols=2, frameon=False)
  width = 0.6 / max(min(curve['samples'], 10), 1)
  counts.bar(agreements, [x['votes'] for x in bins], width=width, color=_FIRST)
  counts.set_ylabel('votes')
  counts.set_xlabel(f'agreement: fraction of {curve["samples"]} answers')
  counts.spines[['top', 'right']].set_visible(False)
  return _files(drawn)


def _bars(values: Sequence[Mapping[str, float]]) -> list[list[float]]:
  """Returns the lengths of the error bars below and above the values.

  Negative lengths, which rounding errors of the bootstrap can cause, become 0.
  """
  return [
    [max(x['value'] - x['low'], 0) for x in values],
    [max(x['high'] - x['value'], 0) for x in values],
  ]


def _finish(axes: 'axes_lib.Axes') -> None:
  axes.grid(axis='y', color='#dddddd', linewidth=0.8)
  axes.set_axisbelow(True)
  axes.spines[['top', 'right']].set_visible(False)


def _escape(text: str) -> str:
  """Escapes dollar signs, which matplotlib would interpret as mathematics."""
  return text.replace('$', r'\$')


def _files(drawn: 'figure.Figure') -> dict[str, bytes]:
  kinds = {
    'svg': (backend_svg.FigureCanvasSVG, {'Date': None}),
    'png': (backend_agg.FigureCanvasAgg, {}),
  }
  files = {}
  # A fixed salt makes the SVG file deterministic.
  with mpl.rc_context({'svg.hashsalt': 'sqlm_jax'}):
    for kind, (canvas, metadata) in kinds.items():
      buffer = io.BytesIO()
      canvas(drawn)
      drawn.savefig(buffer, format=kind, dpi=120, metadata=metadata)
      files[kind] = buffer.getvalue()
  return files
