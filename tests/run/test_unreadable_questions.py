"""Tests of the warning about questions that could not be used."""

import pytest

from configs import default
from sqlm_jax.config import schema as config_lib
from sqlm_jax.game import types
from sqlm_jax.run import unreadable_questions


def config(**changes):
  c = default.get_config()
  c.task.name, c.task.proposer_prompt = 'a', 'Ask: '
  c.task.solver_prompt = '{question}'
  c.update_from_flattened_dict(changes)
  return config_lib.from_dict(c.to_dict())


def test_three_questions_are_shown_with_the_reasons():

  def invalid(text, reason):
    return types.Problem(text, ok=False, reason=reason)

  problems = [
    types.Problem('炉の温度は？'),
    invalid('a', 'format'),
    invalid('a', 'format'),
    invalid('b\n\x1b[2Jc', 'unfinished'),
    invalid('温度が' * 40, 'format'),
    invalid('never shown', 'too_long'),
  ]
  text = unreadable_questions.describe(
    problems, config(**{'task.question_pattern': '^.*？$'})
  )
  shown = '温度が' * 11 + '温'
  assert text == (
    '5 of 6 questions could not be used: '
    "3 did not match task.question_pattern='^.*？$'; 1 reached "
    'proposer.max_tokens=1024 without a stop in task.proposer_stop=(); 1 gave '
    'a prompt longer than sampler.max_prompt_tokens=512. For example: '
    "'a', "
    f"'b [2Jc', '{shown}…'"
  )


@pytest.mark.parametrize(
  'reason, words',
  [
    ('format', 'were empty'),
    ('special_token', 'special token'),
    ('contaminated', "evaluation.contaminated='count'"),
    ('few_tests', 'tests.min_count=5'),
    ('contradiction', 'contradict'),
    ('constant_output', 'same output'),
    ('another', '1 another'),
  ],
)
def test_each_reason_is_explained(reason, words):
  problem = types.Problem('a', ok=False, reason=reason)
  assert words in unreadable_questions.describe([problem], config())
