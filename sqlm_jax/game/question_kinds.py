"""Remembers which kinds of question a run has asked.

By default, the kinds of a question are its numbers and its pairs of neighboring
words. A pair such as `7 +` says that 7 is the first operand, so the kinds of

  7 + 4     are     7, 4, `7 +` and `+ 4`.
"""

import collections
import itertools
from collections.abc import Collection, Iterable, Sequence
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


def rarities(
  asked: Sequence[Collection[str]], earlier: Iterable[Collection[str]]
) -> tuple[float, ...]:
  """Returns how rare the kinds of each question are.

  With n_k, the number of earlier questions of kind k, and m, the mean of n_k
  over the kinds that were asked, the rarity of a question is the mean of

    1 / (1 + n_k / m)

  over its kinds: 1 for kinds that were never asked, and 1/2 for kinds that were
  asked as often as others. As in count-based exploration (Strehl and Littman,
  2008), it decreases with n_k. Because of m, it does not decrease merely
  because the run goes on.

  Args:
    asked: the kinds of each question; a question without kinds has rarity 0.
    earlier: the kinds of each earlier question.
  """
  counts = collections.Counter(itertools.chain.from_iterable(earlier))
  mean = counts.total() / len(counts) if counts else 1.0
  return tuple(
    sum(1 / (1 + counts[kind] / mean) for kind in sorted(kinds)) / len(kinds)
    if kinds
    else 0.0
    for kinds in asked
  )
