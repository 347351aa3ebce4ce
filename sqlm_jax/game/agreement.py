"""Measures how the answers to a question are distributed.

Unlike `vote.majority`, these functions do not decide anything. They show how
clear a vote is, and whether it depends on how the question was asked.
"""

import collections
import itertools
import math
from collections.abc import Sequence

from sqlm_jax.game import types


def entropy(answers: Sequence[types.Answer]) -> float | None:
  """Computes the entropy -sum p log p of the parsed answers, in nats.

  Args:
    answers: canonical answers, None for an unparsed one.

  Returns:
    The entropy, from 0 if all parsed answers agree to log G if no two do; None
    without parsed answers.
  """
  counts = _counts(answers).values()
  total = sum(counts)
  if not total:
    return None
  return sum(count / total * math.log(total / count) for count in counts)


def margin(answers: Sequence[types.Answer]) -> float | None:
  """Computes the lead of the most common answer over the second.

  Args:
    answers: canonical answers, None for an unparsed one. Unparsed answers count
      in the total, as in `Vote.size`.

  Returns:
    The difference of the two shares, from 0 in a tie to 1 if all answers agree;
    None without parsed answers.
  """
  counts = sorted(_counts(answers).values(), reverse=True)
  if not counts:
    return None
  second = counts[1] if len(counts) > 1 else 0
  return (counts[0] - second) / len(answers)


def view_gap(views: Sequence[Sequence[types.Answer]]) -> float | None:
  """Estimates by how much the answers depend on the view of a question.

  A view is a way to ask the question, such as a prompt template, or a solver
  that answers it. With p and q, the shares of the answers in two views, the
  distance is

    sum_a (p_a - q_a)^2 / 2 = (within_p + within_q) / 2 - between.

  Here `within` is the probability that two answers of the same view agree, and
  `between` is the probability that answers of two views agree. Both are
  estimated without bias from pairs of different answers (the U-statistic of a
  maximum mean discrepancy, Gretton et al., 2012, eq. 3). The estimate is
  therefore 0 on average if the views do not matter, however few answers there
  are. It can be negative by chance.

  Args:
    views: the answers of each view, None for an unparsed one.

  Returns:
    The mean distance over pairs of views, from 0 if the views agree to 1 if
    each view always gives an answer of its own; None if fewer than two views
    have two parsed answers.
  """
  counted = [_counts(view) for view in views]
  counted = [counts for counts in counted if counts.total() > 1]
  if len(counted) < 2:
    return None
  within = [_agreement_within(counts) for counts in counted]
  distances = [
    (within[i] + within[j]) / 2 - _agreement_between(counted[i], counted[j])
    for i, j in itertools.combinations(range(len(counted)), 2)
  ]
  return sum(distances) / len(distances)


def information(groups: Sequence[Sequence[types.Answer]]) -> float | None:
  """Estimates how much the answers tell about the question.

  With p_q, the shares of the answers to question q, it is

    mean_q sum_a p_q(a)^2 - sum_a p_q(a) p_r(a)   (mean over questions q != r),

  the probability that two answers to one question agree less the probability
  that answers to two questions agree. It is 0 if all questions get the same
  answer and if answers are drawn at random, and near 1 if each question has an
  answer of its own. In the limit of many questions it is the sum over answers
  of the variance of p_q(a), which is the mutual information of question and
  answer with Gini's index in the place of Shannon's entropy. Both terms are
  estimated from different answers, so they have no bias.

  Args:
    groups: the answers to each question, None for an unparsed one, which agrees
      with no other answer. There are at least two per question.

  Returns:
    The estimate; None for fewer than two questions.
  """
  if len(groups) < 2:
    return None
  within, squares = 0.0, 0.0
  totals: dict[types.Answer, float] = collections.defaultdict(float)
  for group in groups:
    size = len(group)
    for answer, count in _counts(group).items():
      within += count * (count - 1) / (size * (size - 1))
      squares += (count / size) ** 2
      totals[answer] += count / size
  # The sum over all pairs of questions, without those of a question and itself.
  number = len(groups)
  pairs = sum(total**2 for total in totals.values()) - squares
  return within / number - pairs / (number * (number - 1))


def _counts(
  answers: Sequence[types.Answer],
) -> collections.Counter[types.Answer]:
  return collections.Counter(a for a in answers if a is not None)


def _agreement_within(counts: collections.Counter[types.Answer]) -> float:
  total = counts.total()
  pairs = sum(count * (count - 1) for count in counts.values())
  return pairs / (total * (total - 1))


def _agreement_between(
  first: collections.Counter[types.Answer],
  second: collections.Counter[types.Answer],
) -> float:
  pairs = sum(count * second[answer] for answer, count in first.items())
  return pairs / (first.total() * second.total())
