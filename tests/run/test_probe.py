"""Tests of the probe, with scripted responses."""

import json

import pytest

from configs import smoke
from sqlm_jax.config import alarms_schema
from sqlm_jax.config import schema as config_lib
from sqlm_jax.game import types
from sqlm_jax.run import build, probe
from sqlm_jax.selfplay import responses, step_types

CONFIG = alarms_schema.Probe(every=3, questions=2, answers=4, steps=2)


def test_the_set_is_drawn_from_the_questions_of_the_first_steps():
  state = probe.collect(probe.State(), ['1 + 1', '1 + 1'], CONFIG, step=0)
  assert state == probe.State(('1 + 1',))
  state = probe.collect(state, ['1 + 2', 'why?', '1 + 1'], CONFIG, step=1)
  # The question that is least like the first one is taken.
  assert state == probe.State((), ('1 + 1', 'why?'))


def test_the_set_waits_for_readable_questions():
  state = probe.State()
  for step in range(3):
    state = probe.collect(state, [], CONFIG, step=step)
    assert state == probe.State()
    assert not probe.is_due(state, CONFIG, step + 1)
  state = probe.collect(state, ['1 + 1'], CONFIG, step=3)
  assert state == probe.State((), ('1 + 1',))
  # The first measurement is not delayed to a multiple of three steps.
  assert probe.is_due(state, CONFIG, 4)
  state = state._replace(results=(probe.Result(None, 0),))
  due = [step for step in range(5, 12) if probe.is_due(state, CONFIG, step)]
  assert due == [5, 8, 11]


@pytest.fixture(scope='module')
def parts():
  c = smoke.get_config()
  c.mesh.data = 1
  c.task.checker = 'arithmetic'
  c.task.answer_pattern = r'\d+'
  c.probe.every, c.probe.answers = 1, 10
  c.evaluation.batch_questions = 2
  return build.build(config_lib.from_dict(c))


def test_a_question_that_is_asked_again_is_not_in_the_set(parts):
  questions = [
    types.ScoredQuestion(types.Problem('1 + 1')),
    types.ScoredQuestion(types.Problem('2 + 2', replayed=True)),
  ]
  rounds = [step_types.Round(None, None, None, questions, {})]
  state, _ = probe.after_step(
    parts,
    probe.State(),
    step=0,
    outcome=step_types.Outcome(rounds, (), frozenset(), {}),
    params=lambda: None,
  )
  assert state == probe.State(('1 + 1',))


def measure(parts, state, texts, monkeypatch, step=1):
  """Measures the probe, whose answers are `texts` by question."""
  first_rows = []

  def sample(sampler, params, prompts, *, first_row, local_rows, **_):
    del sampler, params, local_rows
    first_rows.append(first_row)
    rows = slice(first_row, first_row + len(prompts))
    return responses.Responses(prompts, None, texts[rows])

  monkeypatch.setattr(responses, 'sample', sample)
  state, metrics = probe.measure(parts, None, state, step=step)
  assert first_rows == [0, 2]
  stored = json.loads(json.dumps(state._asdict()))
  assert probe.from_host(stored) == state
  return state, metrics


def answers(text):
  """Returns ten responses; a hyphen is unparsed."""
  return ['?' if x == '-' else f'It is {x}.' for x in text]


def test_votes_are_compared_with_the_last_measurement(parts, monkeypatch):
  state = probe.State((), ('1 + 1', '2 + 2', '3 + 3', 'why?'))
  measurements = [
    ('2222222222', '4444433333', '7777777776', '----------'),
    ('2222222223', '4444443333', '6666666666', '11111-----'),
    ('222222222-', '4444443333', '6666666666', '----------'),
    ('2222222222', '3333333344', '6666666666', '----------'),
  ]
  found = []
  for texts in measurements:
    texts = list(map(answers, texts))
    state, metrics = measure(parts, state, texts, monkeypatch)
    found.append(metrics)
  agreements = [
    (1.0, 0.5, 0.9, 0.0),
    (0.9, 0.6, 1.0, 0.5),
    (0.9, 0.6, 1.0, 0.0),
    (1.0, 0.8, 1.0, 0.0),
  ]
  assert [m['probe/agreement'] for m in found] == pytest.approx(
    [sum(row) / 4 for row in agreements]
  )
  # From a tie to 4, from 7 to 6, from nothing to 1; back; from 4 to 3.
  assert [m.get('probe/flip_rate') for m in found] == [
    None,
    3 / 4,
    1 / 4,
    1 / 4,
  ]
  # The first question is locked in the third measurement. The third question
  # is locked in the third measurement with its new majority.
  assert [m['probe/locked_rate'] for m in found] == [0, 0, 1 / 4, 2 / 4]
  # Of 45 pairs of answers to the questions, 45, 2 x 10, 36 and 0 agree, and no
  # answers to different questions do.
  assert found[0]['probe/information'] == pytest.approx(101 / 45 / 4)
  # The checker knows the answers to three questions.
  assert [m['probe/accuracy'] for m in found] == pytest.approx(
    [1 / 3, 1, 1, 2 / 3]
  )


def test_metrics_need_no_checker(parts, monkeypatch):
  task = parts.task._replace(true_answer=lambda question: None)
  state = probe.State((), ('a?', 'b?', 'c?'))
  _, metrics = measure(
    parts._replace(task=task), state, [answers('1111111111')] * 3, monkeypatch
  )
  assert metrics == {
    'probe/agreement': 1.0,
    'probe/information': 0.0,  # all questions have the same answer
    'probe/locked_rate': 0.0,
  }
