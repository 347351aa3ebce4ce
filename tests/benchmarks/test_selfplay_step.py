"""The step that both our side and TRL's play."""

import pytest

from benchmarks import peer_trl, selfplay_step
from configs import quickstart


def test_questions_are_different_and_not_in_the_prompt():
  assert len(set(selfplay_step.QUESTIONS)) == 16
  for question, prompt in zip(
    selfplay_step.QUESTIONS, peer_trl.prompts(), strict=True
  ):
    assert question not in quickstart.SOLVER_PROMPT
    assert prompt.endswith(f'\n{question} = ')


def test_the_peer_rewards_the_majority():
  # Two groups of 8; the text after the first line is ignored.
  first = ['5\n'] * 3 + ['5\n6 + 1'] + ['7'] * 4
  # In both groups, the first of two tied answers wins.
  second = ['1'] * 2 + ['2'] * 3 + ['3'] * 3
  rewards = peer_trl.vote([*first, *second], 'trained')
  assert rewards == [1.0] * 4 + [0.0] * 4 + [0.0] * 2 + [1.0] * 3 + [0.0] * 3


def test_forced_answers_have_random_rewards():
  rewards = peer_trl.vote(['5'] * 800, 'forced')
  assert set(rewards) == {0.0, 1.0}
  # 400 are expected, with a standard deviation of 14.
  assert sum(rewards) == pytest.approx(400, abs=100)
