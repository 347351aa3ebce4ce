"""Grades answers in a thread while other answers are still being sampled."""

import collections
import concurrent.futures
from collections.abc import Mapping, Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar

from sqlm_jax.game import exclusion, rewards, types
from sqlm_jax.tasks import base

# One executor for the life of the process, because processes that its thread
# starts may end with the thread.
_EXECUTOR = concurrent.futures.ThreadPoolExecutor(1, 'grading')

T = TypeVar('T')
T_co = TypeVar('T_co', covariant=True)


class GradeBatch(Protocol[T_co]):
  """Grades the answers to several questions."""

  def __call__(
    self, indices: Sequence[int], texts: Sequence[Sequence[str]], /
  ) -> Sequence[T_co]:
    """Returns one grade per question.

    Args:
      indices: indices of the questions.
      texts: the responses to each of these questions.
    """


class GradedAnswers(NamedTuple):
  """The answers to one question, and the results of their tests.

  Excluded answers are None.
  """

  answers: tuple[types.Answer, ...]
  results: tuple[tuple[types.Result, ...], ...] = ()  # [answers][tests]
  # Reason to exclude each answer, '' if it is not excluded; () if none is.
  excluded: tuple[str, ...] = ()
  # Rewards of the solver's answers by functions of the user; () if none.
  extra_rewards: tuple[float, ...] = ()


def grade_answers(
  problems: Sequence[types.Problem],
  texts: Sequence[Sequence[str]],
  task: base.Task,
  exclude: exclusion.Exclusion = exclusion.NOTHING,
  *,
  prompts: Sequence[int] = (),
) -> list[GradedAnswers]:
  """Parses the answers to each question and, if the task has tests, runs them.

  Args:
    problems: the questions.
    texts: the responses to each question.
    task: parses answers and runs tests.
    exclude: finds answers that must not be trained on.
    prompts: index of the prompt of each response to a question, which is used
      if the prompts show options in different orders.
  """
  excluded = [_excluded(group, exclude) for group in texts]
  # All answers to a question are parsed together, because whether two answers
  # are equal may depend on the other answers.
  answers = [
    _read_answers(group, reasons, task, prompts)
    for group, reasons in zip(texts, excluded, strict=True)
  ]
  if task.run_tests is None:
    return [
      GradedAnswers(group, excluded=reasons)
      for group, reasons in zip(answers, excluded, strict=True)
    ]
  results = task.run_tests(answers, [problem.tests for problem in problems])
  return [
    GradedAnswers(group, group_results, reasons)
    for group, group_results, reasons in zip(
      answers, results, excluded, strict=True
    )
  ]


def _read_answers(
  texts: Sequence[str],
  reasons: Sequence[str],
  task: base.Task,
  prompts: Sequence[int],
) -> tuple[types.Answer, ...]:
  accepted = exclusion.accepted(texts, reasons)
  if task.read_shuffled is None:
    answers = task.read_answers(accepted)
  else:
    accepted_prompts = exclusion.accepted(prompts, reasons)
    answers = task.read_shuffled(accepted, accepted_prompts)
  return exclusion.restore(answers, reasons)


def reward_answers(
  problem: types.Problem,
  texts: Sequence[str],
  graded: GradedAnswers,
  functions: rewards.Functions,
  *,
  trained: Sequence[bool],
) -> GradedAnswers:
  """Adds the rewards that functions of the user give to a question's answers.

  Args:
    problem: the question.
    texts: the responses of the solver. Answers of voters have no reward.
    graded: the answers.
    functions: the functions. They are not called for excluded answers and for
      those that only vote, whose reward is 0.
    trained: True for each response that is trained on.
  """
  if not functions.solver:
    return graded
  count = len(texts)
  reasons = graded.excluded[:count] or ('',) * count
  return graded._replace(
    extra_rewards=tuple(
      functions.reward_answer(problem.text, text, answer)
      if is_trained and not reason
      else 0.0
      for text, answer, reason, is_trained in zip(
        texts, graded.answers[:count], reasons, trained, strict=True
      )
    )
  )


def _excluded(
  texts: Sequence[str], exclude: exclusion.Exclusion
) -> tuple[str, ...]:
  """Returns the reason to exclude each text, () if none is excluded."""
  if exclude.is_empty():
    return ()
  reasons = tuple(map(exclude.reason, texts))
  return reasons if any(reasons) else ()


class BackgroundGrader(Generic[T]):
  """Grades answers in a separate thread, so that no device waits for a sandbox.

  If the `with` block raises, grading that has not started is canceled.
  Otherwise grading continues after the block.
  """

  def __init__(self, grade: GradeBatch[T], variants: int = 1):
    """Initializes a grader without any answers.

    Args:
      grade: grades the answers to several questions.
      variants: number of prompts per question. The answers to all prompts of a
        question are graded together.
    """
    self._grade, self._variants = grade, variants
    # Answers by index of the question and of the prompt.
    self._texts: dict[int, dict[int, list[str]]] = collections.defaultdict(dict)
    self._submitted: list[concurrent.futures.Future[dict[int, T]]] = []

  def __enter__(self) -> 'BackgroundGrader[T]':
    return self

  def __exit__(self, error_type: object, *_: object) -> None:
    if error_type is not None:
      self.cancel()

  def cancel(self) -> None:
    """Cancels grading that has not started."""
    for future in self._submitted:
      future.cancel()

  def add(self, texts: Mapping[int, list[str]], /) -> None:
    """Adds answers and starts to grade them.

    A question is graded once the answers to all of its prompts have been added.

    Args:
      texts: the answers to each prompt, by index of the prompt. The prompts of
        a question are consecutive.
    """
    complete = {}
    for row, group in texts.items():
      question, variant = divmod(row, self._variants)
      by_variant = self._texts[question]
      by_variant[variant] = group
      if len(by_variant) == self._variants:
        complete[question] = [
          text for i in sorted(by_variant) for text in by_variant[i]
        ]
    if complete:
      self._submitted.append(_EXECUTOR.submit(self._grade_complete, complete))

  def _grade_complete(self, texts: Mapping[int, list[str]]) -> dict[int, T]:
    grades = self._grade(list(texts), list(texts.values()))
    return dict(zip(texts, grades, strict=True))

  def finish(self) -> dict[int, T]:
    """Waits until all answers are graded; returns grades by question index."""
    grades: dict[int, T] = {}
    with self:
      for future in self._submitted:
        grades |= future.result()
    return grades
