"""Finds questions that repeat others, word for word or nearly.

Two questions are alike if their similarity 2 M / T is high enough, with M words
in common, in order, and T words in both together (the normalised Indel
similarity of rapidfuzz). A number is a word, and so is every sign:

  7 + 4             7 + 5               2/3, whatever the digits
  What is 7 + 4?    What is 7 + 5?      5/6
  30 words          two of them new     28/30

Compared by characters, 123 + 456 would be closer to 123 + 457 than two word
problems that differ in a name. In scripts without spaces between words
(Japanese, Chinese, Thai, Lao, Burmese, Khmer) every character is a word, but a
number is still one word. Only the surface is compared, not the meaning: a
paraphrase is no repetition, and a long problem with other numbers is one.
"""

import functools
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from rapidfuzz import fuzz, process

from sqlm_jax.text import normalize

_LONGEST = 2000  # characters that are compared
_UNSPACED = f'[{normalize.UNSPACED}]'
_WORD = re.compile(
  rf'\d+(?:[.,]\d+)*|{_UNSPACED}|(?:(?!{_UNSPACED})[^\W\d_])+|\S'
)
# Words become characters of their own, which are fast to compare.
_FIRST, _MOST = 0x10000, 0x100000


def shares(questions: Sequence[str], similarity: float) -> tuple[float, ...]:
  """Returns, for each question, the share of the others that are like it.

  (|C| - 1) / (B - 1) for a question with |C| of the B questions in its
  cluster, itself included. R-Zero (Huang et al., 2025, arXiv 2508.05004)
  penalises |C| / B, with clusters by BLEU. Here a question like no other has 0,
  and a cluster holds all questions that are linked by pairs that are alike.

  Args:
    questions: the questions of a step.
    similarity: minimum similarity, 0 to 1, of two questions that are alike.
  """
  if len(questions) < 2:
    return (0.0,) * len(questions)
  cluster = _clusters(_alike(questions, questions, similarity))
  sizes = np.bincount(cluster)[cluster]
  return tuple(((sizes - 1) / (len(questions) - 1)).tolist())


class Memory(NamedTuple):
  """The questions of earlier steps, oldest first.

  Penalties inside a batch do not keep a proposer from coming back to the same
  questions step after step (R-Diverse, arXiv 2602.13103): that takes a memory.
  """

  size: int = 0  # questions that are remembered, 0 for none
  questions: tuple[str, ...] = ()

  def seen(
    self, questions: Sequence[str], similarity: float
  ) -> tuple[float, ...]:
    """Returns 1 for each question that is like one of the memory, else 0."""
    if not questions or not self.questions:
      return (0.0,) * len(questions)
    alike = _alike(questions, self.questions, similarity)
    return tuple(alike.any(axis=1) * 1.0)

  def add(self, questions: Iterable[str]) -> 'Memory':
    """Remembers more questions, and forgets the oldest ones over `size`."""
    if not self.size:
      return self
    kept = (*self.questions, *questions)[-self.size :]
    return self._replace(questions=kept)


# Cached, because the questions of the memory are compared in every step.
@functools.lru_cache(maxsize=2**15)
def words(question: str) -> tuple[str, ...]:
  """Splits a question into words, numbers and signs, without case.

  A long question is cut. In scripts without spaces every character is a word.
  """
  return tuple(_WORD.findall(normalize.comparable(question[:_LONGEST])))


def _alike(
  first: Sequence[str], second: Sequence[str], similarity: float
) -> np.ndarray:
  """Returns booleans [len(first), len(second)]."""
  least = max(100 * similarity - 1e-3, 0.0)  # scores are rounded
  numbers: dict[str, int] = {}
  encode = lambda question: ''.join(
    chr(_FIRST + numbers.setdefault(word, len(numbers)) % _MOST)
    for word in words(question)
  )
  score = process.cdist(
    [encode(question) for question in first],
    [encode(question) for question in second],
    scorer=fuzz.ratio,
    score_cutoff=least,
  )
  # Scores below the cutoff are 0. All scores reach a similarity of 0.
  return score >= least


def _clusters(alike: np.ndarray) -> np.ndarray:
  """Returns the number of each row's cluster: linked rows share a number."""
  cluster = np.arange(len(alike))
  while True:
    # The lowest cluster number among the rows that are like each row.
    lowest = np.where(alike, cluster[None, :], len(alike)).min(axis=1)
    if np.array_equal(lowest, cluster):
      return cluster
    cluster = lowest
