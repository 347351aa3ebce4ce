"""Finds questions of the proposer that are also in an evaluation set.

If a model has trained on test questions, even without their answers, its test
score is no longer valid. Two questions count as the same if they have the same
key. The key contains all numbers of a question, but ignores case and
punctuation.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

from sqlm_jax.text import normalize

# A calculation: numbers joined by operators.
_CALCULATION = re.compile(
  r'(?<![\d.,])[-(]{0,3}\d[\d.,]*+[)\s]*+'
  r'(?:[-+*/][-(\s]*+\d[\d.,]*+[)\s]*+)+'
)
# Other numbers, operators or an unknown around a calculation, which show that
# the calculation is not the whole question.
_MORE_TO_COMPUTE = re.compile(r"[\d+*/^]|(?<![a-z'])[b-z](?![a-z'])")
_MAX_WORDS = 8  # words around a calculation; a word problem has more
_UNSPACED = re.compile(f'[{normalize.UNSPACED}]')
_CHARACTERS_PER_WORD = 2  # approximate, in scripts without spaces
_WORD = re.compile(r'\w+(?:[.,]\d+)*|[^\w\s]')
_START, _END = ' "\'', ' .?!:;="\''


class Guard(NamedTuple):
  """The questions of all evaluation sets, for comparison with new questions.

  Attributes:
    keys: keys of the questions of all evaluation sets.
    exclude: True if questions from an evaluation set are excluded from
      training.
  """

  keys: frozenset[str] = frozenset()
  exclude: bool = False

  def has(self, question: str) -> bool:
    """Returns True if a question is in an evaluation set."""
    return bool(self.keys) and key(question) in self.keys


def make_guard(questions: Iterable[str], choice: str) -> Guard:
  """Builds the guard over the questions of evaluation sets.

  Args:
    questions: the questions of all evaluation sets.
    choice: 'count', or 'exclude' to also exclude these questions.
  """
  return Guard(frozenset(map(key, questions)), exclude=choice == 'exclude')


def key(question: str) -> str:
  """Returns the key of a question, which equal questions share.

  The key of a question that asks for the value of a calculation is the
  calculation alone, without spaces: 'What is 12 × 3?', '12 x 3' and
  '１２＊３は？' have the key '12*3'; '3 * 12' is another question. The key of
  any other question is its words and signs in order, without case, spaces, and
  the quotation marks and punctuation at its ends.
  """
  text = normalize.comparable(question)
  if match := _CALCULATION.search(text):
    rest = text[: match.start()] + ' ' + text[match.end() :]
    if not _MORE_TO_COMPUTE.search(rest) and _count_words(rest) <= _MAX_WORDS:
      return re.sub(r'\s', '', match[0]).rstrip('.,')
  words = _WORD.findall(text.lstrip(_START).rstrip(_END))
  return ' '.join(words)


def _count_words(text: str) -> float:
  """Counts words; two characters of a script without spaces are one word."""
  spaced, characters = _UNSPACED.subn(' ', text)
  return len(spaced.split()) + characters / _CHARACTERS_PER_WORD
