"""Tests of the verdict of a report."""

import pytest

from sqlm_jax.reporting import advice, figures, page
from sqlm_jax.workdir import run_writer
from tests.reporting import reported_runs

WORSE, BETTER = ('1' * 20, '0' * 10 + '1' * 10), ('0' * 20, '1' * 10 + '0' * 10)
SAME = ('01' * 10, '01' * 10)


def alarm(action, ended=None):
  return figures.Alarm('one_answer', 3, ended, action, 'x', 1.0, '')


FALL = figures.Fall(4, 8, {'value': -0.5, 'p': 0.01})
CHANCE = figures.Fall(4, 8, {'value': -0.1, 'p': 0.4})


@pytest.mark.parametrize(
  'evaluations, fall, alarms, verdict, reason',
  [
    (BETTER, None, (), advice.GO_ON, 'improved'),
    (BETTER, CHANCE, (alarm('stop', ended=5),), advice.GO_ON, 'improved'),
    (BETTER, None, (alarm('warn'),), advice.GO_ON, 'improved'),
    (BETTER, None, (alarm('not_best'),), advice.STOP, 'alarm'),
    (BETTER, FALL, (), advice.STOP, 'validation score has fallen'),
    (WORSE, None, (), advice.STOP, 'worse on the test set'),
    (SAME, None, (), advice.NOT_PROVEN, 'may be chance'),
    (SAME, None, (alarm('stop'),), advice.STOP, 'alarm'),
    (None, None, (), advice.NOT_PROVEN, 'not evaluated'),
    (None, FALL, (), advice.STOP, 'validation score has fallen'),
  ],
)
def test_the_first_rule_that_applies_decides(
  tmp_path, evaluations, fall, alarms, verdict, reason
):
  before, after = evaluations or ('', '')
  reported_runs.write_run(tmp_path, before=before, after=after)
  advised = advice.advise(
    figures.improvement(tmp_path, 'test'),
    fall,
    alarms,
    missing=figures.missing(tmp_path),
    num_steps=2,
    last_step=2,
  )
  assert advised.verdict == verdict
  assert reason in advised.reason.text.format(**advised.reason.values)


def test_the_validation_set_proves_nothing_good(tmp_path):
  before, after = BETTER
  reported_runs.write_run(
    tmp_path, before=before, after=after, set_name='validation'
  )
  improvement = figures.improvement(tmp_path, 'validation')
  advised = advice.advise(improvement, None, (), num_steps=2, last_step=2)
  assert advised.verdict == advice.NOT_PROVEN
  assert 'Only the validation set' in advised.reason.text


def test_test_questions_with_verdicts_prove_nothing(tmp_path):
  """Verdicts gave the true answer to 3 + 3, which is asked again."""
  before, after = ('0' * 20, '1' * 20)
  workdir = reported_runs.write_run(tmp_path, before=before, after=after)
  assert page.read_run(workdir).advice.verdict == advice.GO_ON
  reported_runs.write_run(
    tmp_path / 'seen', questions=('1 + 1', '3 + 0'), before=before, after=after
  )
  writer = run_writer.RunWriter(tmp_path / 'seen')
  rows = [
    row | {'true_answer': '3'} if row.get('question') == '3 + 0' else row
    for row in reported_runs.rows_of(('1 + 1', '3 + 0'))
  ]
  writer.rollouts(1, rows)
  writer.close()
  run = page.read_run(tmp_path / 'seen')
  assert run.advice.verdict == advice.NOT_PROVEN
  assert run.advice.reason.values == {'number': 1, 'total': 20}
  (remark,) = run.advice.remarks
  assert 'were not used' not in remark.text
  # 3 + 3 is asked again in both steps, and is not a vote of the proposer.
  assert len(run.tallies.points) == 4
  assert set(run.tallies.topics) == {'sums'}


def test_one_answer_to_everything_stops_the_run(tmp_path):
  before, after = BETTER
  reported_runs.write_run(tmp_path, before=before, after=after)
  improvement = figures.improvement(tmp_path, 'test')
  assert improvement is not None
  collapsed = improvement._replace(collapsed={'greedy': {'answer': 'C'}})
  advised = advice.advise(collapsed, None, (), num_steps=2, last_step=2)
  assert advised.verdict == advice.STOP


def test_remarks_do_not_change_the_verdict(tmp_path):
  # 10 learned and 1 lost: p = 0.012 by the exact test.
  reported_runs.write_run(
    tmp_path, before='0' * 10 + '1' * 10, after='1' * 19 + '0'
  )
  advised = advice.advise(
    figures.improvement(tmp_path, 'test'),
    None,
    (alarm('warn'),),
    contaminated=0.25,
    num_steps=10,
    last_step=5,
  )
  assert advised.verdict == advice.GO_ON
  remarks = [remark.text.format(**remark.values) for remark in advised.remarks]
  assert [remark.split('.')[0] for remark in remarks] == [
    'The run has finished 5 of 10 steps',
    'The last evaluation is of the model after 2 steps, and the run has '
    'finished 5 steps',
    'The model now fails 1 test questions that it answered before',
    'The warning one_answer has held since step 3',
    '25% of the questions of the run are also in an evaluation set',
  ]
