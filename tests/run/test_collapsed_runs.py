"""Tests that runs that collapse raise the right alarm, and healthy ones none.

The questions and answers are scripted; the metrics are those of real steps.
"""

import types as simple

import numpy as np
import pytest

from sqlm_jax.config import alarms_schema
from sqlm_jax.config import schema as config_lib
from sqlm_jax.engine import groups
from sqlm_jax.game import gate, repetition, types, vote
from sqlm_jax.run import alarm_rules
from sqlm_jax.selfplay import responses, signals, step_metrics, step_types
from sqlm_jax.tasks import prompted

NUM_QUESTIONS, NUM_ANSWERS = 8, 4
CHANGES_AT = 3  # step at which the run starts to collapse


def make_game(**task):
  config = config_lib.from_dict(
    {
      'task': {
        'name': 'test',
        'topics': ('x',),
        'proposer_prompt': '{topic}',
        'solver_prompt': '{question}',
      }
      | task,
      'proposer': {'num_questions': NUM_QUESTIONS, 'group_size': NUM_QUESTIONS},
      'optimizer': {'solver_updates': 1, 'proposer_updates': 1},
    }
  )
  return simple.SimpleNamespace(
    config=config,
    task=prompted.make_task(config.task, num_topics=1),
    gate=gate.Gate(),
    skill=None,
  )


def rollout_of(lengths_QG):
  """Returns a rollout of which only the lengths matter."""
  zeros_QGR = np.zeros((*lengths_QG.shape, 8), np.float32)
  return groups.Rollout(
    zeros_QGR, zeros_QGR, zeros_QGR, lengths_QG, np.ones_like(lengths_QG, bool)
  )


def play(game, script, num_steps=8):
  """Returns the first step of each alarm that is raised.

  Args:
    game: the game.
    script: `step, index -> question, answers, tokens of each answer`.
    num_steps: number of steps.
  """
  memory, history = repetition.Memory(100), signals.History()
  state, raised = alarm_rules.State(), {}
  rules = alarm_rules.make_rules(alarms_schema.Alarms())
  for step in range(num_steps):
    questions, lengths = [], []
    for index in range(NUM_QUESTIONS):
      text, answers, tokens = script(step, index)
      problem = types.Problem(text)
      questions.append(
        types.ScoredQuestion(problem, answers, vote=vote.majority(answers))
      )
      lengths.append([tokens] * NUM_ANSWERS)
    rollout = rollout_of(np.array(lengths))
    solutions = responses.Responses([[0]] * NUM_QUESTIONS, rollout, [])
    game_round = step_types.Round(None, solutions, None, questions, {})
    metrics = step_metrics.of_questions(questions, game.task)
    metrics |= step_metrics.of_responses('solver', solutions)
    metrics |= signals.of_step([game_round], game)
    outcome = step_types.Outcome([game_round], (), frozenset(), metrics)
    trends, history = signals.since_start(step, outcome, history, memory, game)
    memory = memory.add(question.problem.text for question in questions)
    state, events = alarm_rules.check(
      rules, state, step=step, metrics=metrics | trends
    )
    for event in events:
      raised.setdefault(event.name, event.step)
  return raised


def sums(step, index):
  """Returns a question of a healthy run: three of four answers are right."""
  a, b = divmod(NUM_QUESTIONS * step + index, 10)
  return f'{a} + {b}', (a + b, a + b, a + b, a), 4


def test_a_healthy_run_raises_no_alarm():
  assert play(make_game(), sums, num_steps=12) == {}


def test_one_answer_to_all_questions():
  """A wrong constant is rewarded, until all answers are this constant."""

  def script(step, index):
    question, answers, tokens = sums(step, index)
    return question, (7,) * 4 if step >= CHANGES_AT else answers, tokens

  assert play(make_game(), script) == {'one_answer': CHANGES_AT + 1}


def test_one_question_again_and_again():
  def script(step, index):
    return sums(0, 0) if step >= CHANGES_AT else sums(step, index)

  raised = play(make_game(), script)
  assert raised['few_questions'] == CHANGES_AT + 1
  assert raised['old_questions'] == CHANGES_AT + 4


def test_one_option_for_all_questions():
  options = ('heat', 'wear', 'dust', 'a leak')
  letters = 'ABCD'

  def script(step, index):
    question, _, tokens = sums(step, index)
    right, other = letters[index % 4], letters[(index + step) % 4]
    answers = (right, right, right, other)
    return question, ('C',) * 4 if step >= CHANGES_AT else answers, tokens

  game = make_game(answer_kind='choice', options=options)
  raised = play(game, script)
  assert raised == dict.fromkeys(('one_answer', 'one_option'), CHANGES_AT + 1)


@pytest.mark.parametrize('tokens, is_raised', [(1, True), (2, False)])
def test_answers_that_shorten(tokens, is_raised):
  def script(step, index):
    question, answers, first_tokens = sums(step, index)
    return question, answers, tokens if step >= CHANGES_AT else first_tokens

  raised = play(make_game(), script)
  assert raised == ({'short_answers': CHANGES_AT + 1} if is_raised else {})
