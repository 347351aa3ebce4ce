"""Types of the question-and-answer game."""

from collections.abc import Hashable
from typing import Literal, NamedTuple

# A canonical answer. Two canonical answers are equal if and only if the answers
# agree. None stands for an unparsed response.
Answer = Hashable | None


class TestCase(NamedTuple):
  """The standard input of a program, and its expected output."""

  input: str
  output: str


class Result(NamedTuple):
  """The result of one test of one program."""

  status: str  # one of `unit_tests.STATUSES`
  detail: str = ''  # short explanation for people


# The `reason` of a question that is excluded because an evaluation set has it.
CONTAMINATED = 'contaminated'


class Problem(NamedTuple):
  """A question that was read from a response of the proposer."""

  text: str
  ok: bool = True  # False: refused, so that it is not solved
  reason: str = ''  # why it is refused: one word, counted in the metrics
  tests: tuple[TestCase, ...] = ()  # if the question asks for a program
  # The proposer's reward for a refused question.
  refused_reward: Literal['lowest', 'nothing'] = 'lowest'
  leaked: str = ''  # reason of a rule that a leaky gate has ignored
  replayed: bool = False  # True: not proposed, but asked again


def refuse(
  problem: Problem, reason: str, *, reward: Literal['lowest', 'nothing']
) -> Problem:
  """Returns a problem that is refused for a reason."""
  return problem._replace(ok=False, reason=reason, refused_reward=reward)


class Example(NamedTuple):
  """An evaluation question whose answer is known."""

  question: str
  answer: str = ''  # as a person would write it; '' if tests decide
  tests: tuple[TestCase, ...] = ()  # tests that a program has to pass
  solution: str = ''  # a program that is known to pass the tests, or ''


class Graded(NamedTuple):
  """A response to an example, compared with the true answer or the tests."""

  answer: Answer
  right: bool


class Vote(NamedTuple):
  """The result of a vote among a group of answers."""

  answer: Answer  # None if there is no majority
  count: int  # answers equal to it, 0 if there is no majority
  size: int  # answers in the group, including unparsed ones
  reason: str = ''  # 'unparsed', 'tie', 'singleton' or 'disagreement'


class ScoredQuestion(NamedTuple):
  """A question with its answers, their results, and all rewards.

  `selfplay.scoring.score_question` computes the rewards. The answers are put to
  a vote, or they are programs and are run against the question's tests. An
  unreadable question has neither a vote nor results. For a question that
  another process has scored, only the rewards are known.
  """

  problem: Problem
  answers: tuple[Answer, ...] = ()  # one per response of the solver
  voter_answers: tuple[Answer, ...] = ()  # of earlier solvers; not rewarded
  vote: Vote | None = None
  results: tuple[tuple[Result, ...], ...] = ()  # [answers][tests]
  solver_rewards: tuple[float | None, ...] = ()  # None: not trained on
  proposer_reward: float | None = 0.0  # None: excluded from training
  refused: str = ''  # reason if the gate refused it after its vote
  # Reason of each excluded answer, first of the solver and then of voters; ()
  # if no answer is excluded.
  excluded: tuple[str, ...] = ()
  # The true answer of a verdict as a vote, which replaces `vote` in rewards.
  label: Vote | None = None
