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

  The share of a question in a cluster C is (|C| - 1) / (B - 1), where |C|
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


def spread(questions: Sequence[str], size: int) -> tuple[str, ...]:
  """Returns up to `size` questions that are as different as possible.

  The first question is taken, and then repeatedly the question whose highest
  similarity to the taken ones is lowest (farthest-first traversal; Gonzalez,
  1985). Rare kinds of questions are therefore taken before near-duplicates.

  Args:
    questions: distinct questions.
    size: maximum number of questions.
  """
  if len(questions) <= size:
    return tuple(questions)
  scores = _scores(questions, questions)
  taken = [0]
  highest = scores[0].copy()
  while len(taken) < size:
    highest[taken[-1]] = np.inf  # never taken again
    taken.append(int(highest.argmin()))
    highest = np.maximum(highest, scores[taken[-1]])
  return tuple(questions[i] for i in sorted(taken))


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
    # A small space of questions is asked again and again.
    distinct = list(dict.fromkeys(questions))
    remembered = list(dict.fromkeys(self.questions))
    alike = _alike(distinct, remembered, similarity).any(axis=1)
    repeats = dict(zip(distinct, alike.astype(float).tolist(), strict=True))
    return tuple(repeats[question] for question in questions)

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


class _Characters(dict[str, str]):
  """Gives each word a character at its first lookup."""

  def __missing__(self, word: str) -> str:
    self[word] = chr(_FIRST_CHARACTER + len(self) % _NUM_CHARACTERS)
    return self[word]


def _alike(
  first: Sequence[str], second: Sequence[str], similarity: float
) -> np.ndarray:
  """Returns booleans [len(first), len(second)], True if a pair is alike."""
  min_score = max(100 * similarity - 1e-3, 0.0)  # scores are rounded
  # Scores below the cutoff are 0. With similarity 0, every pair is alike.
  return _scores(first, second, min_score) >= min_score


def _scores(
  first: Sequence[str], second: Sequence[str], min_score: float = 0.0
) -> np.ndarray:
  """Returns similarities [len(first), len(second)] in percent.

  A similarity below `min_score` is 0, which is faster to compute.
  """
  characters = _Characters()

  def encode(question: str) -> str:
    return ''.join(map(characters.__getitem__, words(question)))

  return process.cdist(
    [encode(question) for question in first],
    [encode(question) for question in second],
    scorer=fuzz.ratio,
    score_cutoff=min_score,
  )


def _clusters(alike: np.ndarray) -> np.ndarray:
  """Returns the cluster index of each row."""
  cluster = np.arange(len(alike))
  while True:
    # Take the lowest cluster index among the rows that are like each row.
    lowest = np.where(alike, cluster[None, :], len(alike)).min(axis=1)
    if np.array_equal(lowest, cluster):
      return cluster
    cluster = lowest
