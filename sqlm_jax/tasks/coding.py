"""Tasks whose answers are programs, graded by the question's unit tests.

A question consists of a description and tests. Each test is an input and its
expected output, by default on one line. The solver sees only the description.
"""

import atexit
import functools
from collections.abc import Callable, Sequence

import regex

from sqlm_jax.config import program_schema
from sqlm_jax.game import types
from sqlm_jax.grading import self_test
from sqlm_jax.sandbox import sandbox, unit_tests
from sqlm_jax.tasks import base
from sqlm_jax.text import extraction, prompts


def with_programs(
  task: base.Task,
  tests: program_schema.Tests,
  open_sandbox: Callable[[], sandbox.Sandbox],
) -> base.Task:
  """Turns a task whose answers are texts into one whose answers are programs.

  Args:
    task: a task whose questions contain tests, and whose answers are programs
      or parts of programs. If an example has no tests, its answer contains them
      in the format of a question's tests.
    tests: pattern of the tests, limits on their number, and template of the
      program that is run. The description of a question ends where its first
      test begins.
    open_sandbox: starts the sandbox; called when it is first needed.
  """

  @functools.cache
  def opened() -> sandbox.Sandbox:
    result = open_sandbox()
    atexit.register(result.close)
    return result

  def read_question(response: str) -> types.Problem:
    problem = task.read_question(response)
    return read_tests(problem, tests) if problem.ok else problem

  def run_tests(
    answers: Sequence[Sequence[types.Answer]],
    cases: Sequence[Sequence[types.TestCase]],
  ) -> list[tuple[tuple[types.Result, ...], ...]]:
    return _run_programs(opened(), tests.program, answers, cases)

  def to_example(example: types.Example) -> types.Example:
    try:
      cases = example.tests or find_tests(example.answer, tests.pattern)
    except TimeoutError:
      cases = ()
    if not cases:
      raise ValueError(
        f'{(example.question, example.answer)!r}: expected tests that '
        f'match tests.pattern={tests.pattern!r}'
      )
    return example._replace(tests=cases)

  def grade(
    groups: Sequence[Sequence[str]], examples: Sequence[types.Example]
  ) -> list[tuple[types.Graded, ...]]:
    answers = [task.read_answers(responses) for responses in groups]
    table = run_tests(answers, [example.tests for example in examples])
    return [
      tuple(
        types.Graded(answer, unit_tests.fraction_passed(results) == 1)
        for answer, results in zip(*pair, strict=True)
      )
      for pair in zip(answers, table, strict=True)
    ]

  def prepare() -> None:
    opened()

  return task._replace(
    read_question=read_question,
    to_example=to_example,
    grade=grade,
    self_test=lambda examples: self_test.check_sandbox(opened().run, examples),
    run_tests=run_tests,
    prepare=prepare,
  )


def _run_programs(
  opened: sandbox.Sandbox,
  template: str,
  answers: Sequence[Sequence[types.Answer]],
  cases: Sequence[Sequence[types.TestCase]],
) -> list[tuple[tuple[types.Result, ...], ...]]:
  """Returns results [questions][answers][tests] of one sandbox call."""
  programs = [
    (
      prompts.fill(template, answer=str(answer)),
      [_as_file(test) for test in case],
    )
    for group, case in zip(answers, cases, strict=True)
    for answer in group
    if answer is not None
  ]
  results = iter(opened.run(programs))
  return [
    tuple(
      _no_program(case) if answer is None else tuple(next(results))
      for answer in group
    )
    for group, case in zip(answers, cases, strict=True)
  ]


def find_tests(text: str, pattern: str) -> tuple[types.TestCase, ...]:
  """Returns the tests in a text that have an input and an output, in order.

  Raises:
    TimeoutError: if the search takes more than `extraction.TIME_LIMIT` seconds.
  """
  matches = regex.finditer(pattern, text, timeout=extraction.TIME_LIMIT)
  cases = (
    types.TestCase((match[1] or '').strip(), (match[2] or '').strip())
    for match in matches
  )
  return tuple(case for case in cases if case.input and case.output)


def read_tests(
  problem: types.Problem, tests: program_schema.Tests
) -> types.Problem:
  """Splits a question into its description and its tests.

  A question is unreadable for one of these reasons:

    format            there is no text before the first test
    few_tests         there are fewer than `tests.min_count` distinct tests
    contradiction     two tests expect different outputs for the same input, so
                      no program can pass both
    constant_output   all tests expect the same output, so a program that prints
                      it passes without reading the input
    timeout           the pattern takes too long to search the question
  """

  def refuse(reason: str) -> types.Problem:
    return problem._replace(ok=False, reason=reason)

  try:
    first = regex.search(
      tests.pattern, problem.text, timeout=extraction.TIME_LIMIT
    )
    distinct = dict.fromkeys(find_tests(problem.text, tests.pattern))
  except TimeoutError:
    extraction.warn_of_timeout('tests.pattern', tests.pattern)
    return refuse('timeout')
  description = problem.text[: first.start()].strip() if first else ''
  cases = tuple(distinct)[: tests.max_count]
  if not first or len(cases) < tests.min_count:
    return refuse('few_tests')
  if not description:
    return refuse('format')
  if unit_tests.contradictions(cases):
    return refuse('contradiction')
  if unit_tests.has_constant_output(cases):
    return refuse('constant_output')
  return problem._replace(text=description, tests=cases)


def _as_file(test: types.TestCase) -> types.TestCase:
  """Adds a final newline to the input, for programs with `readline()[:-1]`."""
  ends = not test.input or test.input.endswith(('\n', '\r'))
  return test if ends else test._replace(input=f'{test.input}\n')


def _no_program(cases: Sequence[types.TestCase]) -> tuple[types.Result, ...]:
  return (types.Result(unit_tests.ERROR, 'no program'),) * len(cases)
