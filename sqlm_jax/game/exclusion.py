"""Finds texts with content that a run must not train on.

A text is a whole response of the model, because all of its tokens would be
trained on, and not only the question or answer in it.
"""

import functools
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol, TypeVar

import regex
from absl import logging

from sqlm_jax.text import extraction, normalize

TIMEOUT = 'timeout'  # reason of a pattern that takes too long
T = TypeVar('T')
_UNSPACED = regex.compile(f'[{normalize.UNSPACED}]')


class Inspect(Protocol):
  """A function of the user that inspects a text."""

  def __call__(self, text: str, /) -> str | None:
    """Returns the reason to refuse a text, one word, or None to accept it."""


class Exclusion(NamedTuple):
  """The content that a run must not train on.

  Attributes:
    patterns: regular expressions by name; the name is the reason.
    words: finds the words of a list in a normalized text, None without a list.
    functions: functions of the user.
  """

  patterns: tuple[tuple[str, regex.Pattern], ...] = ()
  words: regex.Pattern | None = None
  functions: tuple[Inspect, ...] = ()

  def is_empty(self) -> bool:
    """Returns True if nothing is excluded."""
    return not (self.patterns or self.words or self.functions)

  def reason(self, text: str) -> str:
    """Returns the reason to exclude a text, '' to accept it.

    A pattern that takes too long excludes the text, with a warning.
    """
    for name, pattern in self.patterns:
      if found := _search(name, pattern, text):
        return found
    if self.words and self.words.search(normalize.comparable(text)):
      return 'words'
    for function in self.functions:
      if reason := function(text):
        return reason
    return ''


NOTHING = Exclusion()


def make_exclusion(
  patterns: Iterable[tuple[str, str]],
  words: Iterable[str],
  functions: tuple[Inspect, ...] = (),
) -> Exclusion:
  """Builds an exclusion from the values of a config.

  Args:
    patterns: names and regular expressions.
    words: excluded words and phrases; case is ignored. A word inside another
      word does not count, except in scripts without spaces.
    functions: functions of the user.
  """
  return Exclusion(
    tuple((name, regex.compile(text)) for name, text in patterns),
    _word_pattern(words),
    functions,
  )


def accepted(values: Sequence[T], reasons: Sequence[str]) -> list[T]:
  """Returns the values whose reason is ''; all values if `reasons` is ()."""
  if not reasons:
    return list(values)
  return [v for v, reason in zip(values, reasons, strict=True) if not reason]


def restore(
  values: Sequence[T], reasons: Sequence[str]
) -> tuple[T | None, ...]:
  """Inserts None for each value that `accepted` has removed."""
  remaining = iter(values)
  if not reasons:
    return tuple(remaining)
  return tuple(None if reason else next(remaining) for reason in reasons)


def _search(name: str, pattern: regex.Pattern, text: str) -> str:
  try:
    return name if pattern.search(text, timeout=extraction.TIME_LIMIT) else ''
  except TimeoutError:
    _warn(f'exclude.patterns: {name}={pattern.pattern!r}')
    return TIMEOUT


@functools.cache
def _warn(pattern: str) -> None:
  """Warns once for each pattern."""
  logging.warning(
    '%s took more than %g seconds for a text, which is excluded',
    pattern,
    extraction.TIME_LIMIT,
  )


def _word_pattern(words: Iterable[str]) -> regex.Pattern | None:
  comparable = {normalize.comparable(word).strip() for word in words} - {''}
  inside = sorted(word for word in comparable if _UNSPACED.search(word))
  whole = sorted(comparable.difference(inside))
  # An empty list would match any text.
  alternatives = []
  if whole:
    alternatives.append(r'(?<!\w)\L<whole>(?!\w)')
  if inside:
    alternatives.append(r'\L<inside>')
  if not alternatives:
    return None
  return regex.compile(
    '|'.join(alternatives), whole=whole, inside=inside, ignore_unused=True
  )
