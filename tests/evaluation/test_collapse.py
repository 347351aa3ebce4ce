"""Tests of the detection of a solver that always gives the same answer."""

import pytest

from sqlm_jax.evaluation import collapse


def rows_of(greedy, sampled, truths):
  """Returns rows with a greedy answer and sampled answers per question."""
  return [
    {
      'answers': [first, *others],
      'right': [answer == true for answer in (first, *others)],
      'true': true,
    }
    for first, others, true in zip(greedy, sampled, truths, strict=True)
  ]


FIVE = 'ABCDE' * 4  # the true answers of 20 questions, each option four times


def test_the_same_answer_to_every_question_is_a_collapse():
  collapses = collapse.find(rows_of('C' * 20, ['CC'] * 20, FIVE), 2)
  # C is right for 4 of 20.
  expected = {'answer': 'C', 'share': 1.0, 'true_share': 0.2}
  assert collapses == {'greedy': expected, 'mean@2': expected}
  assert collapse.describe('mean@2', expected) == (
    "100% of the sampled answers are 'C', which is right for 20% of the "
    'questions'
  )


def test_greedy_and_sampled_answers_are_examined_separately():
  varied = [a + b for a, b in zip(FIVE, FIVE[1:] + 'A', strict=True)]
  assert set(collapse.find(rows_of('C' * 20, varied, FIVE), 2)) == {'greedy'}
  assert set(collapse.find(rows_of(FIVE, ['CC'] * 20, FIVE), 2)) == {'mean@2'}


@pytest.mark.parametrize(
  'greedy, truths, collapsed',
  [
    (FIVE, FIVE, False),  # always right
    ('C' * 18 + 'AB', FIVE, True),  # 90%
    ('C' * 17 + 'ABD', FIVE, False),  # 85%
    # The true answer is also nearly always the same.
    ('A' * 20, 'A' * 18 + 'BB', False),
    ('A' * 20, 'A' * 17 + 'BBB', True),
    # 10% other answers and 15% other truths: more than half as many.
    ('A' * 18 + 'BB', 'A' * 17 + 'BBB', False),
    (['yes'] * 20, ['yes', 'no'] * 10, True),
    # Unparsed answers are ignored, unless they are more than half of all.
    (['C'] * 10 + [None] * 10, FIVE, True),
    (['C'] * 9 + [None] * 11, FIVE, False),
    ([None] * 20, FIVE, False),
    ('CCC', 'ABC', False),  # three questions are too few
    ('CCCC', 'ABCD', True),
  ],
)
def test_a_collapse_needs_nearly_all_answers(greedy, truths, collapsed):
  rows = rows_of(greedy, [''] * len(truths), truths)
  assert bool(collapse.find(rows, 0)) == collapsed
