"""Parses the condition of an alarm, such as 'vote/agreement > 0.9'.

A condition compares a metric with a number, or with a multiple of the metric's
first value in the run, which is written as `start`, or of its highest value so
far, `highest`. Several comparisons are joined by `and`:

  sample/solver/tokens < 0.5 * start
  probe/information < 0.9 * highest
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
  r'(?P<number>-?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)'
  r'(?:\s*\*\s*(?P<reference>start|highest))?'
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
    number: The threshold, or its ratio to the reference.
    reference: 'start' if the number is multiplied by the metric's first value,
      'highest' if it is multiplied by its highest value, '' for neither.
  """

  metric: str
  sign: str
  number: float
  reference: str = ''

  def matches(self, name: str) -> bool:
    """Returns True if a metric has this name."""
    parts = map(re.escape, self.metric.split('*'))
    return re.fullmatch('[^/]*'.join(parts), name) is not None

  def threshold(self, reference: float) -> float:
    """Returns the threshold, given the value of the reference."""
    return self.number * reference if self.reference else self.number

  def holds(self, value: float, reference: float) -> bool:
    """Returns True if the comparison holds for a value of the metric."""
    return _COMPARE[self.sign](value, self.threshold(reference))


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
        match['reference'] or '',
      )
    )
  return tuple(comparisons)


def is_valid(condition: str) -> bool:
  """Returns True if `parse` accepts the text."""
  try:
    return bool(parse(condition))
  except ValueError:
    return False
