"""From texts to canonical answers, by the kind of answer that a task has."""

import atexit
import collections
import functools
from collections.abc import Callable, Sequence

from etils import epy

from sqlm_jax.game import types
from sqlm_jax.verify import answers, choices, wrappings

with epy.lazy_imports():  # sympy takes half a second
  from sqlm_jax.verify import mathematics

# Texts of one question's answers, None where nothing was found, to canonical
# answers: two of them mean the same exactly if they are equal.
Reader = Callable[[Sequence[str | None]], tuple[types.Answer, ...]]

KINDS = (*answers.KINDS, 'choice', 'expression', 'code')


def make_reader(
  kind: str,
  options: Sequence[str] = (),
  given_up: collections.Counter[str] | None = None,
) -> Reader:
  """Builds the reader of a kind of answer.

  Args:
    kind: 'number' or 'text', read one by one; 'choice', a letter or the text of
      an option; 'expression', compared as mathematics in processes of their
      own, which are started when they are first needed; 'code', a program,
      which is left as it is.
    options: of 'choice', A first.
    given_up: counts what no process of 'expression' came back from, by why.
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
    started = mathematics.Verifier(given_up=given_up).start()
    atexit.register(started.close)
    return started

  # An empty text is a blank.
  return lambda texts: tuple(
    verifier().group([wrappings.around_mathematics(t or '') for t in texts])
  )
