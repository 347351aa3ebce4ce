"""Tests of verdicts in training: read, obeyed, and the same after a crash."""

import json
import operator
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import types as simple

import jax
import numpy as np
import pytest

from configs import smoke
from sqlm_jax.config import schema
from sqlm_jax.game import repetition, verdicts
from sqlm_jax.modes import train
from sqlm_jax.reporting import why
from sqlm_jax.run import build, reviewing, train_states
from sqlm_jax.workdir import (
  checkpoints,
  jsonl,
  metrics,
  reviews,
  rollouts,
  run_reader,
  run_writer,
)

ROOT = pathlib.Path(__file__).parent.parent.parent
QUESTIONS = ('1+', '2+', '3+', '4+', '5+', '6+', '7+', '8+')


def event(question, verdict, **changes):
  return {
    'reviewer': 'ann',
    'id': verdicts.question_id(question),
    'question': question,
    'vote': '1',
    'verdict': verdict,
  } | changes


def read(workdir, step, previous=verdicts.NONE, **changes):
  return reviewing.read(workdir, step, previous, **changes)


def test_a_repeated_step_reads_the_same_lines(tmp_path):
  known = read(tmp_path, 0)
  assert known == verdicts.NONE
  reviews.append(tmp_path, [event('1+', 'accept')])
  at_3 = read(tmp_path, 3, known)
  assert at_3.answered() == ['1+']
  reviews.append(tmp_path, [event('2+', 'accept')])
  # After a crash, steps 2 and 3 are played again.
  assert read(tmp_path, 2) == verdicts.NONE
  assert read(tmp_path, 3) == at_3
  at_4 = read(tmp_path, 4)
  assert at_4.answered() == ['1+', '2+']
  assert read(tmp_path, 5, at_4) is at_4
  assert reviews.read_counts(tmp_path) == [(3, 1), (4, 2)]


def test_a_verdict_after_a_crash_does_not_change_steps_before_it(tmp_path):
  """Steps 2 and 3 were played without verdicts, and are played again."""
  writer = run_writer.RunWriter(tmp_path)
  for step in range(4):
    writer.metrics(step, {'solver/reward': 0.5})
  reviews.append(tmp_path, [event('1+', 'accept')])
  memory = reviewing.resume(tmp_path, 2, repetition.Memory())
  assert memory.verdicts == verdicts.NONE
  writer.rewind(2)
  reviewing.resume(tmp_path, 2, memory)  # killed again at once
  assert [read(tmp_path, step).num_lines for step in (2, 3, 4)] == [0, 0, 1]
  assert metrics.last_step(tmp_path) == 1
  writer.close()


def test_lost_lines_are_reported(tmp_path):
  reviews.append(tmp_path, [event('1+', 'accept'), event('2+', 'accept')])
  read(tmp_path, 0)
  path = tmp_path / reviews.NAME
  path.write_text(path.read_text().splitlines(keepends=True)[0])
  message = r'reviews.jsonl: expected at least 2 lines, .* there are 1'
  with pytest.raises(ValueError, match=message):
    read(tmp_path, 0)
  with pytest.raises(ValueError, match=message):
    reviewing.resume(tmp_path, 1, repetition.Memory(), 2)


def test_a_half_written_line_waits_until_it_is_complete(tmp_path):
  with (tmp_path / reviews.NAME).open('ab') as file:
    file.write(b'{"verdict": "acc')
  assert read(tmp_path, 0).num_lines == 0
  reviews.append(tmp_path, [event('1+', 'accept')])
  known = read(tmp_path, 1)
  assert known.num_lines == 2
  assert known.answered() == ['1+']


def test_a_step_waits_for_people(tmp_path, monkeypatch):
  waited = []

  def sleep(seconds):
    waited.append(seconds)
    question = QUESTIONS[len(waited)]
    reviews.append(tmp_path, [event(question, 'accept'), event('8+', 'skip')])

  monkeypatch.setattr(reviewing.time, 'sleep', sleep)
  assert read(tmp_path, 0, wait=2).num_lines == 0  # nothing to decide yet
  assert not waited
  known = read(tmp_path, 1, wait=2)
  assert len(known.by_id) == 2
  assert len(waited) == 2
  assert read(tmp_path, 1, wait=2) == known  # repeated without waiting
  assert len(waited) == 2
  # A signal ends it, and the step waits again after a restart.
  assert read(tmp_path, 2, known, wait=2, stopped=lambda: True) == known
  read(tmp_path, 2, known, wait=1)
  assert len(waited) == 3


CHECKER = """
def last_digit(question):
  return question[0]
"""


@pytest.fixture(scope='module')
def changes(tmp_path_factory):
  directory = tmp_path_factory.mktemp('module')
  (directory / 'review_checker.py').write_text(CHECKER)
  (directory / 'questions.txt').write_text('\n'.join(QUESTIONS))
  with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(directory))
    yield {
      'mesh.data': 1,
      'random_model.num_layers': 1,
      'task.questions': str(directory / 'questions.txt'),
      'task.checker': 'review_checker:last_digit',
      'task.test': (),
      'task.validation': (),
      'evaluation.every': 0,
      'optimizer.solver_updates': 1,
    }


def make_config(changes, **others) -> schema.Config:
  c = smoke.get_config()
  c.update_from_flattened_dict(changes | others)
  return schema.from_dict(c.to_dict())


def states_of(config, workdir):
  with checkpoints.open_checkpoints(
    workdir / 'checkpoints', read_only=True
  ) as manager:
    abstract = train_states.abstract_states(build.build(config))
    return checkpoints.restore(manager, abstract)


def without_times(workdir):
  return [
    {k: v for k, v in row.items() if not k.startswith('time/')}
    for row in jsonl.read(workdir / 'metrics.jsonl')
  ]


def assert_same(config, first, second):
  assert without_times(first) == without_times(second)
  states = [states_of(config, workdir)[1] for workdir in (first, second)]
  jax.tree.map(np.testing.assert_array_equal, *states)


def test_the_next_step_obeys_and_a_killed_run_is_exact(changes, tmp_path):
  """The killed run loses a checkpoint after a person has decided."""
  changes = changes | {'review.replay': 2}
  for name in ('stopped', 'killed'):
    workdir = tmp_path / name
    train.train(make_config(changes, num_steps=3), str(workdir))
    if name == 'killed':
      shutil.rmtree(workdir / 'checkpoints' / '3')
      with (workdir / reviews.NAME).open('ab') as file:
        file.write(b'{"verdict": "exclude", "ques')  # killed, too
    reviews.append(
      workdir,
      [event('1+', 'correct', answer='7'), event('2+', 'exclude')],
    )
    config = make_config(changes, num_steps=4)
    train.train(config, str(workdir))
  assert_same(config, tmp_path / 'stopped', tmp_path / 'killed')
  _, _, host = states_of(config, tmp_path / 'killed')
  assert host['review_lines'] == 3
  rows = run_reader.rollouts(tmp_path / 'killed', [2, 3]).to_pylist()
  by_step = [
    {row['question'] for row in rows if row['step'] == step} for step in (2, 3)
  ]
  assert by_step == [set(QUESTIONS), set(QUESTIONS) - {'2+'}]
  first = [r for r in rows if r['step'] == 3 and r['question'] == '1+']
  assert len(first) == 16  # asked, and asked again
  for row in rows:
    is_labeled = row in first
    assert row['true_answer'] == ('7' if is_labeled else None)
    if is_labeled:
      assert row['reward'] == float(row['answer'] == '7')
      assert row['reason'] is None
  last = without_times(tmp_path / 'killed')[-1]
  assert last['gate/excluded'] == 1
  assert last['review/labeled'] == 2
  assert last['review/replayed'] == 1
  assert last['review/questions'] == 2


def test_the_simulated_reviewer_sees_all_forms_of_a_question(tmp_path):
  """Two forms of a question, with its options in two orders, are one vote."""
  c = smoke.get_config()
  c.update_from_flattened_dict(
    {
      'task.answer_kind': 'choice',
      'task.options': ('no', 'yes'),
      'task.shuffle_options': True,
      'task.solver_prompt': '{text_A}/{text_B} {question} ',
      'task.equivalent_forms': 'my_functions:forms',
      'task.num_forms': 2,
      'task.checker': 'my_functions:check',
      'task.test': (),
      'task.validation': (),
      'solver.group_size': 4,
      'review.by': 'checker',
      'review.budget': 4,
      'review.pick': 'views',
    }
  )
  task = simple.SimpleNamespace(
    true_answer=lambda question: 'B',
    parse_answer=lambda text: text,
    is_true=operator.eq,
  )
  parts = simple.SimpleNamespace(config=schema.from_dict(c), task=task)
  shared = {'role': 'solver', 'question': '1+', 'vote': 'B', 'reason': None}
  rows = [
    shared | {'group': group, 'answer': answer}
    for group, answer in enumerate('BBAB')
  ]
  reviewing.simulate(parts, tmp_path, 0, rows, verdicts.NONE)
  (stored,) = reviews.read(tmp_path)
  assert (stored['question'], stored['verdict']) == ('1+', 'accept')
  # Other readers of a run have only its stored config.
  stored = json.loads(json.dumps(schema.to_dict(parts.config)))
  stored['task']['of_another_version'] = 1
  assert schema.stored_num_prompts(stored) == 4
  (asked,) = why.questions_of(
    [
      dict.fromkeys(rollouts.SCHEMA.names, None) | row | {'trained_on': False}
      for row in rows
    ],
    config=stored,
  )
  assert [(a.answer, a.count) for a in asked.answers] == [('B', 3), ('A', 1)]


def start(changes, workdir, num_steps):
  """Starts a run in a process of its own."""
  values = changes | {'num_steps': num_steps}
  flags = [f'--config.{name}={value}' for name, value in values.items()]
  return subprocess.Popen(
    [
      *(sys.executable, '-m', 'sqlm_jax.main', '--config=configs/smoke.py'),
      *(f'--workdir={workdir}', *flags),
    ],
    cwd=ROOT,
    stdout=subprocess.DEVNULL,
  )


def test_a_killed_run_can_be_repeated_from_its_files(changes, tmp_path):
  """SIGKILL between a verdict and the checkpoint after its effect.

  Whenever the verdicts came, the same run can be played again from the start
  with reviews.jsonl and reviews_read.jsonl.
  """
  changes = changes | {
    'task.checker': 'none',
    'review.replay': 2,
    'checkpoint.every': 1000,
  }
  killed, repeated = tmp_path / 'killed', tmp_path / 'repeated'
  process = start(changes, killed, 100_000)
  end = time.monotonic() + 120
  for question, kind in (('1+', 'correct'), ('2+', 'exclude')):
    num_read = len(reviews.read_counts(killed))
    steps = len(run_reader.metrics(killed))
    while len(run_reader.metrics(killed)) < steps + 2:
      assert process.poll() is None
      assert time.monotonic() < end
      time.sleep(0.02)
    reviews.append(killed, [event(question, kind, answer='7')])
    while len(reviews.read_counts(killed)) == num_read:
      assert time.monotonic() < end
      time.sleep(0.001)
  process.send_signal(signal.SIGKILL)
  process.wait()
  with (killed / reviews.NAME).open('ab') as file:
    file.write(b'{"verdict": "exclude", "id"')
  (_, first), (last_step, last) = reviews.read_counts(killed)
  assert (first, last) == (1, 2)
  num_steps = last_step + 2
  assert start(changes, killed, num_steps).wait(120) == 0
  repeated.mkdir()
  for name in (reviews.NAME, 'reviews_read.jsonl'):
    shutil.copy(killed / name, repeated / name)
  assert start(changes, repeated, num_steps).wait(120) == 0
  assert_same(make_config(changes), killed, repeated)
  rows = run_reader.rollouts(killed, [last_step - 1, last_step]).to_pylist()
  excluded = {row['step'] for row in rows if row['question'] == '2+'}
  assert excluded == {last_step - 1}


def test_the_simulated_reviewer_is_exact_after_a_crash(changes, tmp_path):
  changes = changes | {
    'review.by': 'checker',
    'review.budget': 2,
    'review.replay': 1,
    'checkpoint.every': 2,
  }
  config = make_config(changes)
  train.train(config, str(tmp_path / 'whole'))
  train.train(make_config(changes, num_steps=3), str(tmp_path / 'killed'))
  shutil.rmtree(tmp_path / 'killed' / 'checkpoints' / '3')
  # Killed in the middle of writing the second verdict of step 2.
  path = tmp_path / 'killed' / reviews.NAME
  path.write_bytes(path.read_bytes()[:-9])
  train.train(config, str(tmp_path / 'killed'))
  whole, killed = (
    [
      {name: value for name, value in e.items() if name != 'time'}
      for e in reviews.read(tmp_path / name)
      if e is not None
    ]
    for name in ('whole', 'killed')
  )
  assert whole == killed
  assert len({e['id'] for e in whole}) == len(whole) == 8
  assert [e['step'] for e in whole] == [0, 0, 1, 1, 2, 2, 3, 3]
  for e in whole:
    true = e['answer'] if e['verdict'] == 'correct' else e['vote']
    assert true == e['question'][0]
  assert_same(config, tmp_path / 'whole', tmp_path / 'killed')
