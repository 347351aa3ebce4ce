"""Reads answers in a thread while other answers are still being sampled."""

import collections
import concurrent.futures
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

from sqlm_jax.game import types
from sqlm_jax.tasks import base

# One executor for the life of the process, because processes that its thread
# starts may end with the thread.
_BESIDE = concurrent.futures.ThreadPoolExecutor(1, 'reading')


T = TypeVar('T')
ReadThese = Callable[[Sequence[int], Sequence[Sequence[str]]], Sequence[T]]


class Read(NamedTuple):
  """The answers to one question, and the results of its tests."""

  answers: tuple[types.Answer, ...]
  results: tuple[tuple[types.Result, ...], ...] = ()  # [answers][tests]


def read(
  problems: Sequence[types.Problem],
  texts: Sequence[Sequence[str]],
  task: base.Task,
) -> list[Read]:
  """Reads the answers to each question and, if the task has tests, runs them.

  Args:
    problems: the questions.
    texts: the responses to each question.
    task: reads answers and runs tests.
  """
  # All answers to a question are read together, because which answers are equal
  # may depend on the others.
  answers = [task.read_answers(group) for group in texts]
  if task.run_tests is None:
    return [Read(group) for group in answers]
  results = task.run_tests(answers, [problem.tests for problem in problems])
  return [Read(*pair) for pair in zip(answers, results, strict=True)]


class Ahead(Generic[T]):
  """Reads answers in a separate thread, so that no device waits for a sandbox.

  Leaving the context cancels everything that has not started.
  """

  def __init__(self, read: ReadThese[T], variants: int = 1):
    """Initializes the reader without starting to read.

    Args:
      read: a function `read(numbers, texts)` that reads the answers `texts` to
        the questions with these indices.
      variants: number of prompts per question. The answers to all prompts of a
        question are read together.
    """
    self._read, self._variants = read, variants
    self._parts = collections.defaultdict(dict)
    self._submitted: list[concurrent.futures.Future[dict[int, T]]] = []

  def __enter__(self) -> 'Ahead[T]':
    return self

  def __exit__(self, *error) -> None:
    self.cancel()

  def cancel(self) -> None:
    """Cancels everything that has not started."""
    for future in self._submitted:
      future.cancel()

  def add(self, texts: Mapping[int, list[str]]) -> None:
    """Adds answers and starts to read them.

    A question is read once the answers to all of its prompts have been added.

    Args:
      texts: the answers to each prompt, by index of the prompt.
    """
    whole = {}
    for row, group in texts.items():
      number, variant = divmod(row, self._variants)
      parts = self._parts[number]
      parts[variant] = group
      if len(parts) == self._variants:
        whole[number] = [text for i in sorted(parts) for text in parts[i]]
    if whole:
      self._submitted.append(_BESIDE.submit(self._read_whole, whole))

  def _read_whole(self, whole: Mapping[int, list[str]]) -> dict[int, T]:
    found = self._read(list(whole), list(whole.values()))
    return dict(zip(whole, found, strict=True))

  def finish(self) -> dict[int, T]:
    """Waits until everything is read, and returns it by question index."""
    found = {}
    for future in self._submitted:
      found |= future.result()
    return found
