"""The type of a task: prompts, answer parsers and checkers of one topic."""

import operator
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from sqlm_jax.game import types


class Grade(Protocol):
  """Grades the responses to examples, see `Task.grade`."""

  def __call__(
    self,
    groups: Sequence[Sequence[str]],
    examples: Sequence[types.Example],
    /,
  ) -> list[tuple[types.Graded, ...]]: ...


class RunTests(Protocol):
  """Runs programs against tests, see `Task.run_tests`."""

  def __call__(
    self,
    answers: Sequence[Sequence[types.Answer]],
    tests: Sequence[Sequence[types.TestCase]],
    /,
  ) -> list[tuple[tuple[types.Result, ...], ...]]: ...


class Task(NamedTuple):
  """The functions of a task that convert between text and the game's types.

  Attributes:
    name: name of the task in metrics.
    topics: `step -> topics`, with one group of proposals per topic.
    proposer_prompt: `topic -> prompt`.
    proposer_stop: strings that end a question.
    read_question: `response -> Problem`.
    solver_prompts: `question -> prompts`. The answers to all of them vote
      together. Evaluations use the first prompt.
    solver_stop: strings that end an answer.
    read_answers: `responses -> answers` of one question, None for a response
      without a readable answer.
    to_example: prepares an example for `grade`. Raises a ValueError if that is
      not possible, for example because the answer is of another kind.
    grade: `(responses, examples) -> graded [examples][responses]`, where
      `responses` holds the responses to each example.
    self_test: grades right and wrong answers to examples, and raises a
      RuntimeError if a grade is wrong.
    true_answer: `question -> Answer`, the checker that diagnoses votes. Returns
      None if the true answer is not known. Training never uses it, except for
      the control reward 'true'.
    is_true: `(answer, true) -> bool`, True if an answer agrees with the true
      answer. Unlike equality, the result does not depend on the other answers
      of the group.
    run_tests: `(answers, tests) -> results [questions][answers][tests]`, where
      `answers` and `tests` hold those of each question. None if the answers are
      put to a vote.
    given_up: returns, by reason, the number of worker tasks that were given up
      since the last call because two processes in a row died or hung.
    parse_answer: `text -> Answer`, parses an answer as a person writes it, for
      comparison by `is_true`.
    prepare: starts the processes that grading needs, so that a machine that
      cannot run them raises a RuntimeError at the start of a run.
  """

  name: str
  topics: Callable[[int], tuple[str, ...]]
  proposer_prompt: Callable[[str], str]
  proposer_stop: tuple[str, ...]
  read_question: Callable[[str], types.Problem]
  solver_prompts: Callable[[str], tuple[str, ...]]
  solver_stop: tuple[str, ...]
  read_answers: Callable[[Sequence[str]], tuple[types.Answer, ...]]
  to_example: Callable[[types.Example], types.Example]
  grade: Grade
  self_test: Callable[[Sequence[types.Example]], None]
  true_answer: Callable[[str], types.Answer]
  is_true: Callable[[types.Answer, types.Answer], bool] = operator.eq
  run_tests: RunTests | None = None
  given_up: Callable[[], dict[str, int]] = dict
  parse_answer: Callable[[str], types.Answer] = lambda text: text or None
  prepare: Callable[[], None] = lambda: None
