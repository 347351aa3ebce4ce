"""Detects a solver that gives the same answer to every question.

Training rewards agreement, and the same answer to every question has the
highest agreement. On questions with few possible answers, such a solver may
even be right more often than before, by chance.
"""

import collections
from collections.abc import Mapping, Sequence
from typing import Any

_NEARLY_ALL = 0.9  # fraction of all answers
_MIN_QUESTIONS = 4  # with fewer, equal answers may be a coincidence

Row = Mapping[str, Any]


def find(rows: Sequence[Row], samples: int) -> dict[str, dict[str, Any]]:
  """Finds the figures whose answers have collapsed to one answer.

  Answers have collapsed if at least 90% of the readable answers are the same,
  this answer is correct for fewer than 90% of the questions, and the fraction
  of other answers is at most half the fraction of questions for which it is
  wrong. At least half of all answers must be readable.

  Args:
    rows: Rows of an evaluation, one per question.
    samples: k, the number of sampled answers per question and seed; 0 for none.

  Returns:
    A dict with the keys 'greedy' and 'mean@k'. Each value has the 'answer', its
    'share' of the readable answers, and 'true_share', the fraction of questions
    for which it is correct. Figures that have not collapsed are left out.
  """
  parts = {'greedy': slice(0, 1)}
  if samples:
    parts[f'mean@{samples}'] = slice(1, None)
  collapses = {name: _collapse(rows, part) for name, part in parts.items()}
  return {name: value for name, value in collapses.items() if value}


def describe(name: str, collapse: Mapping[str, Any]) -> str:
  """Describes a figure that has collapsed.

  Args:
    name: Name of the figure.
    collapse: Value for the figure, from `find`.
  """
  kind = 'greedy' if name == 'greedy' else 'sampled'
  return (
    f'{collapse["share"]:.0%} of the {kind} answers are '
    f'{collapse["answer"]!r:.40}, which is right for '
    f'{collapse["true_share"]:.0%} of the questions'
  )


def _collapse(rows: Sequence[Row], part: slice) -> dict[str, Any] | None:
  answers = [answer for row in rows for answer in row['answers'][part]]
  counts = collections.Counter(a for a in answers if a is not None)
  readable = counts.total()
  if len(rows) < _MIN_QUESTIONS or 2 * readable < len(answers):
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
  """Returns True if `answer` was given to the question and is correct."""
  return any(
    right and given == answer
    for given, right in zip(row['answers'], row['right'], strict=True)
  )
