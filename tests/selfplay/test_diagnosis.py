"""Tests of the topics, advantages and checker's verdicts of rollout rows."""

import types as types_lib

import numpy as np
import pytest

from sqlm_jax.engine import groups
from sqlm_jax.selfplay import batches, diagnosis, estimates, step_types


def task(true, run_tests=None):
  return types_lib.SimpleNamespace(
    true_answer={'1 + 1': true}.get,
    is_true=lambda answer, true: answer == true,
    run_tests=run_tests,
  )


def test_an_answer_is_right_if_the_checker_says_so():
  check = diagnosis.checker(task(2))
  assert check('1 + 1', (2, 3, None, 2)) == [True, False, False, True]
  assert check('1 + 1', ()) == []


@pytest.mark.parametrize(
  'unknowing', [None, task(None), task(2, run_tests=lambda *_: [])]
)
def test_without_a_true_answer_no_answer_is_right_or_wrong(unknowing):
  assert diagnosis.checker(unknowing)('1 + 1', (2, None)) == [None, None]


def test_a_replayed_question_has_no_topic():
  proposals = types_lib.SimpleNamespace(
    rollout=types_lib.SimpleNamespace(lengths=np.ones((2, 2)))
  )
  game_round = step_types.Round(proposals, None, None, ['?'] * 5, {})
  found = diagnosis.topics_of(game_round, ('a', 'b'))
  assert found == ['a', 'a', 'b', 'b', None]
  assert diagnosis.topics_of(game_round, ()) == [None] * 5
  given = game_round._replace(proposals=None)
  assert diagnosis.topics_of(given, ('a', 'b')) == [None] * 5


def test_advantages_belong_to_the_questions_in_order():
  rows = np.array([[1.0, -1.0], [0.5, -0.5], [0.0, 0.0]])  # the last is padding
  outcome = step_types.Outcome(
    [], ('solver',), frozenset({5, 2}), {}, {'solver': rows}
  )
  found = diagnosis.solver_advantages(outcome)
  assert {i: list(x) for i, x in found.items()} == {2: [1, -1], 5: [0.5, -0.5]}


def scored(lengths, mask):
  """Returns responses [Q V, G / V] with lengths and a mask [Q, G]."""
  nothing = np.zeros(0)
  rollout = groups.Rollout(
    **dict.fromkeys(groups.Rollout._fields, nothing) | {'lengths': lengths}
  )
  return batches.ScoredResponses(None, rollout, nothing, mask)


def test_an_advantage_per_response():
  lengths = np.array([[1, 2], [2, 1]])  # one question, two prompts
  responses = scored(lengths, np.array([[True, True, False, True]]))
  advantages = np.array([[[1.0], [2.0]], [[3.0], [4.0]]])
  found = estimates.per_response(responses, batches.Advantages(advantages))
  np.testing.assert_array_equal(found, [[1, 2, np.nan, 4]])
  tokens = np.array([[[1.0, 9.0], [2.0, 4.0]], [[0.0, 0.0], [5.0, 9.0]]])
  found = estimates.per_response(responses, batches.Advantages(tokens))
  np.testing.assert_array_equal(found, [[1, 3, np.nan, 5]])
