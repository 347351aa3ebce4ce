"""Finds a question or an answer in the response of a model."""

import re

_LOOKBEHIND = re.compile(r'(?:\(\?[a-z]+\))?\(\?<=([^()]*)\)')
_FIRST_WORD = re.compile(r'\W*\w*')
_TAG = re.compile(r'[<\[({\\]')
_TAG_OR_WORD = re.compile(r'[<\[({\\#]|[^\W\d_]')


def find(pattern: str, text: str) -> str | None:
  """Finds the last match of a pattern, because models conclude last.

  A lazy pattern such as `<answer>(.*?)</answer>` matches from the first opening
  tag to the next closing tag, across other opening tags. So if several matches
  have the same end, the one with the last opening counts.

  Args:
    pattern: a regular expression; its first group counts if it has one. The
      opening is the text before that group, or a lookbehind at the start.
    text: a response.

  Returns:
    The stripped match, or None if there is none or it is empty.
  """
  regex = re.compile(pattern, re.DOTALL)
  last = None
  for match in regex.finditer(text):
    last = match
  if last is None:
    return None
  chosen = _opened_last(regex, last)
  # None for an optional group that takes no part in the match.
  group = chosen[1] if regex.groups else chosen[0]
  return (group or '').strip() or None


def _opened_last(regex: re.Pattern, match: re.Match) -> re.Match:
  """Returns the match with the same end whose opening comes last."""
  last = match
  while opening := _opening(regex, last):
    begin = max(last.start(1) if regex.groups else 0, last.start() + 1)
    later = regex.search(last.string, begin)
    if later is None or later.end() != match.end():
      break
    if _opening(regex, later) != opening:
      break
    last = later
  return last


def _opening(regex: re.Pattern, match: re.Match) -> str:
  """Returns the opening of a match, up to its first word: '<answer', 'Answer'.

  Returns '' if the opening has no tag and no word, but a number or a colon.
  """
  if lookbehind := _LOOKBEHIND.match(regex.pattern):
    text, signs = lookbehind[1], _TAG_OR_WORD
  elif regex.groups and match.start(1) > match.start():
    text, signs = match.string[match.start() : match.start(1)], _TAG_OR_WORD
  else:  # the tag is a part of the answer
    text, signs = match[0], _TAG
  opening = _FIRST_WORD.match(text.strip().casefold())[0]
  return opening if signs.search(opening) else ''


def before_stop(text: str, stop_strings: tuple[str, ...]) -> str:
  """Returns the text before the first stop string."""
  ends = [at for stop in stop_strings if (at := text.find(stop)) >= 0]
  return text[: min(ends, default=len(text))]
