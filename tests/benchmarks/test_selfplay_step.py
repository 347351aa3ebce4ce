"""The step that we and TRL play."""

import pytest

from benchmarks import peer_trl, selfplay_step
from configs import quickstart


def test_questions_are_all_different_and_not_shown():
  assert len(set(selfplay_step.QUESTIONS)) == 16
  for question, prompt in zip(
    selfplay_step.QUESTIONS, peer_trl.prompts(), strict=True
  ):
    assert question not in quickstart.SOLVER_PROMPT
    assert prompt.endswith(f'\n{question} = ')


def test_the_peer_votes():
  # Two groups of 8; what follows the line does not count.
  one = ['5\n'] * 3 + ['5\n6 + 1'] + ['7'] * 4
  # A tie of four and four goes to the first.
  other = ['1'] * 2 + ['2'] * 3 + ['3'] * 3
  rewards = peer_trl.vote([*one, *other], 'trained')
  assert rewards == [1.0] * 4 + [0.0] * 4 + [0.0] * 2 + [1.0] * 3 + [0.0] * 3


def test_forced_answers_are_paid_at_random():
  rewards = peer_trl.vote(['5'] * 800, 'forced')
  assert set(rewards) == {0.0, 1.0}
  # 400 are expected, with a standard deviation of 14.
  assert sum(rewards) == pytest.approx(400, abs=100)
