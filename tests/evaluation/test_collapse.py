"""A solver that gives one answer to everything is found out."""

import pytest

from sqlm_jax.evaluation import collapse


def rows_of(greedy, sampled, truths):
  """Rows of a choice: a greedy answer and two sampled ones a question."""
  return [
    {
      'answers': [first, *others],
      'right': [answer == true for answer in (first, *others)],
      'true': true,
    }
    for first, others, true in zip(greedy, sampled, truths, strict=True)
  ]


FIVE = 'ABCDE' * 4  # the true answers of 20 questions, each option four times


def test_one_answer_to_everything():
  found = collapse.find(rows_of('C' * 20, ['CC'] * 20, FIVE), 2)
  # C is right for 4 of 20.
  one = {'answer': 'C', 'share': 1.0, 'true_share': 0.2}
  assert found == {'greedy': one, 'mean@2': one}
  assert collapse.describe('mean@2', one) == (
    "100% of the sampled answers are 'C', which is right for 20% of the "
    'questions'
  )


def test_sampled_and_greedy_answers_are_told_apart():
  varied = [a + b for a, b in zip(FIVE, FIVE[1:] + 'A', strict=True)]
  assert set(collapse.find(rows_of('C' * 20, varied, FIVE), 2)) == {'greedy'}
  assert set(collapse.find(rows_of(FIVE, ['CC'] * 20, FIVE), 2)) == {'mean@2'}


@pytest.mark.parametrize(
  'greedy, truths, collapsed',
  [
    (FIVE, FIVE, False),  # right everywhere
    ('C' * 18 + 'AB', FIVE, True),  # 90%
    ('C' * 17 + 'ABD', FIVE, False),  # 85%
    # The truth is nearly always the same, too.
    ('A' * 20, 'A' * 18 + 'BB', False),
    ('A' * 20, 'A' * 17 + 'BBB', True),
    # 10% other answers and 15% other truths: more than half as many.
    ('A' * 18 + 'BB', 'A' * 17 + 'BBB', False),
    (['yes'] * 20, ['yes', 'no'] * 10, True),
    # Blanks are no answers, and with more blanks than answers nothing is said.
    (['C'] * 10 + [None] * 10, FIVE, True),
    (['C'] * 9 + [None] * 11, FIVE, False),
    ([None] * 20, FIVE, False),
    ('CCC', 'ABC', False),  # three questions are too few
    ('CCCC', 'ABCD', True),
  ],
)
def test_nearly_all(greedy, truths, collapsed):
  rows = rows_of(greedy, [''] * len(truths), truths)
  assert bool(collapse.find(rows, 0)) == collapsed
