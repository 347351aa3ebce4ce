"""Tests of what holds after the events of several reviewers."""

import operator

from sqlm_jax.game import types, verdicts


def event(verdict, question='7 + 8', **changes):
  return {
    'verdict': verdict,
    'question': question,
    'id': verdicts.question_id(question),
    'reviewer': 'ann',
    'vote': '14',
  } | changes


def test_the_last_verdict_holds():
  known = verdicts.fold(
    [
      event('accept'),
      event('correct', answer='15', reviewer='ben'),
      event('skip'),
    ]
  )
  assert known.true_answer('7 + 8') == '15'
  assert known.refusal('7 + 8') == ''
  assert known.num_lines == 3
  # Spaces do not make another question; other numbers do.
  assert known.true_answer('What is 7+8?') == '15'
  assert known.true_answer('8 + 7') == ''


def test_a_refused_question_has_no_answer():
  known = verdicts.fold(
    [
      event('accept'),
      event('reject'),
      event('exclude', 'What?'),
    ]
  )
  assert known.refusal('7 + 8') == 'rejected'
  assert known.refusal('What?') == 'excluded'
  assert known.true_answer('7 + 8') == ''
  assert known.answered() == []


def test_undo_withdraws_the_last_event_of_the_same_person():
  events = [
    event('correct', answer='15'),
    event('exclude', reviewer='ben'),
    event('reject'),
    event('undo'),
  ]
  assert verdicts.fold(events).refusal('7 + 8') == 'excluded'
  events.append(event('undo', reviewer='ben'))
  assert verdicts.fold(events).true_answer('7 + 8') == '15'
  events += [event('undo'), event('undo'), event('undo', 'never asked')]
  assert verdicts.fold(events) == verdicts.Verdicts({}, 8)


def test_damaged_and_foreign_lines_count_as_lines_only():
  events = [
    None,
    {},
    {'verdict': 'accept'},
    {'verdict': 'accept', 'id': 3, 'question': 'x'},
    event('perhaps'),
    event('accept', vote=None),
  ]
  known = verdicts.fold(events)
  assert known.num_lines == 6
  assert known.answered() == []


def test_each_random_draw_counts_once():
  drawn = {'pick': 'random'}
  events = [
    event('accept', **drawn),
    event('accept', **drawn),
    event('reject', '1 + 1', **drawn),
    event('accept', '1 + 2', pick='uncertain'),
    event('exclude', '1 + 3', **drawn),
    event('correct', '1 + 4', vote=None, answer='5', **drawn),
  ]
  assert verdicts.count_random(events) == (1, 2)


def test_the_true_answer_counts_like_a_vote():
  answers = (14, 15, None, 15)
  assert verdicts.as_vote(15, answers, operator.eq) == types.Vote(15, 2, 4)
  assert verdicts.as_vote(16, answers, operator.eq) == types.Vote(16, 0, 4)
  # An answer that agrees in another form is the one that is paid.
  vote = verdicts.as_vote('a', ('A', 'b'), lambda x, true: x.lower() == true)
  assert vote == types.Vote('A', 1, 2)


def test_a_long_question_has_an_id_soon():
  assert verdicts.question_id('x' * 2**20) != verdicts.question_id('x' * 2**19)
