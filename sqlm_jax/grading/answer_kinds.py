"""Parsers of answers, one for each kind of answer that a task can have."""

import atexit
import collections
import functools
from collections.abc import Sequence
from typing import Protocol

from etils import epy

from sqlm_jax.game import types
from sqlm_jax.grading import answers, choices, markup

with epy.lazy_imports():  # sympy takes half a second
  from sqlm_jax.grading.math import verifier as verifier_lib


class AnswerParser(Protocol):
  """Parses the answers to one question, given as texts.

  A missing answer is None. Canonical answers are equal if and only if the
  answers agree; an answer that cannot be parsed becomes None.
  """

  def __call__(
    self, texts: Sequence[str | None], /
  ) -> tuple[types.Answer, ...]: ...


def make_parser(
  kind: str,
  options: Sequence[str] = (),
  given_up: collections.Counter[str] | None = None,
) -> AnswerParser:
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
    return _expression_parser(given_up)
  if kind == 'code':
    parse_one = _program
  elif kind == 'choice':
    parse_one = functools.partial(choices.choice, options=options)
  else:
    parse_one = answers.KINDS[kind]

  def parse(texts: Sequence[str | None]) -> tuple[types.Answer, ...]:
    return tuple(None if text is None else parse_one(text) for text in texts)

  return parse


def _program(text: str) -> str | None:
  return text if text.strip() else None


def _expression_parser(
  given_up: collections.Counter[str] | None,
) -> AnswerParser:
  @functools.cache
  def verifier() -> verifier_lib.Verifier:
    started = verifier_lib.Verifier(given_up=given_up).start()
    atexit.register(started.close)
    return started

  def parse(texts: Sequence[str | None]) -> tuple[types.Answer, ...]:
    # An empty text is unparsed, like a missing text.
    stripped = [markup.around_mathematics(text or '') for text in texts]
    return tuple(verifier().group(stripped))

  return parse
