"""Tests of the conditions of alarms."""

import math

import pytest

from sqlm_jax.config import conditions


def test_a_condition_is_parsed_into_comparisons():
  assert conditions.parse(
    'vote/unanimous_rate > 0.95 and train/solver/kl<=.5'.replace('.5', '0.5')
  ) == (
    conditions.Comparison('vote/unanimous_rate', '>', 0.95),
    conditions.Comparison('train/solver/kl', '<=', 0.5),
  )
  assert conditions.parse(' sample/solver/tokens >= -1e-2 * start ') == (
    conditions.Comparison(
      'sample/solver/tokens', '>=', -0.01, reference='start'
    ),
  )
  assert conditions.parse('a<0.9*highest') == (
    conditions.Comparison('a', '<', 0.9, reference='highest'),
  )


@pytest.mark.parametrize(
  'text',
  [
    '',
    'vote/agreement',
    'vote/agreement = 1',
    'vote/agreement > high',
    'vote/agreement > 1 or x < 2',
    'a > 1 and',
    '0.5 * start > a',
    'a > 0.5 * end',
    'a > 0.5 * highest * start',
    'a > nan',
  ],
)
def test_other_text_is_not_a_condition(text):
  assert not conditions.is_valid(text)
  with pytest.raises(ValueError, match='not a condition'):
    conditions.parse(text)


@pytest.mark.parametrize(
  'pattern, name, matches',
  [
    ('train/*/kl', 'train/solver/kl', True),
    ('train/*/kl', 'train/solver/not_finite/kl', False),
    ('train/*/kl', 'train/solver/kl_max', False),
    ('vote/option_share/*', 'vote/option_share/A', True),
    ('a.b', 'a-b', False),
  ],
)
def test_a_star_stands_for_one_part_of_a_name(pattern, name, matches):
  (comparison,) = conditions.parse(f'{pattern} > 1')
  assert comparison.matches(name) is matches


@pytest.mark.parametrize(
  'condition, value, holds',
  [
    ('a > 2', 2, False),
    ('a >= 2', 2, True),
    ('a < 2', 2, False),
    ('a <= 2', 2, True),
    ('a < 0.5 * start', 1.9, True),  # the first value is 4
    ('a < 0.5 * start', 2, False),
    ('a > 1', math.inf, True),
  ],
)
def test_a_value_is_compared_with_the_threshold(condition, value, holds):
  (comparison,) = conditions.parse(condition)
  assert comparison.holds(value, 4.0) is holds
