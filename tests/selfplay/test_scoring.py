"""Scores of single questions, by hand; `test_step` scores whole rounds."""

import operator
import random

import pytest

from sqlm_jax.config import schema
from sqlm_jax.game import repetition, types
from sqlm_jax.selfplay import background_grading, scoring
from sqlm_jax.tasks import base

CONFIG = schema.Config()
PROBLEM = types.Problem('1 + 1')


def make_task(**changes) -> base.Task:
  """Returns a task that checks answers; its other functions are not used."""
  unused = dict.fromkeys(base.Task._fields, None)
  known = {'true_answer': {'1 + 1': 2}.get, 'is_true': operator.eq}
  return base.Task(**unused | known | changes)


def make_answers(*solver, voters=(), results=()) -> scoring.Answers:
  graded = background_grading.GradedAnswers((*solver, *voters), results)
  return scoring.Answers(graded, [0.5] * len(graded.answers), len(solver))


def score(answers, *, task=None, penalty=0.0) -> types.ScoredQuestion:
  return scoring.score_question(
    PROBLEM,
    answers,
    task or make_task(),
    config=CONFIG,
    weights=scoring.Weights({'majority': 1.0}, {'sqlm': 1.0}),
    penalty=penalty,
    coin=random.Random(0),
  )


@pytest.mark.parametrize(
  'penalty, expected', [(0.0, 1.0), (0.25, 0.75), (5.0, -1.0)]
)
def test_a_penalty_lowers_the_proposers_reward(penalty, expected):
  """But not below the reward of an unreadable question."""
  question = score(make_answers(2, 2, 3), penalty=penalty)
  assert question.solver_rewards == (1, 1, 0)
  assert question.proposer_reward == expected


def test_voters_vote_and_are_not_rewarded():
  question = score(make_answers(2, 3, voters=(3, None)))
  assert question.vote == types.Vote(3, 2, 4)
  assert question.answers == (2, 3)
  assert question.voter_answers == (3, None)
  assert question.solver_rewards == (0, 1)


def test_programs_are_scored_by_their_tests():
  passed, wrong = types.Result('passed'), types.Result('wrong')
  question = scoring.score_question(
    PROBLEM,
    make_answers('a', 'b', results=((passed, passed), (passed, wrong))),
    make_task(run_tests=lambda answers, tests: []),
    config=CONFIG,
    weights=scoring.Weights({'tests': 1.0}, {'sqlm': 1.0}),
    penalty=0.0,
    coin=random.Random(0),
  )
  assert question.vote is None
  assert question.solver_rewards == (1, 0.5)
  assert question.proposer_reward == 1  # three of four tests passed


def test_questions_without_answers_are_scored_elsewhere():
  """The index of the answers counts readable problems only."""
  problems = [
    types.Problem('', ok=False, reason='format'),
    types.Problem('1 + 1'),
    types.refuse(types.Problem('2 + 2'), types.CONTAMINATED, reward='nothing'),
    types.Problem('3 + 3'),
  ]
  coins = []
  questions = scoring.score_questions(
    problems,
    {1: make_answers(6, 6, 7)},
    make_task(),
    config=CONFIG,
    step=0,
    memory=repetition.Memory(),
    coin_of=lambda index: coins.append(index) or random.Random(0),
  )
  assert [question.problem for question in questions] == problems
  assert questions[0].proposer_reward == -1
  assert questions[1] == types.ScoredQuestion(problems[1])
  assert questions[2].proposer_reward is None
  assert questions[3].solver_rewards == (1, 1, 0)
  assert coins == [1]
