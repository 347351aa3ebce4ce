"""Finds a solver that gives one answer to every question.

Training pays for agreement, and nothing agrees better than one answer to
everything. On questions with few possible answers such a solver may even be
right more often than before, by chance.
"""

import collections
from collections.abc import Mapping, Sequence
from typing import Any

_NEARLY_ALL = 0.9  # of all answers
_FEWEST_QUESTIONS = 4  # among fewer, equal answers may be a coincidence

Row = Mapping[str, Any]


def find(rows: Sequence[Row], samples: int) -> dict[str, dict[str, Any]]:
  """Finds figures whose answers have collapsed to one.

  Answers have collapsed if at least 90% of the readable ones are the same
  answer, this is the true answer of fewer than 90% of the questions, and
  other answers are at most half as frequent as other true answers. At least
  half of all answers have to be readable.

  Args:
    rows: of an evaluation, a question each.
    samples: k, sampled answers a question and seed, 0 for none.

  Returns:
    'greedy' or 'mean@k' -> the 'answer', its 'share' of the readable answers,
    and the share of the questions whose answer it truly is, 'true_share'.
    Figures whose answers have not collapsed are left out.
  """
  parts = {'greedy': slice(0, 1)}
  if samples:
    parts[f'mean@{samples}'] = slice(1, None)
  found = {name: _collapse(rows, part) for name, part in parts.items()}
  return {name: one for name, one in found.items() if one}


def describe(name: str, one: Mapping[str, Any]) -> str:
  """Describes a figure that has collapsed, in half a sentence."""
  kind = 'greedy' if name == 'greedy' else 'sampled'
  return (
    f'{one["share"]:.0%} of the {kind} answers are {one["answer"]!r:.40}, '
    f'which is right for {one["true_share"]:.0%} of the questions'
  )


def _collapse(rows: Sequence[Row], part: slice) -> dict[str, Any] | None:
  answers = [answer for row in rows for answer in row['answers'][part]]
  counts = collections.Counter(a for a in answers if a is not None)
  readable = counts.total()
  if len(rows) < _FEWEST_QUESTIONS or 2 * readable < len(answers):
    return None
  ((answer, count),) = counts.most_common(1)
  true = sum(_is_true(row, answer) for row in rows)
  share, true_share = count / readable, true / len(rows)
  collapsed = (
    share >= _NEARLY_ALL
    and true_share < _NEARLY_ALL
    and 2 * (1 - share) <= 1 - true_share
  )
  if not collapsed:
    return None
  return {'answer': answer, 'share': share, 'true_share': true_share}


def _is_true(row: Row, answer: str) -> bool:
  """True if an answer was given to a question, and is right there."""
  return any(
    right and given == answer
    for given, right in zip(row['answers'], row['right'], strict=True)
  )
