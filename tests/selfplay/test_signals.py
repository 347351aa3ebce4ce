"""Signals of scripted questions and answers, with values worked by hand."""

import json
import types as simple

import numpy as np
import pytest

from sqlm_jax.config import schema as config_lib
from sqlm_jax.distributed import processes
from sqlm_jax.game import gate, repetition, types, vote
from sqlm_jax.selfplay import responses, signals, step_types

TASK = {
  'name': 'test',
  'proposer_prompt': '{topic}',
  'solver_prompt': '{question}',
  'topics': ('x', 'y', 'z'),
}
SIZES = {'num_questions': 6, 'group_size': 2}


def make_game(**changes):
  task = TASK | changes.pop('task', {})
  proposer = SIZES | changes.pop('proposer', {})
  config = config_lib.from_dict(
    {
      'task': task,
      'proposer': proposer,
      'optimizer': {'solver_updates': 1, 'proposer_updates': 1},
    }
  )
  options = config.task.options
  return simple.SimpleNamespace(
    config=config,
    task=simple.SimpleNamespace(
      run_tests=None, topics=lambda step: config.task.topics
    ),
    gate=gate.Gate(
      options=options if config.task.answer_kind == 'choice' else None
    ),
    skill=changes.pop('skill', None),
  )


def ask(text, answers='', voters='', **fields):
  """Returns a scored question; a hyphen is an unparsed answer."""
  answers = tuple(None if a == '-' else a for a in answers)
  voters = tuple(None if a == '-' else a for a in voters)
  return types.ScoredQuestion(
    types.Problem(text, **fields),
    answers,
    voters,
    vote=vote.majority([*answers, *voters]) if answers else None,
  )


def refuse(text, reason):
  return ask(text, ok=False, reason=reason)


def make_round(*questions, variants=1):
  num_readable = sum(question.problem.ok for question in questions)
  solutions = responses.Responses([[0]] * (num_readable * variants), None, [])
  return step_types.Round(None, solutions, None, list(questions), {})


def outcome_of(*questions, tokens=None):
  metrics = {} if tokens is None else {'sample/solver/tokens': tokens}
  return step_types.Outcome(
    [make_round(*questions)], ('solver',), frozenset(), metrics
  )


def test_signals_of_votes():
  metrics = signals.of_step(
    [
      make_round(
        ask('1 + 1', '2222'),  # unanimous; in no band
        ask('2 + 0', '2223'),  # agreement 0.75, in the band; states its answer
        refuse('why?', 'format'),
        ask('4 + 4?', '8899'),  # a tie
        ask('Is it 1? Or 2?', '1112'),  # states its answer, and asks twice
      )
    ],
    make_game(),
  )
  assert metrics['vote/entropy'] == pytest.approx(
    (0 + 0.5623351 + np.log(2) + 0.5623351) / 4, abs=1e-6
  )
  assert metrics['vote/margin'] == (1 + 0.5 + 0 + 0.5) / 4
  assert metrics['proposer/band_rate'] == 2 / 4
  assert metrics['proposer/wasted_rate'] == 2 / 4
  assert metrics['proposer/leak_rate'] == 2 / 4
  # Each question weighs 1: for 2, 1 + 3/4 + 1/4 of 4.
  assert metrics['solver/answer_share_max'] == 2 / 4
  assert 'vote/view_gap' not in metrics


def test_a_repeated_question_counts_once_among_different_questions():
  asked = [ask('1 + 1', '22'), ask('1 + 1', '22'), ask('3 + 4', '77')]
  metrics = signals.of_step([make_round(*asked)], make_game())
  assert metrics['solver/answer_share_max'] == 1 / 2


def test_views_are_prompts_and_earlier_solvers():
  prompts = make_round(ask('1 + 1', '22223333'), variants=2)
  assert signals.of_step([prompts], make_game())['vote/view_gap'] == 1
  voters = make_round(ask('1 + 1', '2222', '2222'), ask('2', '2222', '3333'))
  assert signals.of_step([voters], make_game())['vote/view_gap'] == 0.5


def test_shares_of_options():
  task = {'answer_kind': 'choice', 'options': ('a dent', 'a scratch', 'rust')}
  asked = [ask('A part has rust.', 'AAAB'), ask('It has a dent.', 'AA-A')]
  metrics = signals.of_step([make_round(*asked)], make_game(task=task))
  assert metrics['vote/option_share/A'] == 6 / 7
  assert metrics['vote/option_share/B'] == 1 / 7
  assert metrics['vote/option_share/C'] == 0
  # 'A part' has no text of an option A, unlike 'a dent'.
  assert metrics['proposer/leak_rate'] == 1 / 2


def test_two_processes_have_the_signals_of_one(monkeypatch):
  task = {'answer_kind': 'choice', 'options': ('dent', 'rust')}
  asked = [ask('x', 'AAAB'), ask('y', 'BBBA'), ask('y', 'AA'), ask('z', 'BB')]
  whole = signals.of_step([make_round(*asked)], make_game(task=task))
  by_process = []  # the values that each process sends, in order
  for local in ({0, 1}, {2, 3}):
    by_process.append([])
    monkeypatch.setattr(
      processes, 'all_gather', lambda v: by_process[-1].append(v) or [v]
    )
    known = [
      question if i in local else types.ScoredQuestion(question.problem)
      for i, question in enumerate(asked)
    ]
    signals.of_step([make_round(*known)], make_game(task=task))
  replies = zip(*by_process, strict=True)
  monkeypatch.setattr(processes, 'all_gather', lambda v: list(next(replies)))
  known = [types.ScoredQuestion(question.problem) for question in asked]
  metrics = signals.of_step([make_round(*known)], make_game(task=task))
  assert metrics == pytest.approx(whole)
  # Each of the three different questions weighs 1; A has 3/4 + 1/4.
  assert whole['solver/answer_share_max'] == pytest.approx(2 / 3)


def test_new_questions_are_unlike_those_of_earlier_steps():
  memory = repetition.Memory(size=9, questions=('7 + 4', 'What is 3 + 3?'))
  outcome = outcome_of(
    ask('7 + 4', '1'),
    ask('7 + 5', '1'),  # similarity 2/3
    refuse('7 + 4', 'repeats'),
    refuse('why?', 'format'),
    ask('What is 3 + 4?', '1'),  # similarity 10/12
  )
  metrics, _ = signals.since_start(
    1, outcome, signals.History(), memory, make_game()
  )
  assert metrics['proposer/new_rate'] == 2 / 4
  game = make_game(proposer={'min_similarity': 0.8})
  metrics, _ = signals.since_start(1, outcome, signals.History(), memory, game)
  assert metrics['proposer/new_rate'] == 1 / 4
  metrics, _ = signals.since_start(
    1, outcome, signals.History(), repetition.Memory(), game
  )
  assert 'proposer/new_rate' not in metrics


def test_coverage_and_length_compare_with_the_first_step():
  game, history = make_game(), signals.History()
  memory = repetition.Memory()
  nothing = outcome_of(refuse('why?', 'format'))
  metrics, history = signals.since_start(0, nothing, history, memory, game)
  assert metrics == {}
  first = outcome_of(ask('7 + 4', '1'), ask('6 + 4', '1'), tokens=8.0)
  metrics, history = signals.since_start(1, first, history, memory, game)
  assert metrics == {
    'proposer/coverage': 1.0,
    'sample/solver/tokens_ratio': 1.0,
  }
  # 7, 6, 4, `7 +`, `6 +` and `+ 4` were seen; `5 + 4` has 4 and `+ 4` of these.
  second = outcome_of(ask('5 + 4', '1'), tokens=2.0)
  history = signals.from_host(json.loads(json.dumps(history.to_host())))
  metrics, history = signals.since_start(2, second, history, memory, game)
  assert metrics == {
    'proposer/coverage': 4 / 8,
    'sample/solver/tokens_ratio': 0.25,
  }
  assert signals.from_host(history.to_host()) == history
  assert signals.from_host(None) == signals.History()


@pytest.mark.parametrize(
  'changes, seen, coverage',
  [
    ({'proposer': {'kinds': 'topics'}}, {'x', 'z'}, 0.5),
    (
      {
        'proposer': {'kinds': 'mine:skill'},
        'skill': lambda text: {'a': 'adds', 'b': 'subtracts'}.get(text),
      },
      {'adds', 'subtracts'},
      0.5,
    ),
  ],
)
def test_kinds_of_topics_and_functions(changes, seen, coverage):
  game, memory = make_game(**changes), repetition.Memory()
  # Groups of two for the topics x, y and z; that of y is unreadable.
  first = outcome_of(
    ask('a', '1'), ask('b', '1'), *[refuse('', 'format')] * 3, ask('c', '1')
  )
  _, history = signals.since_start(0, first, signals.History(), memory, game)
  assert history.kinds.seen == seen
  metrics, _ = signals.since_start(
    1, outcome_of(ask('a', '1')), history, memory, game
  )
  assert metrics['proposer/coverage'] == coverage
