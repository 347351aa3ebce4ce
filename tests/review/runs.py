"""The files of a small run, written without training."""

import pathlib

from configs import smoke
from sqlm_jax.config import schema
from sqlm_jax.workdir import config_json, evaluations, run_writer

SCRIPT = '<script>alert(1)</script>'
# Right-to-left letters, and an override that would turn the rest of a page.
RIGHT_TO_LEFT = 'كم يساوي \u202e 7 + 8 ؟'
JAPANESE = '太郎はりんごを三個持っています。何個ですか？'
LONG = '9 + 9 ' + 'x' * 2**20
HALF_A_PAIR = 'half \ud800 a pair'

QUESTIONS = ('1 + 1', '2 + 2', SCRIPT, RIGHT_TO_LEFT, JAPANESE, '2 + 5', LONG)


def config(**changes) -> schema.Config:
  c = smoke.get_config()
  c.task.answer_kind = 'text'
  c.update_from_flattened_dict(changes)
  return schema.from_dict(c.to_dict())


def answers_of(question: str, index: int) -> list[str | None]:
  """Returns four answers; the first question is unanimous, the second tied."""
  if index == 1:
    return ['4', '4', '5', '5']
  if index == 2:
    return [SCRIPT] * 3 + [None]
  return [str(index)] * 4 if index == 0 else [str(index)] * 3 + ['other']


def rows_of(step: int, questions=QUESTIONS) -> list[dict]:
  rows = []

  def add(role, group, sample, **columns):
    rows.append(
      {
        'role': role,
        'group': group,
        'sample': sample,
        'seed': 0,
        'policy_step': step,
        'prompt': f'Prompt of step {step}',
        'response': 'a response',
        'finished': True,
        'num_tokens': 2,
        'logprob': -0.5,
        'trained_on': True,
      }
      | columns
    )

  for i, question in enumerate(questions):
    add('proposer', 0, i, question=question, reward=0.5, response=question)
  add('proposer', 0, len(questions), reward=-1.0, reason='format')
  for i, question in enumerate(questions):
    answers = answers_of(question, i)
    vote = None if i == 1 else answers[0]
    for j, answer in enumerate(answers):
      add(
        'solver',
        i,
        j,
        question=question,
        answer=answer,
        response=f'I say {answer} {SCRIPT}',
        vote=vote,
        vote_share=0.75 if vote else None,
        reward=float(answer == vote),
        reason='tie' if i == 1 else None,
      )
  return rows


def write_run(
  workdir: pathlib.Path, *, steps: int = 3, questions=QUESTIONS, **changes
) -> pathlib.Path:
  config_json.write(workdir, schema.to_dict(config(**changes)))
  writer = run_writer.RunWriter(workdir)
  for step in range(steps):
    writer.metrics(
      step,
      {'vote/agreement': 0.5 + step / 10, 'proposer/valid_rate': 0.9},
    )
    writer.rollouts(step, rows_of(step, questions))
  evaluations.append_result(
    workdir,
    {
      'step': 0,
      'set': 'test',
      'task': 'smoke',
      'greedy': 0.5,
      'intervals': {'greedy': [0.4, 0.6]},
    },
  )
  writer.close()
  return workdir


def zero(question: str) -> str:
  """Stands for a task's checker."""
  return '0'
