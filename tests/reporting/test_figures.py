"""Tests of the figures of a report."""

import numpy as np
import pytest

from sqlm_jax.reporting import figures, tallies
from sqlm_jax.workdir import run_writer
from tests.reporting import reported_runs


def test_questions_learned_kept_and_lost(tmp_path):
  reported_runs.write_run(tmp_path, before='0011', after='0101')
  improvement = figures.improvement(tmp_path, 'test')
  assert improvement is not None
  assert improvement.changes == {
    'learned': 1,
    'kept': 1,
    'lost': 1,
    'never': 1,
  }
  assert (improvement.first_step, improvement.last_step) == (0, 2)
  assert improvement.figure == 'mean@2'
  assert [x['value'] for x in improvement.values] == [0.5, 0.5]
  assert improvement.difference['value'] == 0
  assert figures.missing(tmp_path) == []


@pytest.mark.parametrize(
  'before, after, missing',
  [('', '', [0, None]), ('01', '', [None]), ('', '01', [0])],
)
def test_a_missing_evaluation_is_known(tmp_path, before, after, missing):
  reported_runs.write_run(tmp_path, before=before, after=after)
  assert figures.improvement(tmp_path, 'test') is None
  assert figures.missing(tmp_path) == missing


def test_an_evaluation_whose_answers_are_deleted_counts_as_none(tmp_path):
  reported_runs.write_run(tmp_path, before='01', after='11')
  (directory, *_) = (tmp_path / 'evaluations').iterdir()
  (directory / 'answers.jsonl').unlink()
  assert figures.improvement(tmp_path, 'test') is None


def test_a_fall_is_measured_from_the_best_step(tmp_path):
  reported_runs.write_run(tmp_path)
  for step, right in ((0, '0' * 20), (1, '1' * 20), (2, '0' * 10 + '1' * 10)):
    reported_runs.evaluate(tmp_path, step, right, set_name='validation')
  fall = figures.fall(tmp_path, 'mean@2')
  assert fall is not None
  assert (fall.best_step, fall.last_step) == (1, 2)
  assert fall.difference['value'] == -0.5
  assert fall.difference['p'] < 0.05
  reported_runs.evaluate(tmp_path, 3, '1' * 20, set_name='validation')
  assert figures.fall(tmp_path, 'mean@2') is None


def test_hours_and_money(tmp_path):
  reported_runs.write_run(tmp_path, before='01', after='11')
  cost = figures.cost(tmp_path, reported_runs.FOOTER, 2.0)
  # Two steps of half an hour, two evaluations of a quarter; 4 devices.
  assert cost.training_hours == 1.0
  assert cost.evaluation_hours == 0.5
  assert cost.device_hours == 6.0
  assert cost.money == 12.0
  unknown = figures.cost(tmp_path, {}, None)
  assert (unknown.devices, unknown.device_hours, unknown.money) == (
    None,
    1.5,
    None,
  )


def test_labels_are_counted_once_for_each_question(tmp_path):
  reported_runs.write_run(tmp_path, before='0101', after='0111')
  for question, kind in (('1 + 1', 'accept'), ('1 + 1', 'correct')):
    reported_runs.add_verdict(tmp_path, question, kind, answer='2')
  reported_runs.add_verdict(tmp_path, '2 + 2', 'skip')
  reported_runs.add_verdict(tmp_path, '3 + 3', 'reject', reviewer='checker')
  config = {'solver': {'rewards': {'true': 0.0}}}
  labels = figures.labels(tmp_path, config, by_vote=2, by_verdict=1)
  assert labels == figures.Labels(2, 1, 1, 1, 4, False)
  config = {'solver': {'rewards': {'true': 1.0}}}
  labels = figures.labels(tmp_path, config, by_vote=2, by_verdict=1)
  assert labels.rewards_true


def test_only_random_draws_tell_how_often_votes_are_right(tmp_path):
  reported_runs.write_run(tmp_path)
  assert figures.reviewed_votes(tmp_path) is None
  reported_runs.add_verdict(tmp_path, '1 + 1', 'accept')
  reported_runs.add_verdict(tmp_path, '2 + 2', 'reject')
  reported_runs.add_verdict(tmp_path, '3 + 3', 'accept', pick='uncertain')
  reviewed = figures.reviewed_votes(tmp_path)
  assert reviewed is not None
  assert (reviewed['right'], reviewed['total']) == (1, 2)
  # Wilson's interval of 1 of 2.
  assert reviewed['low'] == pytest.approx(0.0945, abs=1e-4)


def test_an_alarm_that_has_ended_comes_last(tmp_path):
  assert figures.alarms(tmp_path) == []
  reported_runs.add_alarm(tmp_path, 'warn')
  (alarm,) = figures.alarms(tmp_path)
  assert (alarm.name, alarm.since, alarm.ended) == ('one_answer', 0, None)
  reported_runs.add_alarm(tmp_path, 'warn', event='ended')
  (alarm,) = figures.alarms(tmp_path)
  assert alarm.ended == 1


def test_a_confusion_matrix_by_hand():
  rows = [
    {'true': true, 'answers': [answer], 'right': [answer == true]}
    for true, answer in (
      ('A', 'A'),
      ('A', 'B'),
      ('B', 'B'),
      ('B', None),
      ('B', 'C'),
    )
  ]
  result = figures.confusion(rows, max_classes=2)
  assert result is not None
  classes, counts = result
  assert classes == ['A', 'B']
  np.testing.assert_array_equal(counts, [[1, 1, 0], [0, 1, 2]])
  assert figures.confusion(rows, max_classes=1) is None
  assert figures.confusion(rows[1:3], max_classes=2) is None  # one of each


def test_questions_and_votes_are_counted(tmp_path):
  reported_runs.write_run(tmp_path)
  counted = tallies.read(tmp_path, num_views=1)
  assert counted.steps[1] == tallies.StepTally(
    step=1,
    proposed=3,
    solved=3,
    answers=12,
    trained_answers=12,
    trained_proposals=3,
    reasons={'format': 1},
  )
  assert counted.reasons() == {'format': 2}
  # Two steps; the majority of 1 + 1 is right, that of 2 + 2 wrong. 3 + 3 is
  # asked again.
  assert counted.topics['sums'] == tallies.TopicTally(4, 4, 3.5, 4, 2)
  assert counted.topics.keys() == {'sums'}
  assert counted.points == [
    tallies.Point(step, share, right)
    for step in (0, 1)
    for share, right in ((0.75, True), (1.0, False))
  ]
  assert counted.trained_by_vote == {'1 + 1', '2 + 2'}
  assert counted.trained_by_verdict == {'3 + 3'}


def test_a_question_is_counted_once_for_all_of_its_prompts(tmp_path):
  """Two prompts ask 1 + 1, and then again, with a wrong vote."""
  rows = []
  for group, (answer, vote) in enumerate(
    ((None, '2'), ('2', '2'), ('3', '3'), ('3', '3'))
  ):
    reason = 'mail' if answer is None else 'too_easy'
    rows.append(
      reported_runs.row(
        *('solver', group, 0),
        question='1 + 1',
        answer=answer,
        vote=vote,
        vote_share=1.0,
        reason=reason,
        right=answer == '2',
      )
    )
  writer = run_writer.RunWriter(tmp_path)
  writer.rollouts(0, rows)
  writer.close()
  counted = tallies.read(tmp_path, num_views=2)
  assert counted.reasons() == {'too_easy': 2}
  assert counted.points == [
    tallies.Point(0, 1.0, True),
    tallies.Point(0, 1.0, False),
  ]


def test_a_run_whose_questions_are_all_unreadable_has_counts(tmp_path):
  workdir = reported_runs.write_run(tmp_path)
  writer = run_writer.RunWriter(workdir)
  writer.rollouts(0, [r for r in reported_runs.rows_of() if 'reason' in r])
  writer.rollouts(1, [])
  writer.close()
  counted = tallies.read(workdir, num_views=1)
  assert [(s.proposed, s.solved) for s in counted.steps] == [(1, 0), (0, 0)]
  assert counted.points == []
