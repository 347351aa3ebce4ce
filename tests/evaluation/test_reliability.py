"""The reliability of votes, on votes whose fate is known."""

import numpy as np
import pytest

from sqlm_jax.evaluation import accuracy, reliability, report


def rows_of(*votes):
  """Rows of (agreeing, right, times): so many of four agree, no others."""
  return [
    {
      'answers': ['greedy', *['1'] * agreeing, *[None] * (4 - agreeing)],
      'right': [False, *[right] * agreeing, *[False] * (4 - agreeing)],
    }
    for agreeing, right, times in votes
    for _ in range(times)
  ]


def test_a_curve_worked_by_hand():
  rows = rows_of(
    (4, True, 90), (4, False, 10), (2, True, 5), (2, False, 5), (0, False, 5)
  )
  found = reliability.measure(rows, samples=4, target=0.8)
  low, high = accuracy.wilson(90, 100)
  assert found['bins'] == [
    {
      'agreement': share,
      'least': share,
      'votes': votes,
      'right': right,
      'accuracy': right / votes,
      'low': pytest.approx(accuracy.wilson(right, votes)[0]),
      'high': pytest.approx(accuracy.wilson(right, votes)[1]),
    }
    for share, votes, right in ((0.0, 5, 0), (0.5, 10, 5), (1.0, 100, 90))
  ]
  # |0 - 0| * 5, |0.5 - 0.5| * 10, |1 - 0.9| * 100, over 115 votes.
  assert found['calibration_error'] == pytest.approx(10 / 115)
  of_all, of_half, of_four = found['thresholds']
  assert (of_all['votes'], of_all['right'], of_all['kept']) == (115, 95, 1)
  assert (of_half['votes'], of_half['right']) == (110, 95)
  assert (of_four['low'], of_four['high']) == (low, high)
  # 95 of 110 is 0.79 at the low end, 90 of 100 is 0.83.
  assert found['suggested_min_agreement'] == 1.0


def test_the_lowest_threshold_that_is_good_enough():
  rows = rows_of((4, True, 90), (3, True, 30), (2, False, 90))
  found = reliability.measure(rows, samples=4, target=0.9)
  assert found['suggested_min_agreement'] == 0.75


def test_few_unanimous_votes_do_not_hide_the_others():
  # 5 of 5 is 0.57 at the low end, 95 of 95 0.96.
  rows = rows_of((4, True, 5), (3, True, 90), (2, False, 90))
  found = reliability.measure(rows, samples=4, target=0.8)
  assert found['thresholds'][-1]['low'] < 0.8
  assert found['suggested_min_agreement'] == 0.75


def test_a_vote_that_cannot_be_trusted():
  rows = rows_of((4, False, 50), (3, True, 5), (0, False, 3))
  found = reliability.measure(rows, samples=4, target=0.8)
  assert found['suggested_min_agreement'] is None
  found = reliability.measure(rows_of((0, False, 3)), samples=4, target=0.0)
  assert found['suggested_min_agreement'] is None


def test_nothing_is_suggested_by_test_questions():
  rows = rows_of((4, True, 90), (3, True, 30), (2, False, 90))
  found = reliability.measure(rows, samples=4, target=0.9, suggest=False)
  assert 'suggested_min_agreement' not in found
  assert 'validation set alone' in report.describe_votes(found)
  suggested = reliability.measure(rows, samples=4, target=0.9)
  assert found['thresholds'] == suggested['thresholds']


def test_each_seed_is_a_vote():
  row = {
    'answers': ['1', '1', '1', '2', '1'],
    'right': [True, True, True, False, True],
  }
  found = reliability.measure([row], samples=2, target=0.8)
  # 1 1 agree and are right; of 2 and 1 the first one wins, and is wrong.
  assert [(b['agreement'], b['right']) for b in found['bins']] == [
    (0.5, 0),
    (1.0, 1),
  ]


def test_many_samples_share_ten_bins():
  rng = np.random.default_rng(0)
  rows = []
  for agreeing in range(65):
    answers = ['1'] * agreeing + [None] * (64 - agreeing)
    right = list(rng.random(65) < 0.5)
    rows.append({'answers': ['1', *answers], 'right': right})
  found = reliability.measure(rows, samples=64, target=0.8)
  assert 10 <= len(found['bins']) <= 11  # and those without any answer
  assert sum(one['votes'] for one in found['bins']) == 65


def test_votes_on_one_question_are_not_independent():
  """Repeated answers from more seeds add no information."""
  rows = rows_of((4, True, 30), (4, False, 10))
  again = [
    {name: row[name][:1] + row[name][1:] * 5 for name in ('answers', 'right')}
    for row in rows
  ]
  one, five = (
    reliability.measure(some, samples=4, target=0.9)['thresholds'][-1]
    for some in (rows, again)
  )
  assert (one['votes'], five['votes']) == (40, 200)
  assert (five['low'], five['high']) == (one['low'], one['high'])
