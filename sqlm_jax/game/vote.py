"""Majority votes over canonical answers."""

import collections
from collections.abc import Sequence

from sqlm_jax.game import types

TIES = ('nobody', 'first')


def majority(
  answers: Sequence[types.Answer],
  *,
  ties: str = 'nobody',
  min_agreement: float = 0.0,
) -> types.Vote:
  """Finds the answer that most of a group gave (SQLM, eq. 1).

  With `ties='nobody'` blanks do not stand for election, and a tie or a
  winner seen once rewards nobody: an arbitrary label would be noise. With
  `ties='first'` the vote is that of the paper's code: a blank is a vote for
  "none", a tie goes to what was seen first, and if "none" wins nobody is
  rewarded.

  Args:
    answers: canonical answers, None for a blank.
    ties: 'nobody' or 'first'.
    min_agreement: the least share of the group, blanks included, that the
      winner needs.
  """
  size = len(answers)
  nobody = lambda why_not: types.Vote(None, 0, size, why_not)
  voters = answers if ties == 'first' else [a for a in answers if a is not None]
  # Counter keeps the order of first appearance among equal counts.
  ranking = collections.Counter(voters).most_common(2)
  if not ranking or ranking[0][0] is None:
    return nobody('blank')
  winner, count = ranking[0]
  if ties == 'nobody':
    if count == 1:
      return nobody('singleton')
    if len(ranking) == 2 and ranking[1][1] == count:
      return nobody('tie')
  # Divided, not multiplied: 0.56 * 25 is more than 14 in floats.
  if count / size < min_agreement:
    return nobody('disagreement')
  return types.Vote(winner, count, size)
