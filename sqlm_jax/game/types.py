"""Types of a game of questions and answers."""

from collections.abc import Hashable
from typing import NamedTuple

# A canonical answer: two of them are equal if and only if the answers agree.
# None is a blank, a response in which no answer could be read.
Answer = Hashable | None


class TestCase(NamedTuple):
  """The standard input of a program, and the output that is expected."""

  input: str
  output: str


class Result(NamedTuple):
  """The result of one test of one program."""

  status: str  # one of `verify.unit_tests.STATUSES`
  detail: str = ''  # short, for a person


# The `why_not` of a readable question that is in an evaluation set.
CONTAMINATED = 'contaminated'


class Problem(NamedTuple):
  """A question, as it was read from the proposer's response."""

  text: str
  ok: bool = True
  why_not: str = ''  # one word, counted in the metrics
  tests: tuple[TestCase, ...] = ()  # of a program, if one is asked for


class Example(NamedTuple):
  """A question of an evaluation, whose answer is known."""

  question: str
  answer: str = ''  # as a person would write it; '' where tests decide
  tests: tuple[TestCase, ...] = ()  # that a program has to pass
  solution: str = ''  # a program that is known to pass them, if there is one


class Graded(NamedTuple):
  """A response to an example, read and compared with the truth."""

  answer: Answer
  right: bool


class Vote(NamedTuple):
  """The result of a vote among a group of answers."""

  answer: Answer  # None if nobody is rewarded
  count: int  # answers equal to it, 0 if nobody is rewarded
  size: int  # answers in the group, blanks included
  why_not: str = ''  # 'blank', 'tie', 'singleton' or 'disagreement'


class Verdict(NamedTuple):
  """A judged question: its answers, their results, and all rewards.

  Answers are put to a vote, or are programs and run against the question's
  tests. An unreadable question has neither vote nor results. For a question
  that another process has judged, only the rewards are known.
  """

  problem: Problem
  answers: tuple[Answer, ...] = ()  # one a response of the solver
  votes: tuple[Answer, ...] = ()  # of earlier solvers, who are not paid
  vote: Vote | None = None
  results: tuple[tuple[Result, ...], ...] = ()  # [answers][tests]
  solver_rewards: tuple[float, ...] = ()
  proposer_reward: float | None = 0.0  # None: nobody learns from it
