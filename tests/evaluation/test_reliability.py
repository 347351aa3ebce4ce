"""Tests of the reliability of votes, on known votes."""

import numpy as np
import pytest

from sqlm_jax.evaluation import accuracy, reliability, report


def rows_of(*votes):
  """Returns rows of four answers, from tuples (agreeing, right, times)."""
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
  curve = reliability.measure(rows, samples=4, target=0.8)
  low, high = accuracy.wilson(90, 100)
  assert curve['bins'] == [
    {
      'agreement': share,
      'min_agreement': share,
      'votes': votes,
      'right': right,
      'accuracy': right / votes,
      'low': pytest.approx(accuracy.wilson(right, votes)[0]),
      'high': pytest.approx(accuracy.wilson(right, votes)[1]),
    }
    for share, votes, right in ((0.0, 5, 0), (0.5, 10, 5), (1.0, 100, 90))
  ]
  # |0 - 0| * 5, |0.5 - 0.5| * 10, |1 - 0.9| * 100, over 115 votes.
  assert curve['calibration_error'] == pytest.approx(10 / 115)
  of_all, of_half, of_four = curve['thresholds']
  assert (of_all['votes'], of_all['right'], of_all['kept']) == (115, 95, 1)
  assert (of_half['votes'], of_half['right']) == (110, 95)
  assert (of_four['low'], of_four['high']) == (low, high)
  # The interval of 95 of 110 starts at 0.79, that of 90 of 100 at 0.83.
  assert curve['suggested_min_agreement'] == 1.0


def test_the_lowest_sufficient_threshold_is_suggested():
  rows = rows_of((4, True, 90), (3, True, 30), (2, False, 90))
  curve = reliability.measure(rows, samples=4, target=0.9)
  assert curve['suggested_min_agreement'] == 0.75


def test_a_threshold_with_few_votes_does_not_hide_lower_thresholds():
  # The interval of 5 of 5 starts at 0.57, that of 95 of 95 at 0.96.
  rows = rows_of((4, True, 5), (3, True, 90), (2, False, 90))
  curve = reliability.measure(rows, samples=4, target=0.8)
  assert curve['thresholds'][-1]['low'] < 0.8
  assert curve['suggested_min_agreement'] == 0.75


def test_no_threshold_is_suggested_if_none_is_sufficient():
  rows = rows_of((4, False, 50), (3, True, 5), (0, False, 3))
  curve = reliability.measure(rows, samples=4, target=0.8)
  assert curve['suggested_min_agreement'] is None
  assert 'At no level of agreement' in report.describe_votes(curve)
  curve = reliability.measure(rows_of((0, False, 3)), samples=4, target=0.0)
  assert curve['suggested_min_agreement'] is None
  assert report.describe_votes(curve) == 'No question has a majority.'


def test_no_threshold_is_suggested_for_test_questions():
  rows = rows_of((4, True, 90), (3, True, 30), (2, False, 90))
  curve = reliability.measure(rows, samples=4, target=0.9, suggest=False)
  assert 'suggested_min_agreement' not in curve
  assert 'only for the validation set' in report.describe_votes(curve)
  suggested = reliability.measure(rows, samples=4, target=0.9)
  assert curve['thresholds'] == suggested['thresholds']


def test_a_threshold_is_suggested_by_its_point_estimate():
  """23 of 25 votes are right, and the interval starts at 0.75."""
  rows = rows_of((3, True, 23), (3, False, 2), (1, True, 3), (1, False, 22))
  curve = reliability.measure(rows, samples=4, target=0.8)
  assert curve['suggested_min_agreement'] == 0.75
  suggestion = curve['suggestion']
  assert (suggestion['right'], suggestion['votes']) == (23, 25)
  assert (suggestion['low'], suggestion['high']) == accuracy.wilson(23, 25)
  assert suggestion['kept'] == 0.5
  assert not suggestion['is_certain']
  more = suggestion['more_labels']
  # Half of the labels keep their vote.
  enough, too_few = (50 + more) / 2, (50 + more) / 2 - 1
  assert accuracy.wilson(0.92 * enough, enough)[0] >= 0.8
  assert accuracy.wilson(0.92 * too_few, too_few)[0] < 0.8
  text = report.describe_votes(curve)
  assert '23 of 25 votes are right, 92.0% (75.0%-97.8%)' in text
  assert f'{more} more labeled questions' in text
  assert 'vote.min_agreement=0.75' in text


def test_few_votes_are_no_suggestion():
  rows = rows_of((4, True, 4), (2, False, 30))
  curve = reliability.measure(rows, samples=4, target=0.8)
  assert curve['suggested_min_agreement'] is None
  assert not curve['suggestion']['reaches_target']
  rows = rows_of((4, True, 5), (2, False, 30))
  curve = reliability.measure(rows, samples=4, target=0.8)
  assert curve['suggested_min_agreement'] == 1.0


@pytest.mark.parametrize(
  'share, kept, questions, expected',
  [
    (0.8, 0.5, 100, None),  # the interval never rises above 0.8
    (0.5, 0.5, 100, None),
    (1.0, 1.0, 100, 0),
    # The interval of 16 of 16 starts at 0.81, that of 15 of 15 at 0.796.
    (1.0, 1.0, 10, 6),
    (1.0, 0.5, 10, 22),
  ],
)
def test_more_labels(share, kept, questions, expected):
  more = reliability.more_labels(share, kept, 0.8, questions=questions)
  assert more == expected


def test_each_seed_has_a_vote_per_question():
  row = {
    'answers': ['1', '1', '1', '2', '1'],
    'right': [True, True, True, False, True],
  }
  curve = reliability.measure([row], samples=2, target=0.8)
  # 1 and 1 agree and are right. In 2 and 1, the first answer wins and is wrong.
  assert [(b['agreement'], b['right']) for b in curve['bins']] == [
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
  curve = reliability.measure(rows, samples=64, target=0.8)
  assert 10 <= len(curve['bins']) <= 11  # one of them without answers
  assert sum(b['votes'] for b in curve['bins']) == 65


def test_votes_on_one_question_are_not_independent():
  """Repeated answers from more seeds do not make an interval narrower."""
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
