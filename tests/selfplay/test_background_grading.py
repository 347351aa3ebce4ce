"""Answers are read while others are still being written."""

import threading

import pytest

from sqlm_jax.game import types
from sqlm_jax.selfplay import background_grading
from sqlm_jax.tasks import base

PROBLEMS = [types.Problem(name) for name in 'abc']


def make_task(read_answers=tuple, run_tests=None) -> base.Task:
  unused = dict.fromkeys(base.Task._fields, None)
  return base.Task(
    **unused | {'read_answers': read_answers, 'run_tests': run_tests}
  )


def make_ahead(task, problems=PROBLEMS, variants=1):
  return background_grading.Ahead(
    lambda numbers, texts: background_grading.read(
      [problems[i] for i in numbers], texts, task
    ),
    variants,
  )


def test_a_question_is_read_before_the_next_one_is_there():
  was_read = threading.Event()

  def read_answers(texts):
    was_read.set()
    return tuple(texts)

  ahead = make_ahead(make_task(read_answers))
  ahead.add({1: ['x', 'y']})
  assert was_read.wait(timeout=60)
  ahead.add({0: ['z']})
  assert ahead.finish() == {
    0: background_grading.Read(('z',)),
    1: background_grading.Read(('x', 'y')),
  }


def test_answers_to_all_prompts_of_a_question_are_read_together():
  ahead = make_ahead(make_task(), variants=2)
  ahead.add({5: ['f'], 0: ['a']})
  ahead.add({4: ['e'], 2: ['c']})
  assert ahead.finish() == {
    2: background_grading.Read(('e', 'f'))
  }  # of others one half
  ahead.add({1: ['b']})
  assert ahead.finish()[0] == background_grading.Read(('a', 'b'))


def test_tests_are_run_of_all_that_ended_together():
  calls = []

  def run_tests(answers, tests):
    calls.append((answers, tests))
    return [
      tuple((answer, *case) for answer in group)
      for group, case in zip(answers, tests, strict=True)
    ]

  problems = [p._replace(tests=(p.text,)) for p in PROBLEMS]
  ahead = make_ahead(make_task(run_tests=run_tests), problems)
  ahead.add({2: ['z'], 0: ['x', 'y']})
  assert ahead.finish() == {
    0: background_grading.Read(('x', 'y'), (('x', 'a'), ('y', 'a'))),
    2: background_grading.Read(('z',), (('z', 'c'),)),
  }
  assert calls == [([('z',), ('x', 'y')], [('c',), ('a',)])]


def test_what_has_not_begun_never_does_once_the_step_is_left():
  begun, go_on, seen = threading.Event(), threading.Event(), []

  def read_answers(texts):
    seen.append(texts)
    begun.set()
    go_on.wait(timeout=60)
    return tuple(texts)

  def interrupted():
    with make_ahead(make_task(read_answers)) as ahead:
      ahead.add({0: ['x']})
      assert begun.wait(timeout=60)
      ahead.add({1: ['y']})
      raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    interrupted()
  go_on.set()
  after = make_ahead(make_task())
  after.add({2: ['z']})
  after.finish()  # the thread is through with all before it
  assert seen == [['x']]


def test_what_fails_in_the_thread_fails_the_step():
  def read_answers(texts):
    raise RuntimeError('no sandbox')

  ahead = make_ahead(make_task(read_answers))
  ahead.add({0: ['x']})
  with pytest.raises(RuntimeError, match='no sandbox'):
    ahead.finish()
