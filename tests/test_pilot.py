"""Tests of --mode=pilot with a tiny model."""

import json

import pytest

from configs import smoke
from sqlm_jax.config import schema as config_lib
from sqlm_jax.evaluation import pilot_report
from sqlm_jax.game import types
from sqlm_jax.modes import pilot, train
from sqlm_jax.run import build

QUESTION = types.Problem('1 + 2')


def make_config(**changes) -> config_lib.Config:
  c = smoke.get_config()
  c.update_from_flattened_dict(
    {
      'mesh.data': 1,
      'random_model.num_layers': 1,
      'proposer.num_questions': 4,
      'proposer.group_size': 4,
      'proposer.max_tokens': 8,
      'solver.max_tokens': 4,
      'solver.group_size': 4,
      **changes,
    }
  )
  return config_lib.from_dict(c.to_dict())


def test_a_pilot_writes_its_figures_and_a_run_may_follow(tmp_path, capsys):
  workdir = tmp_path / 'run'
  config = make_config(num_steps=1)
  result = pilot.pilot(config, str(workdir))
  shown = capsys.readouterr().out
  assert [path.name for path in workdir.iterdir()] == ['pilot.json']
  stored = json.loads((workdir / 'pilot.json').read_text())
  assert stored == json.loads(json.dumps(result))
  # The random model's questions are noise.
  assert stored['verdict']['decision'] == 'do not train'
  assert 'do not train, because' in shown
  assert stored['questions']['total'] == 4
  assert stored['votes']['questions'] == len(config.task.validation)
  cost = stored['cost']
  assert 0 < cost['fastest_step_seconds'] <= cost['first_step_seconds']
  assert cost['first_step_seconds'] <= cost['run_seconds']
  assert cost['peak_memory_bytes'] > 2**20
  # The file is not in the way of a run.
  train.train(make_config(num_steps=0), str(workdir))
  assert {'pilot.json', 'config.json'} <= {x.name for x in workdir.iterdir()}


def scored(text, answer=None, count=0, *, ok=True, reason='', rewards=()):
  return types.ScoredQuestion(
    QUESTION._replace(text=text, ok=ok, reason=reason),
    vote=types.Vote(answer, count, 4) if ok else None,
    solver_rewards=rewards,
  )


def test_figures_of_questions_worked_by_hand():
  questions = [
    scored('1 + 1', 2, 4, rewards=(1, 1, 1, 1)),
    scored('1 + 2', 3, 3, rewards=(1, 1, 1, 0)),
    scored('1 + 2', 3, 2, rewards=(1, 1, 0, 0)),
    scored('2 + 1', 3, 2, rewards=(1, 0, 1, 0)),
    scored('0 + 3', 3, 4, rewards=(1, 1, 1, 1)),
    scored('9 + 9', rewards=(0, 0, 0, 0)),
    scored('?', ok=False, reason='format'),
    scored('!', ok=False, reason='format'),
  ]
  figures = pilot.measure_questions(
    questions, {'vote/agreement': 0.75}, band=(0.5, 0.75)
  )
  assert figures.total == 8
  assert figures.readable == 6 / 8
  assert figures.reasons == {'format': 2}
  assert figures.in_band == 3 / 6
  assert figures.learnable == 3 / 6
  assert figures.agreement == 0.75
  # Of four different questions with a majority, three have the vote 3.
  assert (figures.top_answer, figures.top_share) == ('3', 3 / 4)


def test_questions_are_shown_with_their_votes():
  asked = pilot.describe_questions(
    [
      scored('1 + 2', 3, 2, rewards=(1, 1, 0, 0)),
      scored('Good\nmorning', ok=False, reason='format'),
      scored('9 + 9', rewards=(0, 0, 0, 0)),
    ]
  )
  assert asked[0] == {
    'question': '1 + 2',
    'refused': None,
    'vote': '3',
    'agreement': 0.5,
  }
  assert pilot_report.examples(asked) == {
    'question 1': '`1 + 2`  ->  `3`, 50% agree',
    'question 2': '`9 + 9`  ->  no majority',
    'refused 1': '`Good morning`  (format)',
  }
  assert pilot_report.examples([]) == {}


def test_the_most_common_vote_of_few_questions_says_nothing():
  questions = [scored(f'1 + {i}', 3, 4) for i in range(3)]
  figures = pilot.measure_questions(questions, {}, band=(0.3, 0.8))
  assert figures.top_answer is None


@pytest.mark.parametrize(
  'every, answers',
  [
    # Test and validation before and after, each with 5 answers.
    (0, 5 * (2 * 3 + 2 * 2)),
    # Also validation after steps 2, 4 and 6.
    (2, 5 * (2 * 3 + 5 * 2)),
  ],
)
def test_evaluations_are_part_of_the_time(every, answers):
  config = make_config(num_steps=7, **{'evaluation.every': every})
  assert pilot.num_evaluation_answers(build.build(config)) == answers
