"""The files of small runs with evaluations, verdicts and alarms."""

import contextlib
import pathlib

from configs import smoke
from sqlm_jax.config import schema
from sqlm_jax.evaluation import accuracy, reliability
from sqlm_jax.game import verdicts
from sqlm_jax.workdir import (
  config_json,
  evaluations,
  jsonl,
  reviews,
  run_writer,
)
from tests.review import runs

FOOTER = {
  'config_sha256': 'c' * 64,
  'code_version': '0.1.0',
  'model': 'random',
  'model_sha256': 'random',
  'devices': '4',
  'device_kind': 'test chip',
}
HOSTILE = (
  runs.SCRIPT,
  runs.RIGHT_TO_LEFT,
  runs.JAPANESE,
  runs.HALF_A_PAIR,
  '"><img src=x onerror=alert(1)>\x00\x1b[2J',
  '[bold]{n}[/bold] {{ 7 * 7 }} $\\alpha$',
)
SAMPLES = 2


def row(role: str, group: int, sample: int, **columns) -> dict:
  return {
    'role': role,
    'group': group,
    'sample': sample,
    'seed': 0,
    'policy_step': 5,
    'prompt': 'Ask sums: ',
    'response': 'a response',
    'finished': True,
    'num_tokens': 2,
    'logprob': -0.5,
    'trained_on': True,
  } | columns


def rows_of(questions=('1 + 1', '2 + 2')) -> list[dict]:
  """Returns the rows of a step with two solved questions and one refused.

  Three of four answers to the first question agree, and they are right. All
  answers to the second question agree, and they are wrong. A third question
  is asked again.
  """
  first, second = questions
  rows = [
    row('proposer', 0, 0, question=first, topic='sums', reward=1.0),
    row('proposer', 0, 1, question=second, topic='sums', reward=0.0),
    row('proposer', 0, 2, reward=-1.0, reason='format', response='why?'),
  ]
  for i, (question, answers, rewards, advantages, right, columns) in enumerate(
    (
      (
        first,
        ('2', '2', '2', None),
        (1.0, 1.0, 1.0, 0.0),
        (0.25, 0.25, 0.25, -0.75),
        (True, True, True, False),
        {'vote': '2', 'vote_share': 0.75, 'topic': 'sums'},
      ),
      (
        second,
        ('5',) * 4,
        (1.0,) * 4,
        (0.0,) * 4,
        (False,) * 4,
        {'vote': '5', 'vote_share': 1.0, 'topic': 'sums'},
      ),
      (
        '3 + 3',
        ('6', '7', '7', '7'),
        (1.0, 0.0, 0.0, 0.0),
        (0.75, -0.25, -0.25, -0.25),
        (True, False, False, False),
        {'vote': '7', 'vote_share': 0.75, 'true_answer': '6'},
      ),
    )
  ):
    rows += [
      row(
        'solver',
        i,
        j,
        question=question,
        answer=answers[j],
        reward=rewards[j],
        advantage=advantages[j],
        right=right[j],
        **columns,
      )
      for j in range(4)
    ]
  return rows


def write_run(
  workdir: pathlib.Path,
  *,
  questions=('1 + 1', '2 + 2'),
  steps: int = 2,
  before: str = '',
  after: str = '',
  set_name: str = 'test',
  **changes,
) -> pathlib.Path:
  """Writes a run.

  Args:
    workdir: Its directory, which is created.
    questions: Two questions of each step.
    steps: Number of steps.
    before: '1' for each evaluation question that is answered correctly before
      training, otherwise '0'; '' for no evaluation.
    after: The same after training.
    set_name: Name of the evaluation set.
    **changes: Values of config keys.
  """
  c = smoke.get_config()
  c.num_steps = steps
  c.evaluation.samples = SAMPLES
  c.update_from_flattened_dict(changes)
  config = schema.to_dict(schema.from_dict(c.to_dict()))
  config_json.write(workdir, config)
  writer = run_writer.RunWriter(workdir, footer=FOOTER)
  for step in range(steps):
    writer.metrics(
      step,
      {
        'time/step': 1800.0,
        'vote/agreement': 0.5,
        'train/solver/loss': 0.25,
        'exclude/answers/mail': 2.0,
        'proposer/contaminated_rate': 0.5,
      },
    )
    writer.rollouts(step, rows_of(questions))
  writer.close()
  for step, right in ((0, before), (steps, after)):
    if right:
      evaluate(workdir, step, right, set_name=set_name)
  return workdir


def evaluate(
  workdir: pathlib.Path,
  step: int,
  right: str,
  *,
  set_name: str = 'test',
  wrong: str = '0',
  seconds: float = 900.0,
) -> None:
  """Writes an evaluation with one greedy and two sampled answers."""
  settings = {
    'step': step,
    'set': set_name,
    'origin': f'task.{set_name}',
    'samples': SAMPLES,
    'answer_kind': 'text',
  }
  files = evaluations.find_files(workdir, settings)
  with contextlib.ExitStack() as stack:
    evaluations.start(files, stack)
    rows = []
    for i, mark in enumerate(right):
      answer = str(i) if mark == '1' else wrong
      rows.append(
        {
          'index': i,
          'question': f'{i} + 0',
          'true': str(i),
          'responses': [f'I say {answer}'] * 3,
          'answers': [answer] * 3,
          'right': [mark == '1'] * 3,
        }
      )
    evaluations.append_answers(files, rows)
  summary = accuracy.summarize(rows, SAMPLES)
  evaluations.append_result(
    workdir,
    {
      'step': step,
      'set': set_name,
      'questions': len(rows),
      'settings': settings,
      'seconds': seconds,
      'intervals': {n: [x['low'], x['high']] for n, x in summary.items()},
      'reliability': reliability.measure(rows, samples=SAMPLES, target=0.9),
    }
    | {name: figure['value'] for name, figure in summary.items()},
  )


def add_verdict(workdir: pathlib.Path, question: str, kind: str, **entries):
  event = {
    'time': '2026-12-01T09:30:00Z',
    'reviewer': 'ann',
    'step': 0,
    'question': question,
    'id': verdicts.question_id(question),
    'vote': '2',
    'verdict': kind,
    'pick': verdicts.RANDOM,
  }
  reviews.append(workdir, [event | entries])


def add_alarm(
  workdir: pathlib.Path, action: str, event: str = 'raised'
) -> None:
  jsonl.append(
    run_writer.epath.Path(workdir) / 'alarms.jsonl',
    [
      {
        'step': 1,
        'name': 'one_answer',
        'event': event,
        'signal': 'solver/answer_share_max',
        'value': 0.97,
        'since': 0,
        'action': action,
        'detail': '',
      }
    ],
  )
