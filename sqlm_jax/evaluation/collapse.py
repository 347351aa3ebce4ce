"""Finds a solver that gives one answer to every question.

Training rewards agreement, and nothing agrees better than one answer to every
question. On questions with few possible answers such a solver may even be right
more often than before, by chance.
"""

import collections
from collections.abc import Mapping, Sequence
from typing import Any

_NEARLY_ALL = 0.9  # of all answers
_FEWEST_QUESTIONS = 4  # among fewer, equal answers may be a coincidence

Row = Mapping[str, Any]


def find(rows: Sequence[Row], samples: int) -> dict[str, dict[str, Any]]:
  """Finds the figures whose answers have collapsed to one answer.

  Answers have collapsed if at least 90% of the readable ones are the same
  answer, this is the true answer of fewer than 90% of the questions, and
  other answers are at most half as frequent as other true answers. At least
  half of all answers have to be readable.

  Args:
    rows: rows of an evaluation, one for each question.
    samples: k, the sampled answers of each question and seed; 0 for none.

  Returns:
    'greedy' or 'mean@k' -> the 'answer', its 'share' of the readable answers,
    and 'true_share', the share of the questions that it answers correctly.
    Figures whose answers have not collapsed are left out.
  """
  parts = {'greedy': slice(0, 1)}
  if samples:
    parts[f'mean@{samples}'] = slice(1, None)
  collapses = {name: _collapse(rows, part) for name, part in parts.items()}
  return {name: value for name, value in collapses.items() if value}


def describe(name: str, collapse: Mapping[str, Any]) -> str:
  """Describes a figure that has collapsed.

  Args:
    name: name of the figure.
    collapse: value of the figure that `find` returned.
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
  """Returns True if an answer was given to a question and is right."""
  return any(
    right and given == answer
    for given, right in zip(row['answers'], row['right'], strict=True)
  )
