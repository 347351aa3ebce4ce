"""The rules of the gate, one by one."""

import random

import pytest

from sqlm_jax.config import gate_schema
from sqlm_jax.game import contamination, gate, repetition, types


def candidate(
  text='7 + 4', *, reason='', finished=True, fits=True, leaks=False
):
  problem = types.Problem(text, ok=not reason, reason=reason)
  return gate.Candidate(problem, text, finished, fits, leaks)


def make_gate(functions=(), **config) -> gate.Gate:
  return gate.Gate(
    gate_schema.Gate(**config),
    contamination.make_guard(['1 + 1'], 'exclude'),
    functions=functions,
    min_similarity=0.6,
  )


@pytest.mark.parametrize(
  'given, reason, reward',
  [
    (candidate(), '', 'lowest'),
    (candidate(reason='format'), 'format', 'lowest'),
    (candidate(fits=False), 'too_long', 'lowest'),
    (candidate('1 + 1'), 'contaminated', 'nothing'),
    # The first rule that refuses a question gives the reason.
    (candidate('1 + 1', finished=False), 'unfinished', 'lowest'),
    (candidate(reason='format', finished=False), 'unfinished', 'lowest'),
    (candidate('1 + 1', fits=False), 'contaminated', 'nothing'),
    (candidate('Why? And when?', fits=False), 'too_long', 'lowest'),
    (candidate('Why?? ok'), '', 'lowest'),  # one question with emphasis
    (candidate('Why? And when?'), 'several_questions', 'nothing'),
    (candidate('どこ？いつ？'), 'several_questions', 'nothing'),
    # A leaky gate ignores rules on quality only.
    (candidate('Why? And when?', leaks=True), '', 'lowest'),
    (candidate('1 + 1', leaks=True), 'contaminated', 'nothing'),
    (candidate(reason='format', leaks=True), 'format', 'lowest'),
  ],
)
def test_rules_on_one_question(given, reason, reward):
  problem = make_gate(single_question=True).check_question(given)
  assert problem.text == given.problem.text
  assert (problem.ok, problem.reason) == (not reason, reason)
  assert problem.refused_reward == reward


def test_all_rules_on_quality_are_off_by_default():
  rules = make_gate()
  assert rules.check_question(candidate('Why? And when?')).ok
  problems = [types.Problem('7 + 4')] * 3
  memory = repetition.Memory(9, ('7 + 4',))
  assert rules.check_repeats(problems, memory, [False] * 3) == problems
  assert rules.check_vote('Is it 5?', types.Vote(5, 4, 4)) == ''
  assert rules.check_vote('Is it 5?', types.Vote(None, 0, 4, 'tie')) == ''


def test_a_leak_is_recorded():
  rules = make_gate(single_question=True)
  problem = rules.check_question(candidate('Why? And when?', leaks=True))
  assert problem.leaked == 'several_questions'


@pytest.mark.parametrize('reward', ['nothing', 'lowest'])
def test_functions_of_the_user(reward):
  def inspect(text):
    return 'rude' if 'damn' in text else None

  rules = make_gate((inspect,), reward=reward)
  assert rules.check_question(candidate('Why?')).ok
  problem = rules.check_question(candidate('damn'))
  assert (problem.reason, problem.refused_reward) == ('rude', reward)


def test_repeats():
  # Two of three words are equal: 0.67.
  texts = ['7 + 4', '7 + 5', 'Who sings?', '8 + 5', 'unread', '9 - 6']
  problems = [types.Problem(text) for text in texts]
  problems[4] = types.refuse(problems[4], 'format', reward='lowest')
  memory = repetition.Memory(9, ('9 - 2',))

  def reasons(repeats, leaks=()):
    rules = make_gate(repeats=repeats)
    leaky = [i in leaks for i in range(len(texts))]
    checked = rules.check_repeats(problems, memory, leaky)
    assert [problem.text for problem in checked] == texts
    return [problem.reason for problem in checked]

  # 8 + 5 is like 7 + 5, which is not accepted, and unlike 7 + 4.
  assert reasons('batch') == ['', 'repeats', '', '', 'format', '']
  assert reasons('history') == ['', 'repeats', '', '', 'format', 'repeats']
  assert reasons('history', leaks=(5,)) == ['', 'repeats', '', '', 'format', '']


@pytest.mark.parametrize(
  'question, answer, is_stated',
  [
    ('What is 12 + 5?', 5, True),
    ('What is 12 + 5?', 2, False),  # words, not characters
    ('Is Paris in France?', 'paris', True),
    ('Is New York in New Jersey?', 'new jersey', True),
    ('Is it?', None, False),
  ],
)
def test_a_question_that_states_its_answer(question, answer, is_stated):
  assert gate.states(question, answer) == is_stated
  vote = types.Vote(answer, 2 if answer else 0, 4)
  reason = make_gate(not_stating_answer=True).check_vote(question, vote)
  assert reason == ('states_answer' if is_stated else '')


@pytest.mark.parametrize(
  'vote, reason',
  [
    (types.Vote(None, 0, 4, 'tie'), 'tie'),
    (types.Vote(None, 0, 4, 'disagreement'), 'disagreement'),
    (types.Vote(5, 3, 4), ''),
    (types.Vote(5, 4, 4), 'too_easy'),
  ],
)
def test_rules_on_the_vote(vote, reason):
  rules = make_gate(majority=True, max_agreement=0.75)
  assert rules.check_vote('Why?', vote) == reason


def test_the_accepted_questions_of_a_round_are_unlike_each_other():
  generator = random.Random(0)
  for _ in range(50):
    texts = [
      f'{generator.randrange(4)} + {generator.randrange(4)}' for _ in range(9)
    ]
    repeats = repetition.repeats_earlier(texts, 0.6)
    for i, is_repeat in enumerate(repeats):
      before = [t for t, r in zip(texts[:i], repeats[:i], strict=True) if not r]
      like = any(
        repetition.Memory(1, (t,)).seen([texts[i]], 0.6)[0] for t in before
      )
      assert is_repeat == like
