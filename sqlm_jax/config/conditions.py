"""Parses the condition of an alarm, such as 'vote/agreement > 0.9'.

A condition compares a metric with a number, or with a multiple of the metric's
first value in the run, which is written as `start`. Several comparisons are
joined by `and`:

  sample/solver/tokens < 0.5 * start
  vote/option_share/* > 0.9
  vote/unanimous_rate > 0.95 and train/solver/kl > 0.5

In the name of a metric, `*` stands for any characters except `/`.
"""

import operator
import re
from collections.abc import Callable
from typing import NamedTuple

_COMPARISON = re.compile(
  r'(?P<metric>[^\s<>=]+)\s*(?P<sign><=|>=|<|>)\s*'
  r'(?P<number>-?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)(?P<start>\s*\*\s*start)?'
)
_COMPARE: dict[str, Callable[[float, float], bool]] = {
  '<': operator.lt,
  '<=': operator.le,
  '>': operator.gt,
  '>=': operator.ge,
}


class Comparison(NamedTuple):
  """A comparison of a metric with a threshold.

  Attributes:
    metric: Name of the metric, in which `*` stands for any characters but `/`.
    sign: One of <, <=, > and >=.
    number: The threshold, or its ratio to the metric's first value.
    is_relative: True if the number is multiplied by the first value.
  """

  metric: str
  sign: str
  number: float
  is_relative: bool

  def matches(self, name: str) -> bool:
    """Returns True if a metric has this name."""
    parts = map(re.escape, self.metric.split('*'))
    return re.fullmatch('[^/]*'.join(parts), name) is not None

  def threshold(self, start: float) -> float:
    """Returns the threshold, given the metric's first value."""
    return self.number * start if self.is_relative else self.number

  def holds(self, value: float, start: float) -> bool:
    """Returns True if the comparison holds for a value of the metric."""
    return _COMPARE[self.sign](value, self.threshold(start))


def parse(condition: str) -> tuple[Comparison, ...]:
  """Parses a condition into its comparisons.

  Raises:
    ValueError: If the text is not a condition.
  """
  comparisons = []
  for text in re.split(r'\s+and\s+', condition.strip()):
    match = _COMPARISON.fullmatch(text)
    if match is None:
      raise ValueError(f'{condition!r}: not a condition of an alarm')
    comparisons.append(
      Comparison(
        match['metric'],
        match['sign'],
        float(match['number']),
        match['start'] is not None,
      )
    )
  return tuple(comparisons)


def is_valid(condition: str) -> bool:
  """Returns True if `parse` accepts the text."""
  try:
    return bool(parse(condition))
  except ValueError:
    return False
