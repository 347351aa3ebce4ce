"""Tasks whose answers are programs, judged by the question's unit tests.

A question is a description and, a line each, tests: an input and the output
that is expected. The solver reads the description alone.
"""

import atexit
import functools
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from sqlm_jax.game import types
from sqlm_jax.grading import self_test
from sqlm_jax.sandbox import sandbox, unit_tests
from sqlm_jax.tasks import base
from sqlm_jax.text import prompts


class Tests(NamedTuple):
  """The pattern of a question's tests, and limits on their number.

  Attributes:
    pattern: regex of a test, its groups are input and output. The question
      ends where the first test begins.
    least: fewer distinct tests make a question unreadable.
    most: tests after this number are ignored.
  """

  pattern: str
  least: int
  most: int


def with_programs(
  task: base.Task,
  *,
  tests: Tests,
  program: str,
  open_sandbox: Callable[[], sandbox.Sandbox],
) -> base.Task:
  """Turns a task whose answers are texts into one whose answers are programs.

  Args:
    task: its questions hold tests, its answers are programs or parts of them.
      An example without tests has them in its answer, in the format of a
      question's tests.
    tests: how to find them.
    program: template of the program that is run, with `{answer}`.
    open_sandbox: starts the sandbox, when it is first needed.
  """
  opened = functools.cache(lambda: _closed_at_exit(open_sandbox()))

  def read_question(response):
    problem = task.read_question(response)
    return read_tests(problem, tests) if problem.ok else problem

  def run_tests(answers, cases):
    """Returns results [questions][answers][tests], from one call."""
    programs = [
      (prompts.fill(program, answer=answer), [_as_file(test) for test in case])
      for group, case in zip(answers, cases, strict=True)
      for answer in group
      if answer is not None
    ]
    results = iter(opened().run(programs))
    return [
      tuple(
        _no_program(case) if answer is None else tuple(next(results))
        for answer in group
      )
      for group, case in zip(answers, cases, strict=True)
    ]

  def to_example(example):
    cases = example.tests or find_tests(example.answer, tests.pattern)
    if not cases:
      raise ValueError(
        f'{(example.question, example.answer)!r}: expected tests that '
        f'tests.pattern={tests.pattern!r} finds'
      )
    return example._replace(tests=cases)

  def grade(groups, examples):
    answers = [task.read_answers(responses) for responses in groups]
    table = run_tests(answers, [example.tests for example in examples])
    return [
      tuple(
        types.Graded(answer, unit_tests.fraction_passed(results) == 1)
        for answer, results in zip(*pair, strict=True)
      )
      for pair in zip(answers, table, strict=True)
    ]

  return task._replace(
    read_question=read_question,
    to_example=to_example,
    grade=grade,
    self_test=lambda examples: self_test.check_sandbox(opened().run, examples),
    run_tests=run_tests,
    prepare=lambda: opened() and None,
  )


def find_tests(text: str, pattern: str) -> tuple[types.TestCase, ...]:
  """Returns the tests in a text that have an input and an output, in order."""
  cases = (
    types.TestCase((match[1] or '').strip(), (match[2] or '').strip())
    for match in re.finditer(pattern, text)
  )
  return tuple(case for case in cases if case.input and case.output)


def read_tests(problem: types.Problem, tests: Tests) -> types.Problem:
  """Splits a question into its description and its tests.

  A question is unreadable for one of these reasons:

    format            there is no text before the first test
    few_tests         fewer than `tests.least`, repeated ones left out
    contradiction     two tests ask for different outputs of the same input:
                      no program passes both
    constant_output   all ask for the same output: a program that prints it
                      passes without reading anything
  """
  first = re.search(tests.pattern, problem.text)
  description = problem.text[: first.start()].strip() if first else ''
  distinct = dict.fromkeys(find_tests(problem.text, tests.pattern))
  cases = tuple(distinct)[: tests.most]
  refuse = lambda why_not: problem._replace(ok=False, why_not=why_not)
  if not first or len(cases) < tests.least:
    return refuse('few_tests')
  if not description:
    return refuse('format')
  if unit_tests.contradictions(cases):
    return refuse('contradiction')
  if unit_tests.has_constant_output(cases):
    return refuse('constant_output')
  return problem._replace(text=description, tests=cases)


def _as_file(test: types.TestCase) -> types.TestCase:
  """Ends the last line of an input, as in a file, for `readline()[:-1]`."""
  ends = not test.input or test.input.endswith(('\n', '\r'))
  return test if ends else test._replace(input=f'{test.input}\n')


def _no_program(cases: Sequence[types.TestCase]) -> tuple[types.Result, ...]:
  return (types.Result(unit_tests.ERROR, 'no program'),) * len(cases)


def _closed_at_exit(opened: sandbox.Sandbox) -> sandbox.Sandbox:
  atexit.register(opened.close)
  return opened
