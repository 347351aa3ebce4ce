"""Canonical answers to multiple-choice questions: the letter of an option."""

import re
import string
from collections.abc import Sequence

from sqlm_jax.verify import answers

_LETTER = re.compile(
  r'(?:the )?(?:correct |final |right |best )*'
  r'(?:answer|option|choice)?(?: is)?[:\s]*'
  r'[(\[]?(?P<letter>[a-z])[)\].:]*',
)
_LETTER_AND_MORE = re.compile(
  r'[(\[]?(?P<letter>[a-z])(?:[)\].:]+)\s*(?P<rest>.+)'
)
_LONGEST = 1000  # characters; no option is longer


def choice(text: str, options: Sequence[str] = ()) -> str | None:
  """Reads the option that was chosen.

  Read are a letter, with or without brackets and 'Answer:', the text of an
  option, and a letter with the text of its option: 'B', '(b)', 'Answer: B',
  'Paris', 'B) Paris'. A letter beside the text of another option is a blank.

  Args:
    text: the answer.
    options: texts of the options, A first; () if they are not known, and
      then every letter is one.

  Returns:
    A capital letter, or None for a blank.
  """
  if len(text) > _LONGEST:
    return None
  words = _words(text)
  if words is None:
    return None
  texts = [_words(option) for option in options]
  if texts.count(words) == 1:  # first: the text of an option may be a letter
    return string.ascii_uppercase[texts.index(words)]
  letters = string.ascii_lowercase[: len(options) or None]
  if match := _LETTER.fullmatch(words):
    return match['letter'].upper() if match['letter'] in letters else None
  return _letter_and_text(words, texts)


def _words(text: str) -> str | None:
  """Without the stars of what is bold."""
  return answers.short_text(text.replace('*', ' '))


def _letter_and_text(words: str, texts: Sequence[str | None]) -> str | None:
  match = _LETTER_AND_MORE.fullmatch(words)
  if match is None or match['letter'] not in string.ascii_lowercase:
    return None
  place = string.ascii_lowercase.index(match['letter'])
  rest = answers.short_text(match['rest'])
  if place < len(texts) and rest is not None and texts[place] == rest:
    return match['letter'].upper()
  return None
