"""Tests of the order in which votes are shown to a reviewer."""

import collections

import pytest

from sqlm_jax.game import ballots, verdicts


def ballot(answers, *, index=0, step=0, vote=None, views=None, **changes):
  fields = {
    'step': step,
    'index': index,
    'question': f'{index} + 1',
    'vote': vote if vote is not None else answers[0],
    'views': views or (tuple(answers),),
  }
  return ballots.Ballot(**fields | changes)


def order(given, pick='uncertain', random_share=0.0, num_decided=0):
  return ballots.order(
    given,
    pick=pick,
    random_share=random_share,
    seed=0,
    num_decided=num_decided,
  )


def test_half_of_the_answers_is_most_uncertain():
  half, most, all_agree = (
    ballot(text, index=i) for i, text in enumerate(('aabb', 'aaab', 'aaaa'))
  )
  # 1 - 2 |p - 1/2| for p = 1/2, 3/4 and 1
  assert ballots.uncertainty(half) == 1
  assert ballots.uncertainty(most) == 0.5
  assert ballots.uncertainty(all_agree) == 0
  chosen = [choice.ballot for choice in order([all_agree, most, half])]
  assert chosen == [half, most, all_agree]


def test_leverage_is_the_change_of_the_advantages():
  # Rewards 1 1 0 0 have the advantages 1 1 -1 -1; for the other answer, the
  # signs change: |2| four times.
  assert ballots.leverage(ballot('aabb')) == pytest.approx(8)
  # 1 1 1 0: mean 3/4, deviation sqrt(3)/4, so 3 of 1/sqrt(3) and -sqrt(3). The
  # other answer changes the signs: 2 (3/sqrt(3) + sqrt(3)) = 4 sqrt(3).
  assert ballots.leverage(ballot('aaab')) == pytest.approx(4 * 3**0.5)
  assert ballots.leverage(ballot('aaaa')) == 0
  # Without a majority, nothing is paid: 1 0 0 0 has 3/sqrt(3) + sqrt(3).
  no_vote = ballot('abcd')._replace(vote=None)
  assert ballots.leverage(no_vote) == pytest.approx(2 * 3**0.5)


def test_views_that_disagree_come_first():
  same = ballot('', index=0, vote='a', views=(('a', 'b'), ('a', 'b')))
  half = ballot('', index=1, vote='a', views=(('a', 'a'), ('a', 'b')))
  none = ballot('', index=2, vote='a', views=(('a', 'a'), ('b', 'b')))
  assert [ballots.view_gap(b) for b in (same, half, none)] == [0, 0.5, 1]
  chosen = [c.ballot for c in order([same, half, none], 'views')]
  assert chosen == [none, half, same]


def test_views_fall_back_to_uncertainty_with_one_prompt():
  given = [ballot(text, index=i) for i, text in enumerate(('aaaa', 'aabb'))]
  assert order(given, 'views')[0].ballot == given[1]


def test_a_question_is_shown_once_with_its_newest_vote():
  given = [ballot('aabb', step=step) for step in (2, 5, 3)]
  (choice,) = order(given)
  assert choice.ballot.step == 5


def test_a_question_that_the_gate_refused_is_not_shown():
  given = [
    ballot('aabb', index=0, reason='too_easy'),
    ballot('aabb', index=1, reason='tie'),
  ]
  assert [choice.ballot for choice in order(given)] == given[1:]


def test_random_draws_do_not_depend_on_the_votes():
  """A draw is a draw, however its answers agree and whatever is picked."""
  count = 2000
  split = [ballot('aabb', index=i) for i in range(count)]
  agreed = [ballot('aaaa', index=i) for i in range(count)]
  drawn = [
    [c.ballot.index for c in order(given, pick, 0.2) if c.pick == 'random']
    for given in (split, agreed)
    for pick in ('uncertain', 'leverage')
  ]
  assert drawn[0] == drawn[1] == drawn[2] == drawn[3]
  # Within four standard deviations, sqrt(2000 * 0.2 * 0.8) = 17.9
  assert abs(len(drawn[0]) - 400) < 72


def test_every_fifth_decision_is_a_random_draw():
  given = [ballot('aabb', index=i) for i in range(200)]
  turns = [order(given, random_share=0.2, num_decided=n)[0] for n in range(10)]
  assert [choice.pick == verdicts.RANDOM for choice in turns] == 2 * (
    [False] * 4 + [True]
  )
  picks = collections.Counter(c.pick for c in order(given, random_share=0.2))
  assert sum(picks.values()) == 200
  assert {c.pick for c in order(given, random_share=1.0)} == {'random'}
  assert {c.pick for c in order(given, random_share=0.0)} == {'uncertain'}


def test_ballots_join_the_prompts_of_a_question():
  def row(role, group, answer, question='q'):
    return {
      'role': role,
      'group': group,
      'answer': answer,
      'question': question,
      'vote': 'a',
      'reason': None,
    }

  rows = [
    row('proposer', 0, None),
    row('solver', 2, 'a'),
    row('solver', 3, 'b'),
    row('solver', 2, 'a'),
    row('voter', 1, None),
  ]
  assert ballots.from_rows(rows, step=7, num_views=2) == [
    ballots.Ballot(7, 1, 'q', 'a', (('a', 'a'), ('b',), (None,)))
  ]


def test_an_excluded_answer_does_not_hide_its_question():
  shared = {'role': 'solver', 'group': 0, 'question': 'q', 'vote': 'a'}
  rows = [
    shared | {'answer': None, 'reason': 'mail'},
    shared | {'answer': 'a', 'reason': None},
  ]
  (found,) = ballots.from_rows(rows, step=0, num_views=1)
  assert found.is_open
  for row in rows:
    row['reason'] = 'too_easy'
  (found,) = ballots.from_rows(rows, step=0, num_views=1)
  assert not found.is_open


def test_an_unknown_order_is_refused():
  with pytest.raises(ValueError, match="pick='best': expected one of"):
    order([ballot('aabb')], 'best')
