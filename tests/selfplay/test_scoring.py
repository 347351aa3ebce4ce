"""Scores of single questions, by hand; `test_step` scores whole rounds."""

import dataclasses
import operator
import random

import pytest

from sqlm_jax.config import game_schema, gate_schema, schema
from sqlm_jax.game import (
  exclusion,
  gate,
  repetition,
  rewards,
  types,
  verdicts,
)
from sqlm_jax.selfplay import background_grading, scoring, step_metrics
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


@pytest.mark.parametrize(
  'solver, voters, changes, expected',
  [
    ((2, 2, 3, None), (), {}, (0.5, 0.5, 0.25, 0)),
    ((2, 2, 3), (3, 3), {}, (0.4, 0.4, 0.6)),  # the voters are counted
    ((2, 3), (), {}, (0, 0)),  # no majority
    ((2, 2, 2, 3, 4), (), {'min_agreement': 0.7}, (0,) * 5),
  ],
)
def test_a_soft_label_is_the_share_of_the_votes(
  solver, voters, changes, expected
):
  vote = dataclasses.replace(CONFIG.vote, **changes)
  settings = {
    'config': dataclasses.replace(CONFIG, vote=vote),
    'weights': scoring.Weights({'agreement': 1.0}, {'sqlm': 1.0}),
    'penalty': 0.0,
    'coin': random.Random(0),
  }
  answers = make_answers(*solver, voters=voters)
  question = scoring.score_question(PROBLEM, answers, make_task(), **settings)
  assert question.solver_rewards == expected
  # A verdict replaces the vote.
  question = scoring.score_question(
    PROBLEM, answers, make_task(), true=3, **settings
  )
  assert question.solver_rewards == tuple(a == 3 for a in solver)


def test_votes_of_a_soft_label_are_weighted():
  answers = make_answers(2, 2, 3)._replace(likelihoods=[0.5, 0.25, 0.25])
  vote = dataclasses.replace(CONFIG.vote, weights='likelihood')
  question = scoring.score_question(
    PROBLEM,
    answers,
    make_task(),
    config=dataclasses.replace(CONFIG, vote=vote),
    weights=scoring.Weights({'agreement': 2.0}, {'sqlm': 1.0}),
    penalty=0.0,
    coin=random.Random(0),
  )
  assert question.solver_rewards == (1.5, 1.5, 0.5)


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


def test_an_excluded_answer_neither_votes_nor_trains():
  graded = background_grading.GradedAnswers(
    (2, None, 2, 3, None, 3), excluded=('', 'words', '', '', 'words', '')
  )
  question = score(scoring.Answers(graded, [0.5] * 6, 4))
  # Of the solver 2, 2 and 3, and of the voters 3: a tie of four votes.
  assert question.vote == types.Vote(None, 0, 4, 'tie')
  assert question.solver_rewards == (0, None, 0, 0)
  graded = graded._replace(answers=(2, None, 2, 2, None, 3))
  question = score(scoring.Answers(graded, [0.5] * 6, 4))
  assert question.vote == types.Vote(2, 3, 4)
  assert question.solver_rewards == (1, None, 1, 1)


def test_all_answers_may_be_excluded():
  graded = background_grading.GradedAnswers((None,) * 2, excluded=('a', 'b'))
  question = score(scoring.Answers(graded, [0.5] * 2, 2))
  assert question.vote == types.Vote(None, 0, 0, 'unparsed')
  assert question.solver_rewards == (None, None)
  assert question.proposer_reward == 0


def test_excluded_programs_do_not_count():
  passed, wrong = types.Result('passed'), types.Result('wrong')
  graded = background_grading.GradedAnswers(
    ('a', None), ((passed, passed), (wrong, wrong)), excluded=('', 'words')
  )
  question = scoring.score_question(
    PROBLEM,
    scoring.Answers(graded, [0.5] * 2, 2),
    make_task(run_tests=lambda answers, tests: []),
    config=CONFIG,
    weights=scoring.Weights({'tests': 1.0}, {'sqlm': 1.0}),
    penalty=0.0,
    coin=random.Random(0),
  )
  assert question.solver_rewards == (1, None)
  assert question.proposer_reward == 0  # all that count are passed


def test_of_10000_answers_no_planted_one_votes_or_has_a_reward():
  generator = random.Random(0)
  exclude = exclusion.make_exclusion((('key', r'sk-\d+'),), ['secret'])
  plants = ('', '', ' sk-123', ' a Secret')
  task = make_task(
    read_answers=lambda texts: tuple(text.split()[0] for text in texts),
    true_answer=lambda question: None,
  )
  groups = [
    [f'{generator.randrange(2)}{generator.choice(plants)}' for _ in range(4)]
    for _ in range(2500)
  ]
  graded = background_grading.grade_answers(
    [PROBLEM] * len(groups), groups, task, exclude
  )
  for group, answers in zip(groups, graded, strict=True):
    question = score(scoring.Answers(answers, [0.5] * 4, 4), task=task)
    is_clean = [len(text) == 1 for text in group]
    assert [r is not None for r in question.solver_rewards] == is_clean
    assert question.vote.size == sum(is_clean)
    votes = [text for text, clean in zip(group, is_clean, strict=True) if clean]
    assert question.vote.count in (0, votes.count(question.vote.answer))


@pytest.mark.parametrize(
  'leaks, min_agreement, reason, leaked',
  [
    (False, 0.0, 'too_easy', ''),
    (True, 0.0, '', 'too_easy'),
    (False, 0.9, 'disagreement', ''),
    (True, 0.9, '', 'disagreement'),
  ],
)
def test_a_leaky_gate_ignores_the_rules_on_votes(
  leaks, min_agreement, reason, leaked
):
  config = dataclasses.replace(
    CONFIG, vote=game_schema.Vote(min_agreement=min_agreement)
  )
  rules = gate.Gate(gate_schema.Gate(majority=True, max_agreement=0.5))
  (question,) = scoring.score_questions(
    [PROBLEM],
    {0: make_answers(2, 2, 3)},
    make_task(),
    config=config,
    step=0,
    memory=repetition.Memory(),
    coin_of=lambda index: random.Random(0),
    check_vote=rules.check_vote,
    leaks=lambda index: leaks,
  )
  assert question.refused == reason
  assert question.problem.leaked == leaked
  if leaks:
    assert question.vote == types.Vote(2, 2, 3)
    assert question.solver_rewards == (1, 1, 0)
  else:
    assert question.solver_rewards == (None, None, None)
    assert question.proposer_reward is None


def verdict(kind, answer=''):
  return {
    'id': verdicts.question_id('1 + 1'),
    'question': '1 + 1',
    'verdict': kind,
    'vote': '3',
    'answer': answer,
  }


@pytest.mark.parametrize(
  'kind, answer, solver, proposer, refused',
  [
    # Two of four answers are the true answer 2, the vote is 3 without it.
    ('correct', '2', (1, 1, 0, 0), 1, ''),
    ('accept', '', (0, 0, 1, 1), 1, ''),
    # Nobody has found it: no answer is right, and sqlm is 0.
    ('correct', '7', (0, 0, 0, 0), 0, ''),
    # An answer that the task cannot read is ignored.
    ('correct', 'x', (0, 0, 0, 0), 0, ''),
    ('reject', '', (None,) * 4, None, 'rejected'),
    ('exclude', '', (None,) * 4, None, 'excluded'),
  ],
)
def test_a_verdict_pays_instead_of_the_vote(
  kind, answer, solver, proposer, refused
):
  known = verdicts.fold([verdict(kind, answer)])
  (question,) = scoring.score_questions(
    [PROBLEM],
    {0: make_answers(2, 2, 3, 3)},
    make_task(parse_answer=lambda text: int(text) if text.isdigit() else None),
    config=CONFIG,
    step=0,
    memory=repetition.Memory(verdicts=known),
    coin_of=random.Random,
  )
  assert question.solver_rewards == solver
  assert question.proposer_reward == proposer
  assert question.refused == refused
  # The tie is still a tie.
  assert question.vote == types.Vote(None, 0, 4, 'tie')


def test_a_replayed_question_has_no_penalty():
  """The proposer has asked one of two equal questions."""
  config = dataclasses.replace(
    CONFIG,
    proposer=game_schema.Proposer(
      rewards=game_schema.ProposerRewards(batch_repeats=0.5)
    ),
  )
  questions = scoring.score_questions(
    [PROBLEM, PROBLEM._replace(replayed=True)],
    {0: make_answers(2, 2, 3), 1: make_answers(2, 2, 3)},
    make_task(),
    config=config,
    step=0,
    memory=repetition.Memory(),
    coin_of=random.Random,
  )
  assert [q.proposer_reward for q in questions] == [1, 1]


def test_functions_of_the_user_add_to_the_rewards():
  calls = []

  def reward(question, answers):
    calls.append((question, answers))
    return -9.0

  graded = background_grading.GradedAnswers(
    (2, None, 3), excluded=('', 'words', ''), extra_rewards=(0.5, 0.0, 0.25)
  )
  question = scoring.score_question(
    PROBLEM,
    scoring.Answers(graded, [0.5] * 3, 3),
    make_task(),
    config=CONFIG,
    weights=scoring.Weights({'format': 1.0}, {}),
    penalty=0.0,
    coin=random.Random(0),
    functions=rewards.Functions(proposer=((reward, 1.0),)),
  )
  assert question.solver_rewards == (1.5, None, 1.25)
  # Not below the reward of an unreadable question.
  assert question.proposer_reward == -1.0
  assert calls == [('1 + 1', ['2', '3'])]


def test_excluded_programs_do_not_count_in_the_metrics_of_tests():
  passed, wrong = types.Result('passed'), types.Result('wrong')
  question = types.ScoredQuestion(
    PROBLEM,
    answers=('a', None, 'b'),
    results=((passed, passed), (wrong, wrong), (passed, wrong)),
    solver_rewards=(1.0, None, 0.5),
    excluded=('', 'words', ''),
  )
  task = make_task(run_tests=lambda answers, tests: [], given_up=dict)
  metrics = step_metrics.of_questions([question], task)
  assert metrics['tests/pass_rate'] == 3 / 4
  assert metrics['tests/passed_by_all'] == 1 / 2
  assert metrics['tests/wrong'] == 1
