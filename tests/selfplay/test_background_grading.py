"""Answers are graded while others are still being sampled."""

import threading

import pytest

from sqlm_jax.game import rewards, types
from sqlm_jax.selfplay import background_grading
from sqlm_jax.tasks import base

PROBLEMS = [types.Problem(name) for name in 'abc']


def make_task(read_answers=tuple, run_tests=None) -> base.Task:
  unused = dict.fromkeys(base.Task._fields, None)
  return base.Task(
    **unused | {'read_answers': read_answers, 'run_tests': run_tests}
  )


def make_grader(task, problems=PROBLEMS, variants=1):
  return background_grading.BackgroundGrader(
    lambda indices, texts: background_grading.grade_answers(
      [problems[i] for i in indices], texts, task
    ),
    variants,
  )


def test_a_question_is_graded_before_the_next_one_is_added():
  was_graded = threading.Event()

  def read_answers(texts):
    was_graded.set()
    return tuple(texts)

  grader = make_grader(make_task(read_answers))
  grader.add({1: ['x', 'y']})
  assert was_graded.wait(timeout=60)
  grader.add({0: ['z']})
  assert grader.finish() == {
    0: background_grading.GradedAnswers(('z',)),
    1: background_grading.GradedAnswers(('x', 'y')),
  }


def test_answers_to_all_prompts_of_a_question_are_graded_together():
  grader = make_grader(make_task(), variants=2)
  grader.add({5: ['f'], 0: ['a']})
  grader.add({4: ['e'], 2: ['c']})
  assert grader.finish() == {
    2: background_grading.GradedAnswers(('e', 'f'))
  }  # the other questions lack the answers to one prompt
  grader.add({1: ['b']})
  assert grader.finish()[0] == background_grading.GradedAnswers(('a', 'b'))


def test_tests_of_all_questions_that_end_together_run_together():
  calls = []

  def run_tests(answers, tests):
    calls.append((answers, tests))
    return [
      tuple((answer, *case) for answer in group)
      for group, case in zip(answers, tests, strict=True)
    ]

  problems = [p._replace(tests=(p.text,)) for p in PROBLEMS]
  grader = make_grader(make_task(run_tests=run_tests), problems)
  grader.add({2: ['z'], 0: ['x', 'y']})
  assert grader.finish() == {
    0: background_grading.GradedAnswers(('x', 'y'), (('x', 'a'), ('y', 'a'))),
    2: background_grading.GradedAnswers(('z',), (('z', 'c'),)),
  }
  assert calls == [([('z',), ('x', 'y')], [('c',), ('a',)])]


def test_an_exception_cancels_what_has_not_started():
  begun, go_on, seen = threading.Event(), threading.Event(), []

  def read_answers(texts):
    seen.append(texts)
    begun.set()
    go_on.wait(timeout=60)
    return tuple(texts)

  def interrupted():
    with make_grader(make_task(read_answers)) as grader:
      grader.add({0: ['x']})
      assert begun.wait(timeout=60)
      grader.add({1: ['y']})
      raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    interrupted()
  go_on.set()
  after = make_grader(make_task())
  after.add({2: ['z']})
  after.finish()  # the thread is through with all before it
  assert seen == [['x']]


def test_a_failure_in_the_thread_fails_the_step():
  def read_answers(texts):
    raise RuntimeError('no sandbox')

  grader = make_grader(make_task(read_answers))
  grader.add({0: ['x']})
  with pytest.raises(RuntimeError, match='no sandbox'):
    grader.finish()


def test_functions_of_the_user_reward_the_solvers_answers():
  """Neither an excluded answer nor answers that only vote."""
  calls = []

  def reward(question, response, answer):
    calls.append((question, response, answer))
    return len(response)

  graded = background_grading.GradedAnswers(
    (11, None, None, 9, 9), excluded=('', 'words', '', '', '')
  )
  functions = rewards.Functions(solver=((reward, 0.5), (lambda *_: 1.0, 2.0)))
  graded = background_grading.reward_answers(
    types.Problem('7 + 4'),
    ['= 11', 'damn', '?', '9'],
    graded,
    functions,
    trained=[True, True, True, False],
  )
  assert graded.extra_rewards == (4.0, 0.0, 2.5, 0.0)
  assert calls == [('7 + 4', '= 11', '11'), ('7 + 4', '?', None)]
