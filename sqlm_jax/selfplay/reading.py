"""What answers say, read while others are still being written."""

import collections
import concurrent.futures
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

from sqlm_jax.game import types
from sqlm_jax.tasks import base

# One for the life of the process: what it starts may end with its thread.
_BESIDE = concurrent.futures.ThreadPoolExecutor(1, 'reading')


T = TypeVar('T')
ReadThese = Callable[[Sequence[int], Sequence[Sequence[str]]], Sequence[T]]


class Read(NamedTuple):
  """Of one question."""

  answers: tuple[types.Answer, ...]
  results: tuple[tuple[types.Result, ...], ...] = ()  # of its tests, if any


def read(
  problems: Sequence[types.Problem],
  texts: Sequence[Sequence[str]],
  task: base.Task,
) -> list[Read]:
  """Reads the answers to each question, and runs its tests on them."""
  # Together: what an answer equals may depend on the others.
  answers = [task.read_answers(group) for group in texts]
  if task.run_tests is None:
    return [Read(group) for group in answers]
  results = task.run_tests(answers, [problem.tests for problem in problems])
  return [Read(*pair) for pair in zip(answers, results, strict=True)]


class Ahead(Generic[T]):
  """Reads in a thread of its own: a sandbox must not make a device wait.

  What has not been begun when the context is left never is.
  """

  def __init__(self, read: ReadThese[T], variants: int = 1):
    """Reads nothing yet.

    Args:
      read: the answers to some questions, by their numbers.
      variants: prompts of a question, whose answers are read together.
    """
    self._read, self._variants = read, variants
    self._parts = collections.defaultdict(dict)
    self._submitted: list[concurrent.futures.Future[dict[int, T]]] = []

  def __enter__(self) -> 'Ahead[T]':
    return self

  def __exit__(self, *error) -> None:
    self.cancel()

  def cancel(self) -> None:
    """Leaves what has not been begun."""
    for future in self._submitted:
      future.cancel()

  def add(self, texts: Mapping[int, list[str]]) -> None:
    """Takes answers by the number of their prompt, and begins to read.

    A question has to wait until the answers to all its prompts are there.
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
    """What has been read by the number of the question, once all is."""
    found = {}
    for future in self._submitted:
      found |= future.result()
    return found
