"""Coding tasks: tests in questions, and programs that are run against them."""

import dataclasses
import functools
import shutil

import hypothesis
import pytest
from hypothesis import strategies as st

from sqlm_jax.config import program_schema, task_schema
from sqlm_jax.game import types
from sqlm_jax.sandbox import sandbox, unit_tests
from sqlm_jax.tasks import coding, prompted
from sqlm_jax.text import extraction

needs_bubblewrap = pytest.mark.skipif(
  not shutil.which('bwrap'), reason='bubblewrap is not installed'
)
TESTS = program_schema.Tests(min_count=2, max_count=3)
DOUBLE = 'Double the number.\n1 => 2\n3 => 6'
BLOCK = r'```(?:python)?\n(.*?)```'


def make_task(open_sandbox=None, answer_pattern=BLOCK, **changes):
  config = task_schema.Task(
    name='programs',
    topics=('a',),
    proposer_prompt='Ask about {topic}: ',
    proposer_stop=('END',),
    solver_prompt='{question}',
    answer_pattern=answer_pattern,
    answer_kind='code',
  )
  task = prompted.make_task(config, num_topics=1, forbidden=('<|end|>',))
  tests = dataclasses.replace(TESTS, **changes)
  return coding.with_programs(task, tests, open_sandbox)


@functools.cache
def bubblewrap():
  return sandbox.open_sandbox(workers=1)


def test_read_question_splits_description_and_tests():
  problem = make_task().read_question(f'{DOUBLE}\nEND and more')
  cases = (types.TestCase('1', '2'), types.TestCase('3', '6'))
  assert problem == types.Problem('Double the number.', tests=cases)


@pytest.mark.parametrize(
  'text, reason',
  [
    ('', 'format'),
    ('Double the number.', 'few_tests'),
    ('Double the number.\n1 => 2', 'few_tests'),
    ('Double the number.\n1 => 2\n1 => 2', 'few_tests'),  # the same test twice
    ('Double the number.\n1 =>\n=> 2\n=>', 'few_tests'),
    ('1 => 2\n3 => 6', 'format'),  # no description
    ('Double it.\n1 => 2\n1 => 3', 'contradiction'),
    ('Double it.\n1 => 2\n3 => 6\n1  => 3', 'contradiction'),
    ('Say one.\n1 => 1\n2 => 1', 'constant_output'),
    ('Say one.\n1 => 1\n2 => 1.0', 'constant_output'),
    ('<|end|> Double it.\n1 => 2\n3 => 6', 'special_token'),
  ],
)
def test_unreadable_questions(text, reason):
  problem = make_task().read_question(text)
  assert (problem.ok, problem.reason) == (False, reason)


def test_tests_after_max_count_are_ignored():
  # The ignored tests may contradict others because they are never run.
  text = DOUBLE + '\n4 => 8\n5 => 10\n1 => 7'
  problem = make_task().read_question(text)
  assert problem.ok
  assert [case.input for case in problem.tests] == ['1', '3', '4']


def test_the_last_code_block_is_the_program():
  task = make_task()
  programs = task.read_answers(
    ['```python\nprint(1)\n```\nno, ```\nprint(2)```', 'print(3)', '```\n\n```']
  )
  assert programs == ('print(2)', None, None)


@pytest.mark.parametrize('pattern', ['', BLOCK])
def test_programs_are_found_in_paired_fences(pattern):
  read = make_task(answer_pattern=pattern).read_answers
  in_list = '1. So:\n\n   ```python\n   if 1:\n     print(1)\n   ```'
  other = '```text\n5\n```\nI print it:\n```python\nprint(5)\n```'
  assert read([in_list, other]) == ('if 1:\n  print(1)', 'print(5)')


@needs_bubblewrap
def test_inputs_end_with_a_newline():
  task = make_task(bubblewrap)
  cut = 'import sys\nprint(sys.stdin.readline()[:-1])'
  results = task.run_tests([(cut,)], [(types.TestCase('a 12', 'a 12'),)])
  assert results[0][0][0].status == 'passed'


@needs_bubblewrap
def test_programs_run_against_the_tests_of_their_question():
  task = make_task(bubblewrap)
  task.prepare()
  double = 'print(2 * int(input()))'
  results = task.run_tests(
    [(double, None, 'print(2)'), (double,)],
    [
      (types.TestCase('1', '2'), types.TestCase('3', '6')),
      (types.TestCase('1', '3'),),
    ],
  )
  passed = [
    [[result.status for result in row] for row in rows] for rows in results
  ]
  assert passed == [
    [['passed'] * 2, ['error'] * 2, ['passed', 'wrong']],
    [['wrong']],
  ]
  assert task.run_tests([], []) == []


@needs_bubblewrap
def test_answers_that_pass_every_test_are_right():
  task = make_task(bubblewrap, program='x = int(input())\nprint({answer})')
  block = '```\n{}\n```'.format
  example = task.to_example(types.Example('Double.', '1 => 2\n3 => 6'))
  other = task.to_example(types.Example('Say 2.', '1 => 2\n3 => 2'))
  answers = [block('2 * x'), block('2'), 'x']
  graded = task.grade([answers, answers], [example, other])
  right = [[grade.right for grade in group] for group in graded]
  assert right == [[True, False, False], [False, True, False]]
  assert graded[0][0].answer == '2 * x'
  assert graded[0][2].answer is None


@needs_bubblewrap
def test_self_test_of_the_sandbox():
  task = make_task(bubblewrap, program='x = int(input())\nprint({answer})')
  example = task.to_example(types.Example('Double.', '1 => 2\n3 => 6'))
  solution = 'print(2 * int(input()))'
  task.self_test([example, example._replace(solution=solution)])
  wrong = example._replace(solution='print(2)')
  with pytest.raises(RuntimeError, match=r"(?s)'Double.'.*print\(2\)"):
    task.self_test([wrong])


def test_examples_without_tests_are_refused():
  with pytest.raises(ValueError, match=r"'Double'.*expected tests that"):
    make_task().to_example(types.Example('Double', '1 2'))


def test_prepare_fails_without_a_sandbox():
  def refuse():
    raise RuntimeError('install bubblewrap')

  task = make_task(refuse)
  assert task.read_question(DOUBLE).ok  # reading does not need a sandbox
  with pytest.raises(RuntimeError, match='install bubblewrap'):
    task.prepare()


PIECES = st.lists(
  st.one_of(
    st.text(max_size=8),
    st.sampled_from(['=>', '\n', '1', ' 2 ', '1 => 2\n', '\0', '\ud800', '[']),
  ),
  max_size=12,
).map(''.join)


@hypothesis.given(PIECES)
def test_any_text_can_be_read_as_a_question(text):
  problem = make_task().read_question(text)
  if not problem.ok:
    assert problem.reason
    return
  assert problem.text
  assert TESTS.min_count <= len(problem.tests) <= TESTS.max_count
  assert not unit_tests.contradictions(problem.tests)
  assert len({case.output for case in problem.tests}) > 1


def test_a_pattern_of_tests_that_takes_too_long(monkeypatch):
  monkeypatch.setattr(extraction, 'TIME_LIMIT', 0.05)
  tests = dataclasses.replace(TESTS, pattern=r'(?m)^((?:a|aa)+)=>(b)$')
  problem = types.Problem('a' * 60 + '\n1 => 2')
  assert coding.read_tests(problem, tests).reason == 'timeout'
  task = make_task(pattern=tests.pattern)
  with pytest.raises(ValueError, match='expected tests'):
    task.to_example(types.Example('Double.', problem.text))
