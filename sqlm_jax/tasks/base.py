"""What a task is: how to ask, how to read, how to check."""

import operator
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
    to_example: an example as this task judges it; a ValueError if that
      cannot be done, because its answer is of another kind, say.
    grade: `(responses, examples) -> graded [examples][responses]`, for
      responses to each example.
    self_test: tries right and wrong answers to examples, and raises a
      RuntimeError if they are not graded so.
    true_answer: `question -> Answer`, the checker behind the diagnosis of
      votes; None if it cannot tell. Training never sees it.
    is_true: `(answer, true) -> bool`, whether an answer means the true one; not
      as equal ones, it does not depend on the other answers of its group.
    run_tests: `(answers, tests) -> results [questions][answers][tests]`, for
      answers of each question and its tests; None where answers are put to a
      vote.
    given_up: what judging has given up since the last call, by why: its
      process died or hung, and another one did, too.
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
  to_example: Callable[[types.Example], types.Example]
  grade: Callable[
    [Sequence[Sequence[str]], Sequence[types.Example]],
    list[tuple[types.Graded, ...]],
  ]
  self_test: Callable[[Sequence[types.Example]], None]
  true_answer: Callable[[str], types.Answer]
  is_true: Callable[[types.Answer, types.Answer], bool] = operator.eq
  run_tests: (
    Callable[..., list[tuple[tuple[types.Result, ...], ...]]] | None
  ) = None
  given_up: Callable[[], dict[str, int]] = dict
  prepare: Callable[[], None] = lambda: None
