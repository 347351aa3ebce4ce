"""Parsers of answers, one for each kind of answer that a task can have."""

import atexit
import collections
import functools
from collections.abc import Callable, Sequence

from etils import epy

from sqlm_jax.game import types
from sqlm_jax.grading import answers, choices, markup

with epy.lazy_imports():  # sympy takes half a second
  from sqlm_jax.grading.math import verifier as verifier_lib

# Maps the answers to one question as texts, None for a missing answer, to
# canonical answers, which are equal if and only if the answers agree.
Reader = Callable[[Sequence[str | None]], tuple[types.Answer, ...]]

KINDS = (*answers.KINDS, 'choice', 'expression', 'code')


def make_reader(
  kind: str,
  options: Sequence[str] = (),
  given_up: collections.Counter[str] | None = None,
) -> Reader:
  """Returns a function that parses the answers to one question.

  Args:
    kind: 'number' or 'text', each parsed independently; 'choice', a letter or
      the text of an option; 'expression', compared as mathematics in worker
      processes, which are started on first use; 'code', a program, which is
      not changed.
    options: texts of the options of a 'choice', A first.
    given_up: counts the tasks of an 'expression' that no worker finished, by
      reason.
  """
  if kind == 'expression':
    return _expressions(given_up)
  if kind == 'code':
    read = lambda text: text if text.strip() else None
  elif kind == 'choice':
    read = functools.partial(choices.choice, options=options)
  else:
    read = answers.KINDS[kind]
  return lambda texts: tuple(
    None if text is None else read(text) for text in texts
  )


def _expressions(given_up: collections.Counter[str] | None) -> Reader:
  @functools.cache
  def verifier():
    started = verifier_lib.Verifier(given_up=given_up).start()
    atexit.register(started.close)
    return started

  # An empty text is unparsed, like a missing text.
  return lambda texts: tuple(
    verifier().group([markup.around_mathematics(t or '') for t in texts])
  )
