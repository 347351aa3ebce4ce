"""Extracts a question or an answer from a model's response."""

import functools
import re

import regex as regex_lib
from absl import logging

# Seconds that a pattern of a config may search a text. Some patterns take
# forever for some texts, and a model writes any text.
TIME_LIMIT = 1.0

_LOOKBEHIND = re.compile(r'(?:\(\?[a-z]+\))?\(\?<=([^()]*)\)')
_FIRST_WORD = re.compile(r'\W*\w*')
_TAG = re.compile(r'[<\[({\\]')
_TAG_OR_WORD = re.compile(r'[<\[({\\#]|[^\W\d_]')


def find(pattern: str, text: str) -> str | None:
  """Finds the last match of a pattern, because models conclude last.

  A lazy pattern such as `<answer>(.*?)</answer>` matches from the first opening
  tag to the next closing tag, across other opening tags. If several matches
  have the same end, the match whose opening comes last is therefore used.

  Args:
    pattern: a regular expression. If it has groups, the first group is
      returned. The opening is the text before that group, or a lookbehind at
      the start of the pattern.
    text: a response.

  Returns:
    The stripped match, or None if there is none or it is empty.

  Raises:
    TimeoutError: if the search takes more than `TIME_LIMIT` seconds.
  """
  regex = regex_lib.compile(pattern, regex_lib.DOTALL)
  last = None
  for match in regex.finditer(text, timeout=TIME_LIMIT):
    last = match
  if last is None:
    return None
  chosen = _opened_last(regex, last)
  # An optional group that does not participate in the match is None.
  group = chosen[1] if regex.groups else chosen[0]
  return (group or '').strip() or None


@functools.cache
def warn_of_timeout(key: str, pattern: str) -> None:
  """Warns that a text is not read, once for each pattern of a config key."""
  logging.warning(
    '%s=%r took more than %g seconds for a text, which is not read',
    key,
    pattern,
    TIME_LIMIT,
  )


def _opened_last(
  regex: regex_lib.Pattern, match: regex_lib.Match
) -> regex_lib.Match:
  """Returns the match with the same end whose opening comes last."""
  last = match
  while opening := _opening(regex, last):
    begin = max(last.start(1) if regex.groups else 0, last.start() + 1)
    later = regex.search(last.string, begin, timeout=TIME_LIMIT)
    if later is None or later.end() != match.end():
      break
    if _opening(regex, later) != opening:
      break
    last = later
  return last


def _opening(regex: regex_lib.Pattern, match: regex_lib.Match) -> str:
  """Returns the opening of a match, up to its first word: '<answer', 'Answer'.

  Returns '' if the opening has no tag and no word, but a number or a colon.
  """
  if lookbehind := _LOOKBEHIND.match(regex.pattern):
    text, signs = lookbehind[1], _TAG_OR_WORD
  elif regex.groups and match.start(1) > match.start():
    text, signs = match.string[match.start() : match.start(1)], _TAG_OR_WORD
  else:  # the tag is part of the answer
    text, signs = match[0], _TAG
  first_word = _FIRST_WORD.match(text.strip().casefold())
  opening = first_word[0] if first_word else ''
  return opening if signs.search(opening) else ''


def before_stop(text: str, stop_strings: tuple[str, ...]) -> str:
  """Returns the text before the first stop string."""
  ends = [at for stop in stop_strings if (at := text.find(stop)) >= 0]
  return text[: min(ends, default=len(text))]
