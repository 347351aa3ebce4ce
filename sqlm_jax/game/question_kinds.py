"""Remembers which kinds of question a run has asked.

By default, the kinds of a question are its numbers and its pairs of neighboring
words. A pair such as `7 +` says that 7 is the first operand, so the kinds of

  7 + 4     are     7, 4, `7 +` and `+ 4`.
"""

import itertools
from collections.abc import Iterable
from typing import NamedTuple

from sqlm_jax.game import repetition


class Kinds(NamedTuple):
  """The kinds of question that a run has asked.

  The number of kinds is limited, so that a checkpoint stays small. Once the
  limit is reached, the kinds of the first steps are kept, and the share of them
  that later steps ask can be compared from step to step.
  """

  limit: int
  seen: frozenset[str] = frozenset()

  def add(self, kinds: Iterable[str]) -> 'Kinds':
    """Adds kinds in alphabetical order, up to the limit."""
    new = sorted(set(kinds) - self.seen)[: self.limit - len(self.seen)]
    return self._replace(seen=self.seen.union(new))

  def coverage(self, kinds: Iterable[str]) -> float | None:
    """Returns the share of the seen kinds that `kinds` has; None if none."""
    if not self.seen:
      return None
    return len(self.seen.intersection(kinds)) / len(self.seen)


def of_words(question: str) -> set[str]:
  """Returns the numbers and the pairs of neighboring words of a question.

  A question of a single word is a kind of its own.
  """
  words = repetition.words(question)
  kinds = {word for word in words if word[0].isdigit() or len(words) == 1}
  return kinds | {' '.join(pair) for pair in itertools.pairwise(words)}
