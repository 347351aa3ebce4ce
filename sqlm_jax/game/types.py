"""What is passed around a game of questions and answers."""

from collections.abc import Hashable
from typing import NamedTuple

# A canonical answer: equal exactly when two answers mean the same. None is a
# blank, a response in which no answer could be read.
Answer = Hashable | None


class Problem(NamedTuple):
  """A question as the proposer's response was read."""

  text: str
  ok: bool = True
  why_not: str = ''  # one word, counted in the metrics


class Vote(NamedTuple):
  """What a group of answers agreed on."""

  answer: Answer  # None if nobody is rewarded
  count: int  # answers equal to it, 0 if nobody is rewarded
  size: int  # answers in the group, blanks included
  why_not: str = ''  # 'blank', 'tie', 'singleton' or 'disagreement'


class Verdict(NamedTuple):
  """A judged question: its answers, their vote, and everybody's reward."""

  problem: Problem
  answers: tuple[Answer, ...]  # one a response, () if it was not asked
  vote: Vote | None  # None if the question was unreadable
  solver_rewards: tuple[float, ...]
  proposer_reward: float
