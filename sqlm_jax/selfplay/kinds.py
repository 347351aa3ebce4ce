"""Finds the kinds of questions that `proposer.rewards.coverage` counts."""

from collections.abc import Callable, Collection, Sequence

from sqlm_jax.distributed import processes
from sqlm_jax.game import question_kinds


class KindsOf:
  """Returns the kinds of questions, the same in every process.

  The kinds that a function of the user has returned are kept, because the same
  questions are counted again in every step.
  """

  def __init__(self, skill: Callable[[str], str | None] | None):
    """Initializes an object that knows no kinds.

    Args:
      skill: function of the user from a question to its kind; None for the
        numbers and pairs of words of a question.
    """
    self._skill = skill
    self._known: dict[str, frozenset[str]] = {}

  def __call__(self, questions: Sequence[str]) -> list[Collection[str]]:
    """Returns the kinds of each question.

    All processes must call it with the same questions.

    Args:
      questions: questions of this step and of earlier ones.
    """
    if self._skill is None:
      return [question_kinds.of_words(question) for question in questions]
    skill, known = self._skill, self._known
    missing = [q for q in dict.fromkeys(questions) if q not in known]
    if missing:
      # A function of the user may return other values in other processes.
      found = processes.broadcast_from_first(
        lambda: [skill(q) for q in missing]
      )
      for question, kind in zip(missing, found, strict=True):
        known[question] = frozenset() if kind is None else frozenset({kind})
    # Questions that are no longer remembered are forgotten here as well.
    self._known = {question: known[question] for question in questions}
    return [known[question] for question in questions]
