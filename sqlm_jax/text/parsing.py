"""Finding a question or an answer in what a model wrote."""

import re


def find(pattern: str, text: str) -> str | None:
  """The last match of a pattern, as models think first and conclude last.

  Args:
    pattern: a regular expression; its first group counts if it has one.
    text: a response.

  Returns:
    The stripped match, or None if there is none or it is empty.
  """
  found = None
  for match in re.finditer(pattern, text, re.DOTALL):
    found = match
  if found is None:
    return None
  # A group that is optional may be in no part of the match.
  chosen = found[1] if found.re.groups else found[0]
  return (chosen or '').strip() or None


def before_stop(text: str, stop_strings: tuple[str, ...]) -> str:
  """The text up to the first stop string, which is left out."""
  ends = [at for stop in stop_strings if (at := text.find(stop)) >= 0]
  return text[: min(ends, default=len(text))]
