"""Tests of the distribution of answers: worked by hand, and on average."""

import itertools
import math
import random

import numpy as np
import pytest

from sqlm_jax.game import agreement


@pytest.mark.parametrize(
  'answers, entropy, margin',
  [
    ('aaaa', 0.0, 1.0),
    ('aabb', math.log(2), 0.0),
    ('abcd', math.log(4), 0.0),
    # 3/4 log 4/3 + 1/4 log 4 = log 4 - 3/4 log 3.
    ('aaab', math.log(4) - 0.75 * math.log(3), 0.5),
    # Unparsed answers count in the total of the margin.
    ((*'aaab', None, None, None, None), math.log(4) - 0.75 * math.log(3), 0.25),
    ((None, 'a'), 0.0, 0.5),
    ((None, None), None, None),
    ((), None, None),
  ],
)
def test_entropy_and_margin(answers, entropy, margin):
  assert agreement.entropy(answers) == pytest.approx(entropy)
  assert agreement.margin(answers) == pytest.approx(margin)


@pytest.mark.parametrize(
  'views, gap',
  [
    (('aaaa', 'bbbb'), 1.0),  # 1 within each view, 0 between them
    (('aaaa', 'aaaa'), 0.0),
    # Within aabb, 2 of 6 pairs agree; between the views, half of all pairs.
    (('aabb', 'aabb'), 1 / 3 - 1 / 2),
    (('aaaa', 'bbbb', 'bbbb'), 2 / 3),  # the mean over the three pairs
    (((None, 'a', 'a'), 'bb'), 1.0),
    (('aaaa', ()), None),
    (('aaaa', (None, 'b')), None),  # one answer does not show its own share
    (('aaaa',), None),
  ],
)
def test_view_gap(views, gap):
  assert agreement.view_gap(views) == pytest.approx(gap)


def test_view_gap_is_unbiased():
  """Its mean over all samples is the distance of the distributions."""
  # Three answers of each view, of a coin with p and a coin with q:
  # ((p - q)^2 + (p - q)^2) / 2 = 0.16.
  p, q, total = 0.7, 0.3, 0.0
  for first in itertools.product('ab', repeat=3):
    for second in itertools.product('ab', repeat=3):
      weight = math.prod(p if a == 'a' else 1 - p for a in first)
      weight *= math.prod(q if a == 'a' else 1 - q for a in second)
      total += weight * agreement.view_gap([first, second])
  assert total == pytest.approx(0.16)


@pytest.mark.parametrize(
  'groups, expected',
  [
    ([[1, 1], [2, 2]], 1.0),
    ([[1, 1], [1, 1]], 0.0),
    ([[1, 1, 1, 1]] * 3 + [[2, 2, 2, 2]], 1 - 3 / 6),
    # Within: 1/3 and 1/6. Between: 3/4 x 1/4 for 1, 1/4 x 1/4 for 2.
    ([[1, 1, 1, 2], [1, 2, None, 3]], (1 / 2 + 0) / 2 - 1 / 4),
    ([[None, None], [None, None]], 0.0),
    ([[1, 1]], None),
    ([], None),
  ],
)
def test_answers_that_tell_questions_apart_are_informative(groups, expected):
  assert agreement.information(groups) == (
    None if expected is None else pytest.approx(expected)
  )


def test_the_information_of_few_answers_has_no_bias():
  """Half of the questions have a 70% answer 0, the others a 70% answer 1."""
  generator = random.Random(0)

  def draw(question):
    other = 1 - question % 2
    return [other if generator.random() < 0.3 else 1 - other for _ in range(2)]

  found = [
    agreement.information([draw(question) for question in range(4)])
    for _ in range(4000)
  ]
  # Within: 0.58. Between: a third of the pairs 0.58, the others 0.42.
  expected = 0.58 - (0.58 + 2 * 0.42) / 3
  error = np.std(found) / math.sqrt(len(found))
  assert abs(np.mean(found) - expected) < 3 * error < 0.03


def test_any_answers_are_measured():
  generator = random.Random(0)
  for _ in range(300):
    views = [
      [generator.choice([None, 1, 2, 'x']) for _ in range(size)]
      for size in (generator.randrange(6), generator.randrange(6))
    ]
    gap = agreement.view_gap(views)
    assert gap is None or -1 <= gap <= 1
    answers = [*views[0], *views[1]]
    entropy, margin = agreement.entropy(answers), agreement.margin(answers)
    assert (entropy is None) == (margin is None) == (set(answers) <= {None})
    if entropy is not None:
      assert 0 <= entropy <= math.log(3) + 1e-9
      assert 0 <= margin <= 1
