"""Tests of the choice of the best step, and of the summary of a run."""

import dataclasses

import pytest

from configs import smoke
from sqlm_jax.run import (
  build,
  evaluator,
  saved_models,
  scheduled_evaluations,
  summary,
  train_states,
)
from sqlm_jax.workdir import (
  alarms,
  checkpoints,
  config_json,
  evaluations,
  metrics,
)

TRUTHS = 'ABCDE' * 4


@pytest.fixture(scope='module')
def parts():
  c = smoke.get_config()
  c.mesh.data = 1
  c.num_steps = 12
  c.evaluation.samples = 2
  c.task.validation = tuple((f'{n} + 0', str(n)) for n in range(9))
  return build.build(c)


def make_result(parts, purpose, step, score, **changes):
  """Returns a line of eval.jsonl as the run would write it."""
  questions = parts.sets(purpose)
  planned = evaluator.plan(parts, questions, step=step, workdir=None)
  return {
    'step': step,
    'task': 'smoke',
    'set': purpose,
    'mean@2': score,
    'greedy': 0.9,
    'intervals': {'mean@2': [0, 1], 'greedy': [0, 1]},
    'questions': len(questions.examples),
    'settings': config_json.as_stored(planned.files.settings) | changes,
  }


def store(workdir, *results):
  workdir.mkdir(exist_ok=True)
  for result in results:
    evaluations.append_result(workdir, result)


def validations(parts, *scores):
  """Returns results of the validation after 0, 4, 8, ... steps."""
  return [
    make_result(parts, 'validation', 4 * i, score)
    for i, score in enumerate(scores)
  ]


@pytest.mark.parametrize(
  'scores, step, expected',
  [
    ((0.6, 0.7), 4, (0.7, 0.6, True)),
    ((0.6, 0.6), 4, (0.6, 0.6, False)),  # not better than the start
    ((0.6, 0.45, 0.5), 8, (0.5, 0.6, False)),
    ((0.6, 0.7, 0.65), 8, (0.65, 0.6, False)),
    ((0.6,), 0, (0.6, 0.6, False)),
    ((0.6,), 4, (None, 0.6, False)),
  ],
)
def test_the_best_step_must_be_better_than_all_before(
  parts, tmp_path, scores, step, expected
):
  store(tmp_path, *validations(parts, *scores))
  assert scheduled_evaluations.choose(parts, tmp_path, step) == expected


def test_a_collapsed_evaluation_is_not_the_best(parts, tmp_path):
  start, first, last = validations(parts, 0.183, 0.15, 0.2)
  last['collapsed'] = {'mean@2': {'answer': 'C', 'share': 1.0}}
  store(tmp_path, start, first, last)
  choice = scheduled_evaluations.choose(parts, tmp_path, 8)
  assert choice == (checkpoints.NOT_ELIGIBLE, 0.183, False)
  # The score is mean@2, so collapsed greedy answers have no effect.
  last['collapsed'] = {'greedy': last['collapsed']['mean@2']}
  store(tmp_path / 'other', start, first, last)
  choice = scheduled_evaluations.choose(parts, tmp_path / 'other', 8)
  assert choice == (0.2, 0.183, True)


def test_no_step_is_the_best_while_an_alarm_says_so(parts, tmp_path):
  store(tmp_path, *validations(parts, 0.6, 0.7, 0.8, 0.9))

  def alarm(step, event, **changes):
    row = {'step': step, 'event': event, 'name': 'one_answer', 'since': 6}
    return row | {'signal': 'solver/answer_share_max'} | changes

  alarms.append(
    tmp_path,
    [
      alarm(1, 'raised', name='unreadable', since=0),
      alarm(7, 'raised'),
      alarm(9, 'ended'),
    ],
  )
  choices = [
    scheduled_evaluations.choose(parts, tmp_path, step) for step in (4, 8, 12)
  ]
  assert choices == [
    (0.7, 0.6, True),
    (checkpoints.NOT_ELIGIBLE, 0.6, False),
    (0.9, 0.6, True),
  ]


def test_the_probe_chooses_the_best_step(parts, tmp_path):
  evaluation = dataclasses.replace(parts.config.evaluation, best_by='probe')
  config = dataclasses.replace(parts.config, evaluation=evaluation)
  parts = parts._replace(config=config)
  store(tmp_path, *validations(parts, 0.9, 0.1))  # ignored
  # One measurement every two steps.
  for step, score in enumerate((None, 0.2, None, 0.7, None, 0.4, None, 0.8)):
    row = {} if score is None else {'probe/information': score}
    metrics.append(tmp_path, step, row)
  choices = [
    scheduled_evaluations.choose(parts, tmp_path, step) for step in range(9)
  ]
  assert [choice.score for choice in choices] == [
    *[None, None, 0.2, None, 0.7, None, 0.4, None, 0.8]
  ]
  assert [s for s, choice in enumerate(choices) if choice.is_best] == [2, 4, 8]
  assert {choice.start for choice in choices} == {None}

  # An alarm holds in steps 3 and 4, and the run is rolled back after step 7.
  row = {'name': 'one_answer', 'signal': 'a', 'since': 3, 'action': 'not_best'}
  rollback = {'name': 'b', 'signal': 'b', 'since': 7, 'action': 'roll_back'}
  alarms.append(
    tmp_path,
    [
      row | {'step': 3, 'event': 'raised'},
      row | {'step': 5, 'event': 'ended'},
      rollback | {'step': 7, 'event': 'raised'},
    ],
  )
  choices = [
    scheduled_evaluations.choose(parts, tmp_path, step) for step in (4, 6, 8)
  ]
  assert choices == [
    (checkpoints.NOT_ELIGIBLE, None, False),
    (0.4, None, True),
    (None, None, False),
  ]


def test_any_eligible_score_is_better_than_a_collapsed_start(parts, tmp_path):
  start, last = validations(parts, 0.2, 0.1)
  start['collapsed'] = {'mean@2': {'answer': 'C', 'share': 1.0}}
  store(tmp_path, start, last)
  choice = scheduled_evaluations.choose(parts, tmp_path, 4)
  assert choice == (0.1, None, True)


def test_a_collapsed_evaluation_is_reported(parts, caplog):
  """There are five different true answers, and the solver gives only one."""
  rows = [
    {
      'answers': ['C'] * 3,
      'right': [true == 'C'] * 3,
      'true': true,
      'index': i,
    }
    for i, true in enumerate(TRUTHS)
  ]

  def finish(purpose):
    planned = evaluator.plan(parts, parts.sets(purpose), step=8, workdir=None)
    files = planned.files._replace(rows=rows)
    return evaluator._finish(planned._replace(files=files), 0.0)

  result = finish('validation')
  collapse = {'answer': 'C', 'share': 1.0, 'true_share': 0.2}
  assert result['collapsed'] == {'greedy': collapse, 'mean@2': collapse}
  assert any('after 8 steps: 100% of the sampled' in m for m in caplog.messages)
  # Only the validation set suggests a threshold.
  assert 'suggested_min_agreement' in result['reliability']
  assert 'suggested_min_agreement' not in finish('test')['reliability']


def test_the_summary_ignores_evaluations_with_other_settings(
  parts, tmp_path, capsys
):
  results = [
    make_result(parts, 'test', 0, 0.1),
    make_result(parts, 'test', 12, 0.3),
    make_result(parts, 'test', 12, 0.8, temperature=0.1),
    make_result(parts, 'test', 4, 0.7),  # --compare=0,best
    make_result(parts, 'test', 0, 0.05, temperature=0.1),
  ]
  store(tmp_path, results[3], *results)
  summary.show(parts, tmp_path, step=12, best=4)
  shown = capsys.readouterr().out
  assert '10.0% mean@2, 90.0% greedy on 3 questions (0 steps)' in shown
  assert '30.0% mean@2, 90.0% greedy on 3 questions (12 steps)' in shown
  assert '70.0%' not in shown
  assert 'checkpoints/4 (by its validation score)' in ' '.join(shown.split())
  # A run that was stopped has no evaluation of its last step.
  summary.show(parts, tmp_path, step=8, best=None)
  shown = capsys.readouterr().out
  assert 'before' in shown
  assert 'after  ' not in shown


def test_the_summary_explains_that_no_checkpoint_is_better_than_the_start(
  parts, tmp_path, capsys
):
  results = validations(parts, 0.637, 0.45, 0.41, 0.46)
  results[2]['collapsed'] = {'mean@2': {'answer': '7', 'share': 1.0}}
  store(tmp_path, *results)
  summary.show(parts, tmp_path, step=12, best=0)
  shown = ' '.join(capsys.readouterr().out.split())
  assert (
    'best the model before training (step 0): no checkpoint has a higher '
    'validation score than its 63.7% mean@2; the highest is 46.0% after 12 '
    'steps'
  ) in shown
  assert 'after 8 steps nearly all answers were the same' in shown


def test_the_initial_model_is_the_best_if_all_scores_are_lower(parts, tmp_path):
  directory = tmp_path / 'checkpoints'
  states = train_states.initial_states(parts)
  with checkpoints.open_checkpoints(directory, keep=2) as manager:
    for step, score in ((4, 0.45), (8, 0.41)):
      checkpoints.save(
        manager,
        step,
        states,
        host_state={},
        score=score,
        start_score=0.6,
        force=True,
      )
  best = saved_models.find(parts, tmp_path, 'best')
  assert best.step == 0
  assert 'no checkpoint has a higher validation score' in best.about
  assert saved_models.find(parts, tmp_path, 'latest').step == 8
  (tmp_path / 'none').mkdir()
  with pytest.raises(ValueError, match=r"'best': expected .* evaluation.every"):
    saved_models.find(parts, tmp_path / 'none', 'best')
