"""Chooses the votes that a reviewer sees first.

Some of the questions are set aside at random. They are shown only as random
draws, so their verdicts give an unbiased estimate of how often votes are right.
All other questions are shown in the order of `review.pick`:

  uncertain   about half of the answers agree
  leverage    another true answer would change the advantages most
  views       the answers to the prompts that ask the question differ most
"""

import collections
import hashlib
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from sqlm_jax.game import types
from sqlm_jax.game import verdicts as verdicts_lib

# Reasons why a vote has no majority. A reviewer may still know the answer.
_UNDECIDED = ('', 'unparsed', 'tie', 'singleton', 'disagreement')


class Ballot(NamedTuple):
  """The vote on one question.

  Attributes:
    step: self-play step.
    index: index of the question in its step.
    question: text of the question.
    vote: answer of the majority as text, None without a majority.
    views: answers as text, one tuple for each prompt that asks the question;
      None for an unparsed answer.
    reason: why the question is refused or has no majority, '' for neither.
  """

  step: int
  index: int
  question: str
  vote: str | None
  views: tuple[tuple[str | None, ...], ...]
  reason: str = ''

  @property
  def id(self) -> str:
    """`question_id` of the question."""
    return verdicts_lib.question_id(self.question)

  @property
  def answers(self) -> tuple[str | None, ...]:
    """All answers."""
    return tuple(itertools.chain.from_iterable(self.views))

  @property
  def agreement(self) -> float:
    """Share of the most common answer."""
    return max(_shares(self.answers).values(), default=0.0)

  def share_of(self, answer: str) -> float:
    """Returns the share of the answers that are this answer."""
    return _shares(self.answers).get(answer, 0.0)

  @property
  def is_open(self) -> bool:
    """True if the question would be trained on with a true answer."""
    return self.reason in _UNDECIDED


class Choice(NamedTuple):
  """A ballot for a reviewer, and why it was chosen."""

  ballot: Ballot
  pick: str


def from_rows(
  rows: Iterable[Mapping[str, Any]], *, step: int, num_views: int
) -> list[Ballot]:
  """Returns the ballots of a step from the rows of its rollouts.

  Args:
    rows: rows with the columns role, group, question, answer, vote and reason.
    step: self-play step of the rows.
    num_views: number of prompts that ask a question.
  """
  groups: dict[int, dict[int, list[str | None]]] = {}
  rows_of: dict[int, list[Mapping[str, Any]]] = {}
  for row in rows:
    if row['role'] == 'proposer' or row['question'] is None:
      continue
    is_solver = row['role'] == 'solver'
    index, view = divmod(row['group'], num_views if is_solver else 1)
    # The answers of an earlier solver are another view.
    view = view if is_solver else num_views
    groups.setdefault(index, {}).setdefault(view, []).append(row['answer'])
    rows_of.setdefault(index, []).append(row)
  found = []
  for index, views in sorted(groups.items()):
    row = representative(rows_of[index])
    found.append(
      Ballot(
        step,
        index,
        row['question'],
        row['vote'],
        tuple(tuple(answers) for _, answers in sorted(views.items())),
        row['reason'] or '',
      )
    )
  return found


def representative(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
  """Returns a row whose reason is that of the question.

  Excluded answers are unparsed and have reasons of their own.

  Args:
    rows: rows of the answers to a question, at least one.
  """
  parsed = (row for row in rows if row['answer'] is not None)
  return next(parsed, rows[0])


def order(
  ballots: Sequence[Ballot],
  *,
  pick: str,
  random_share: float,
  seed: int,
  num_decided: int,
) -> list[Choice]:
  """Returns the ballots in the order in which a reviewer sees them.

  Each question occurs once, with its newest vote.

  Args:
    ballots: votes without a verdict.
    pick: value of `review.pick`.
    random_share: share of the questions that are random draws.
    seed: seed of the run.
    num_decided: number of earlier decisions, which keeps the share of random
      draws the same over many calls.
  """
  newest = {b.id: b for b in sorted(ballots, key=lambda b: (b.step, b.index))}
  draws = {b: _draw(b, seed) for b in newest.values() if b.is_open}
  # Which questions are set aside depends only on their text and the seed.
  aside = sorted(
    (b for b in draws if draws[b] < random_share), key=draws.__getitem__
  )
  score = _scorer(pick, list(draws))
  others = sorted(
    (b for b in draws if draws[b] >= random_share),
    key=lambda b: (-score(b), draws[b]),
  )
  aside, others = collections.deque(aside), collections.deque(others)
  choices = []
  for turn in itertools.count(num_decided):
    if not aside and not others:
      return choices
    due = math.floor((turn + 1) * random_share) > math.floor(
      turn * random_share
    )
    if aside and (due or not others):
      choices.append(Choice(aside.popleft(), verdicts_lib.RANDOM))
    else:
      choices.append(Choice(others.popleft(), pick))
  return choices


def uncertainty(ballot: Ballot) -> float:
  """Returns 1 if half of the answers agree, 0 if all or none do."""
  return 1 - 2 * abs(ballot.agreement - 0.5)


def leverage(ballot: Ballot) -> float:
  """Computes how much another true answer would change the advantages.

  The advantage of an answer is its reward, normalized by the mean and the
  standard deviation of its group (GRPO). The result is the sum of the absolute
  changes if the true answer is the one that changes the advantages most.
  """
  answers = ballot.answers
  voted = _advantages(answers, ballot.vote)
  others = {a for a in answers if a is not None and a != ballot.vote}
  changes = [np.abs(_advantages(answers, a) - voted).sum() for a in others]
  nothing_right = np.abs(voted).sum()
  return float(max([*changes, nothing_right]))


def view_gap(ballot: Ballot) -> float:
  """Computes how much the answers to different prompts differ, 0 to 1.

  It is the mean over pairs of prompts of the total variation distance between
  the shares of their answers; 0 for a single prompt.
  """
  shares = [_shares(view) for view in ballot.views]
  gaps = [
    sum(abs(a.get(x, 0.0) - b.get(x, 0.0)) for x in a.keys() | b.keys()) / 2
    for a, b in itertools.combinations(shares, 2)
  ]
  return sum(gaps) / len(gaps) if gaps else 0.0


def _scorer(pick: str, ballots: Sequence[Ballot]) -> Callable[[Ballot], float]:
  """Returns the score by which ballots are ordered, highest first."""
  scores = {'leverage': leverage, 'views': view_gap, 'uncertain': uncertainty}
  if pick not in scores:
    raise ValueError(f'{pick=}: expected one of {", ".join(sorted(scores))}')
  if pick == 'views' and all(len(ballot.views) < 2 for ballot in ballots):
    return uncertainty
  return scores[pick]


def _draw(ballot: Ballot, seed: int) -> float:
  """Returns a uniform number for a question, the same in every step."""
  digest = hashlib.sha256(f'{seed}/{ballot.id}/review'.encode()).digest()
  return int.from_bytes(digest[:8], 'big') / 2**64


def _shares(answers: Sequence[str | None]) -> dict[str, float]:
  """Returns the share of each answer; unparsed answers count in the total."""
  counts = collections.Counter(a for a in answers if a is not None)
  return {answer: n / len(answers) for answer, n in counts.items()}


def _advantages(
  answers: Sequence[types.Answer], true: types.Answer
) -> np.ndarray:
  rewards = np.array([float(a is not None and a == true) for a in answers])
  deviation = rewards.std()
  if not deviation:
    return np.zeros_like(rewards)
  return (rewards - rewards.mean()) / deviation
