"""Reads docs/metrics.md, the page that explains all metrics and columns."""

import pathlib
import re

PAGE = pathlib.Path(__file__).parent.parent / 'docs' / 'metrics.md'
_COLUMNS = '## Columns of rollouts'


def metrics() -> list[str]:
  """Returns the metric names, in which `<>` stands for any name."""
  text, _ = PAGE.read_text(encoding='utf-8').split(_COLUMNS)
  names = re.findall(r'^\| `([^`]+)` \|', text, re.MULTILINE)
  return [re.sub('<[^>]+>', '<>', name) for name in names]


def columns() -> list[str]:
  """Returns the lines of the table of columns."""
  _, text = PAGE.read_text(encoding='utf-8').split(_COLUMNS)
  return re.findall(r'^\| `.*$', text, re.MULTILINE)


def explains(metric: str) -> bool:
  """Returns True if the page has a row for the metric of a run."""
  return any(
    re.fullmatch(re.escape(name).replace('<>', '[^/]+'), metric)
    for name in metrics()
  )
