"""The type of a task: prompts, readers and checkers of one topic."""

import operator
from collections.abc import Callable, Sequence
from typing import NamedTuple

from sqlm_jax.game import types


class Task(NamedTuple):
  """A topic as functions between text and the game.

  Attributes:
    name: the name in metrics.
    topics: `step -> topics`, one proposer group each.
    proposer_prompt: `topic -> prompt`.
    proposer_stop: strings that end a question.
    read_question: `response -> Problem`.
    solver_prompts: `question -> prompts`, whose answers vote together. The
      first one is that of evaluations.
    solver_stop: strings that end an answer.
    read_answers: `responses -> answers` of one question, None for a blank.
    to_example: prepares an example for `grade`; a ValueError if that cannot be
      done, for example because its answer is of another kind.
    grade: `(responses, examples) -> graded [examples][responses]`, for
      responses to each example.
    self_test: grades right and wrong answers to examples, and raises a
      RuntimeError if a grade is wrong.
    true_answer: `question -> Answer`, the checker that diagnoses votes; None if
      it does not know the answer. Training never sees it.
    is_true: `(answer, true) -> bool`, True if an answer agrees with the true
      one. Unlike equality, it does not depend on other answers of the group.
    run_tests: `(answers, tests) -> results [questions][answers][tests]`, for
      answers of each question and its tests; None where answers are put to a
      vote.
    given_up: counts, by reason, the tasks that judging has given up since the
      last call, because two processes in a row died or hung.
    prepare: starts the processes that judging needs, so that a machine that
      cannot run them raises a RuntimeError before anything else.
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
