"""Questions of the proposer that also stand in an evaluation set.

A model that has practised on the test questions, even without their answers,
is not measured by them. Two questions count as the same if they have the same
key: all else about them may differ, numbers may not.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

from sqlm_jax.text import normalize

CHOICES = ('count', 'exclude')

# Numbers joined by operators, and what may not be said around them if they are
# all that is asked: more numbers and operators, or an unknown.
_CALCULATION = re.compile(
  r'(?<![\d.,])[-(]{0,3}\d[\d.,]*+[)\s]*+'
  r'(?:[-+*/][-(\s]*+\d[\d.,]*+[)\s]*+)+'
)
_MORE_THAN_THAT = re.compile(r"[\d+*/^]|(?<![a-z'])[b-z](?![a-z'])")
_MOST_WORDS = 8  # around a calculation; a word problem has more
_UNSPACED = re.compile(f'[{normalize.UNSPACED}]')
_CHARACTERS_A_WORD = 2  # about, where there are no spaces between words
_WORD = re.compile(r'\w+(?:[.,]\d+)*|[^\w\s]')
_START, _END = ' "\'', ' .?!:;="\''


class Guard(NamedTuple):
  """What the questions of a step are compared with.

  Attributes:
    keys: of the questions of all evaluation sets.
    exclude: whether nobody learns from a question that is among them.
  """

  keys: frozenset[str] = frozenset()
  exclude: bool = False

  def has(self, question: str) -> bool:
    """Whether a question stands in an evaluation set."""
    return bool(self.keys) and key(question) in self.keys


def make_guard(questions: Iterable[str], choice: str) -> Guard:
  """Builds the guard over the questions of evaluation sets.

  Args:
    questions: of all of them.
    choice: one of `CHOICES`.
  """
  return Guard(frozenset(map(key, questions)), exclude=choice == 'exclude')


def key(question: str) -> str:
  """Returns the key that equal questions share.

  The key of a question that asks for the value of a calculation is the
  calculation alone, without spaces: 'What is 12 × 3?' has '12*3', and so have
  '12 x 3' and '１２＊３は？'; '3 * 12' is another question. The key of any
  other question is its words and signs in order, without case, spaces, and
  the quotation marks and punctuation at its ends.
  """
  text = normalize.comparable(question)
  if match := _CALCULATION.search(text):
    rest = text[: match.start()] + ' ' + text[match.end() :]
    if not _MORE_THAN_THAT.search(rest) and _count_words(rest) <= _MOST_WORDS:
      return re.sub(r'\s', '', match[0]).rstrip('.,')
  words = _WORD.findall(text.lstrip(_START).rstrip(_END))
  return ' '.join(words)


def _count_words(text: str) -> float:
  """Counts words, two characters of a script without spaces as one."""
  spaced, characters = _UNSPACED.subn(' ', text)
  return len(spaced.split()) + characters / _CHARACTERS_A_WORD
