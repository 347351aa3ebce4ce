"""Builds a task from a config: prompts, patterns and a kind of answer."""

import collections
import functools
import operator
import re
from collections.abc import Callable, Sequence

from absl import logging

from sqlm_jax.config import game_schema
from sqlm_jax.game import types
from sqlm_jax.grading import answer_kinds, arithmetic, self_test, user_functions
from sqlm_jax.tasks import base
from sqlm_jax.text import code_blocks, extraction, prompts

# Functions from a question to its true answer, by name in a config.
CHECKERS: dict[str, Callable[[str], types.Answer]] = {
  'none': lambda question: None,
  'arithmetic': arithmetic.value,
}


def make_task(
  config: game_schema.Task,
  *,
  num_topics: int,
  wrap: Callable[[str], str] = lambda prompt: prompt,
  forbidden: tuple[str, ...] = (),
) -> base.Task:
  """Builds a task from templates and patterns.

  Args:
    config: the templates, the patterns and the kind of answer. Its evaluation
      sets and fixed questions are not used.
    num_topics: number of topics per step, with one group of proposals each.
    wrap: converts a filled template to the prompt, as a chat template does.
    forbidden: strings that no question may contain. These are special tokens,
      with which a question could change the structure of the solver's prompt.

  Raises:
    ValueError: if there is no such checker. `true_answer` also raises it if a
      user's function fails.
  """
  given_up: collections.Counter[str] = collections.Counter()
  parse = answer_kinds.make_parser(config.answer_kind, config.options, given_up)
  find_answer = _answer_finder(config)

  def topics(step: int) -> tuple[str, ...]:
    rows = range(step * num_topics, (step + 1) * num_topics)
    return tuple(config.topics[row % len(config.topics)] for row in rows)

  return base.Task(
    name=config.name,
    topics=topics,
    proposer_prompt=lambda topic: wrap(
      prompts.fill(config.proposer_prompt, topic=topic)
    ),
    proposer_stop=config.proposer_stop,
    read_question=_question_reader(
      config.question_pattern, config.proposer_stop, forbidden
    ),
    solver_prompts=lambda question: tuple(
      wrap(prompts.fill(template, question=question))
      for template in config.solver_templates
    ),
    solver_stop=config.solver_stop,
    read_answers=lambda responses: parse(
      [find_answer(response) for response in responses]
    ),
    to_example=_example_checker(parse, config.answer_kind),
    grade=_grader(parse, find_answer),
    self_test=lambda examples: self_test.check_parser(
      parse, [example.answer for example in examples], kind=config.answer_kind
    ),
    true_answer=CHECKERS.get(config.checker)
    or _user_checker(config.checker, parse),
    parse_answer=lambda text: parse([text])[0],
    is_true=_comparer(parse, config.answer_kind),
    given_up=lambda: {
      reason: given_up.pop(reason) for reason in list(given_up)
    },
  )


def _answer_finder(
  config: game_schema.Task,
) -> Callable[[str], str | None]:
  """Returns a function that finds the text of the answer in a response."""

  def find_answer(response: str) -> str | None:
    text = extraction.before_stop(response, config.solver_stop)
    try:
      if config.answer_kind == 'code':
        return code_blocks.find(config.answer_pattern, text)
      if config.answer_pattern:
        return extraction.find(config.answer_pattern, text)
    except TimeoutError:
      _warn_of_timeout('task.answer_pattern', config.answer_pattern)
      return None
    return text

  return find_answer


@functools.cache
def _warn_of_timeout(key: str, pattern: str) -> None:
  """Warns once for each pattern."""
  logging.warning(
    '%s=%r took more than %g seconds for a text, which is not read',
    key,
    pattern,
    extraction.TIME_LIMIT,
  )


def _example_checker(
  parse: answer_kinds.AnswerParser, answer_kind: str
) -> Callable[[types.Example], types.Example]:
  def to_example(example: types.Example) -> types.Example:
    if parse([example.answer]) == (None,):
      raise ValueError(
        f'{(example.question, example.answer)!r}: expected a true answer of '
        f'kind {answer_kind!r}'
      )
    return example

  return to_example


def _grader(
  parse: answer_kinds.AnswerParser, find_answer: Callable[[str], str | None]
) -> base.Grade:
  def grade_one(
    responses: Sequence[str], example: types.Example
  ) -> tuple[types.Graded, ...]:
    texts = [find_answer(response) for response in responses]
    # Answers are parsed together, as for a vote, because their canonical forms
    # may depend on each other. Grades must not, so each text is graded alone.
    right = {text: _same(parse, text, example.answer) for text in set(texts)}
    return tuple(
      types.Graded(answer, right[text])
      for answer, text in zip(parse(texts), texts, strict=True)
    )

  def grade(
    groups: Sequence[Sequence[str]], examples: Sequence[types.Example]
  ) -> list[tuple[types.Graded, ...]]:
    return list(map(grade_one, groups, examples))

  return grade


def _same(
  parse: answer_kinds.AnswerParser, text: str | None, true: str
) -> bool:
  answer, known = parse([text, true])
  return known is not None and answer == known


def _comparer(
  parse: answer_kinds.AnswerParser, answer_kind: str
) -> Callable[[types.Answer, types.Answer], bool]:
  """Returns a function that compares a canonical answer with the true one.

  Expressions are parsed again, without the other answers of the group.
  """
  if answer_kind != 'expression':
    return operator.eq

  def is_true(answer: types.Answer, true: types.Answer) -> bool:
    if answer is None or true is None:
      return False
    return _same(parse, str(answer), str(true))

  return is_true


def _question_reader(
  pattern: str, stop: tuple[str, ...], forbidden: tuple[str, ...]
) -> Callable[[str], types.Problem]:
  def read_question(response: str) -> types.Problem:
    text = extraction.before_stop(response, stop).strip()
    try:
      question = extraction.find(pattern, text) if pattern else text
    except TimeoutError:
      _warn_of_timeout('task.question_pattern', pattern)
      return types.Problem(text, ok=False, reason='timeout')
    if not question:
      return types.Problem(text, ok=False, reason='format')
    if any(special in question for special in forbidden):
      return types.Problem(text, ok=False, reason='special_token')
    return types.Problem(question)

  return read_question


def _user_checker(
  name: str, parse: answer_kinds.AnswerParser
) -> Callable[[str], types.Answer]:
  """Returns a checker that parses what a user's function returns."""
  if not re.fullmatch(r'[\w.]+:\w+', name):
    raise ValueError(
      f'task.checker={name!r}: expected one of {", ".join(CHECKERS)}, or '
      'module:function'
    )
  function = user_functions.Function('task.checker', name)
  return lambda question: parse([function(question)])[0]
