"""Finds questions that repeat other questions exactly or nearly.

Two questions are alike if their similarity 2 M / T reaches a threshold. M is
the length of their longest common subsequence of words, and T is the number of
words of both together (the normalized Indel similarity of rapidfuzz). Every
number and every sign counts as a word:

  7 + 4             7 + 5               2/3, whatever the digits
  What is 7 + 4?    What is 7 + 5?      5/6
  30 words          two of them new     28/30

Words are compared instead of characters, because by characters 123 + 456 would
be closer to 123 + 457 than two word problems that differ in a name. In scripts
without spaces between words (Japanese, Chinese, Thai, Lao, Burmese, Khmer)
every character is a word, but a number is still one word. The comparison
ignores meaning: a paraphrase is not a repetition, but a long problem with other
numbers is a repetition.
"""

import functools
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from rapidfuzz import fuzz, process

from sqlm_jax.game import verdicts as verdicts_lib
from sqlm_jax.text import normalize

_MAX_CHARACTERS = 2000  # maximum number of characters that are compared
_UNSPACED = f'[{normalize.UNSPACED}]'
_WORD = re.compile(
  rf'\d+(?:[.,]\d+)*|{_UNSPACED}|(?:(?!{_UNSPACED})[^\W\d_])+|\S'
)
# Each distinct word is encoded as one character, which is fast to compare.
_FIRST_CHARACTER, _NUM_CHARACTERS = 0x10000, 0x100000


def shares(questions: Sequence[str], similarity: float) -> tuple[float, ...]:
  """Returns, for each question, the share of the other questions like it.

  The share is (|C| - 1) / (B - 1) for a question in a cluster C, where |C|
  includes the question itself and B is the number of questions. A cluster is a
  connected component of the graph whose edges are pairs of alike questions. A
  question that is unlike all others has share 0. R-Zero (Huang et al., 2025,
  arXiv 2508.05004) penalizes |C| / B instead, with clusters by BLEU.

  Args:
    questions: the questions of a step.
    similarity: minimum similarity, 0 to 1, of two questions that are alike.
  """
  if len(questions) < 2:
    return (0.0,) * len(questions)
  cluster = _clusters(_alike(questions, questions, similarity))
  sizes = np.bincount(cluster)[cluster]
  return tuple(((sizes - 1) / (len(questions) - 1)).tolist())


def repeats_earlier(questions: Sequence[str], similarity: float) -> list[bool]:
  """Returns True for each question like an accepted question before it.

  A question is accepted if it is unlike all accepted questions before it.

  Args:
    questions: the questions of a round.
    similarity: minimum similarity, 0 to 1, of two questions that are alike.
  """
  if not questions:
    return []
  alike = _alike(questions, questions, similarity)
  accepted: list[int] = []
  repeats = []
  for i in range(len(questions)):
    is_repeat = bool(alike[i, accepted].any())
    repeats.append(is_repeat)
    if not is_repeat:
      accepted.append(i)
  return repeats


class Memory(NamedTuple):
  """The questions of earlier steps, oldest first.

  Penalties within a batch do not keep a proposer from repeating the same
  questions in every step (R-Diverse, arXiv 2602.13103). A memory does.
  """

  size: int = 0  # maximum number of remembered questions, 0 for none
  questions: tuple[str, ...] = ()
  verdicts: verdicts_lib.Verdicts = verdicts_lib.NONE  # read by this step

  def seen(
    self, questions: Sequence[str], similarity: float
  ) -> tuple[float, ...]:
    """Returns 1 for each question like a remembered one, otherwise 0."""
    if not questions or not self.questions:
      return (0.0,) * len(questions)
    alike = _alike(questions, self.questions, similarity)
    return tuple(alike.any(axis=1).astype(float))

  def add(self, questions: Iterable[str]) -> 'Memory':
    """Adds questions, and drops the oldest ones beyond `size`."""
    if not self.size:
      return self
    kept = (*self.questions, *questions)[-self.size :]
    return self._replace(questions=kept)


# Cached because remembered questions are compared in every step.
@functools.lru_cache(maxsize=2**15)
def words(question: str) -> tuple[str, ...]:
  """Splits a question into words, numbers and signs, ignoring case.

  A long question is truncated. In scripts without spaces between words, every
  character is a word.
  """
  return tuple(_WORD.findall(normalize.comparable(question[:_MAX_CHARACTERS])))


def _alike(
  first: Sequence[str], second: Sequence[str], similarity: float
) -> np.ndarray:
  """Returns booleans [len(first), len(second)], True if a pair is alike."""
  min_score = max(100 * similarity - 1e-3, 0.0)  # scores are rounded
  numbers: dict[str, int] = {}

  def encode(question: str) -> str:
    indices = [numbers.setdefault(w, len(numbers)) for w in words(question)]
    return ''.join(
      chr(_FIRST_CHARACTER + index % _NUM_CHARACTERS) for index in indices
    )

  score = process.cdist(
    [encode(question) for question in first],
    [encode(question) for question in second],
    scorer=fuzz.ratio,
    score_cutoff=min_score,
  )
  # Scores below the cutoff are 0. With similarity 0, every pair is alike.
  return score >= min_score


def _clusters(alike: np.ndarray) -> np.ndarray:
  """Returns the cluster index of each row."""
  cluster = np.arange(len(alike))
  while True:
    # Take the lowest cluster index among the rows that are like each row.
    lowest = np.where(alike, cluster[None, :], len(alike)).min(axis=1)
    if np.array_equal(lowest, cluster):
      return cluster
    cluster = lowest
