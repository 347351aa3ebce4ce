"""What a task is: how to ask, how to read, how to check."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from sqlm_jax.game import types


class Task(NamedTuple):
  """A topic as functions between text and the game.

  Attributes:
    name: as it stands in metric names.
    topics: `step -> topics`, one proposer group each.
    proposer_prompt: `topic -> prompt`.
    proposer_stop: strings that end a question.
    read_question: `response -> Problem`.
    solver_prompts: `question -> prompts`, whose answers vote together. The
      first one is that of evaluations.
    solver_stop: strings that end an answer.
    read_answers: `responses -> answers` of one question, None for a blank.
    grade: `(responses, true) -> which are right`, with the true answer as it
      stands in `evaluation`.
    true_answer: `question -> Answer`, the checker behind the diagnosis of
      votes; None if it cannot tell. Training never sees it.
    evaluation: questions with their true answers.
    run_tests: `(answers, tests) -> results [questions][answers][tests]`, for
      answers of each question and its tests; None where answers are put to a
      vote.
    prepare: starts what judging needs, so that a machine which cannot do it
      says so before anything else (RuntimeError).
  """

  name: str
  topics: Callable[[int], tuple[str, ...]]
  proposer_prompt: Callable[[str], str]
  proposer_stop: tuple[str, ...]
  read_question: Callable[[str], types.Problem]
  solver_prompts: Callable[[str], tuple[str, ...]]
  solver_stop: tuple[str, ...]
  read_answers: Callable[[Sequence[str]], tuple[types.Answer, ...]]
  grade: Callable[[Sequence[str], str], tuple[bool, ...]]
  true_answer: Callable[[str], types.Answer]
  evaluation: tuple[tuple[str, str], ...]
  run_tests: (
    Callable[..., list[tuple[tuple[types.Result, ...], ...]]] | None
  ) = None
  prepare: Callable[[], None] = lambda: None
