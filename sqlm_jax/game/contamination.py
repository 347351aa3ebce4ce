"""Questions of the proposer that also stand in an evaluation set.

A model that has practised on the test questions, even without their answers,
is not measured by them. Two questions count as the same if they have the same
key: all else about them may differ, numbers may not.
"""

import re
import unicodedata
from collections.abc import Iterable
from typing import NamedTuple

CHOICES = ('count', 'exclude')

_PRODUCT = str.maketrans({'×': '*', '·': '*', '÷': '/', '\u2212': '-'})
# Numbers joined by operators, and what may not be said around them if they are
# all that is asked: more numbers and operators, or an unknown.
_CALCULATION = re.compile(
  r'(?<![\d.,])[-(]{0,3}\d[\d.,]*+[)\s]*+'
  r'(?:[-+*/][-(\s]*+\d[\d.,]*+[)\s]*+)+'
)
_MORE_THAN_THAT = re.compile(r'[\d+*/^]|\b[b-z]\b', re.IGNORECASE)
_MOST_WORDS = 8  # around a calculation; a word problem has more
_WORD = re.compile(r'\w+(?:[.,]\d+)*|[^\w\s]')
_ENDING = '.?!:;='


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
  """What makes a question the same.

  Of a question that asks for the value of a calculation it is the calculation
  alone, without spaces: 'What is 12 * 3?' is '12*3', and '3 * 12' is another
  one. Of any other it is its words and signs in order, without case, spaces
  and the punctuation at its end.
  """
  text = unicodedata.normalize('NFKC', question).translate(_PRODUCT)
  if match := _CALCULATION.search(text):
    rest = text[: match.start()] + ' ' + text[match.end() :]
    if not _MORE_THAN_THAT.search(rest) and len(rest.split()) <= _MOST_WORDS:
      return re.sub(r'\s', '', match[0]).rstrip('.,')
  words = _WORD.findall(text.casefold())
  return ' '.join(words).rstrip(f' {_ENDING}')
