"""Several processes, started for real, play the run of one."""

import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from pyarrow import parquet

from configs import smoke
from sqlm_jax.config import schema as config_lib
from sqlm_jax.distributed import processes as processes_lib
from sqlm_jax.modes import train
from sqlm_jax.run import build, train_states
from sqlm_jax.workdir import checkpoints, jsonl, reviews, storage

ROOT = pathlib.Path(__file__).parents[2]
SMALL = {
  'random_model.num_layers': 1,
  # Most proposals end before the limit, and most groups have different answers.
  'task.proposer_stop': tuple('abcdefghijklmnopqrstuvwxyz0123456789'),
  'task.validation': (),
  'proposer.max_tokens': 16,
  'solver.max_tokens': 12,
  'solver.rewards.format': 0.5,
  'evaluation.samples': 1,
  'evaluation.every': 0,
  'checkpoint.every': 0,
}
# Many more steps than are played: the run is stopped.
TWO = SMALL | {'num_steps': 100_000, 'mesh.data': 1, 'mesh.fsdp': 2}
ONE_DEVICE = {'mesh.data': 1, 'mesh.fsdp': 1, 'mesh.tensor': 1}


def config_of(changes) -> config_lib.Config:
  c = smoke.get_config()
  c.update_from_flattened_dict(changes)
  return config_lib.from_dict(c.to_dict())


CONFIG_FILE = """
from configs import smoke

def get_config():
  c = smoke.get_config()
  c.update_from_flattened_dict({changes!r})
  return c
"""


def start(count, workdir, changes, *flags):
  """Starts `count` processes with one device each."""
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    address = f'127.0.0.1:{free.getsockname()[1]}'
  config = workdir.parent / 'config.py'
  config.write_text(CONFIG_FILE.format(changes=changes))
  return [
    subprocess.Popen(
      [
        *(sys.executable, '-m', 'sqlm_jax.main', f'--config={config}'),
        *(f'--workdir={workdir}', f'--coordinator_address={address}'),
        *(f'--num_processes={count}', f'--process_id={i}', *flags),
      ],
      cwd=ROOT,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
      env=os.environ | QUICK,
    )
    for i in range(count)
  ]


QUICK = {
  'JAX_PLATFORMS': 'cpu',
  'JAX_NUM_CPU_DEVICES': '1',
}


def finish(processes) -> list[str]:
  try:
    outputs = [p.communicate(timeout=600)[0] for p in processes]
  finally:
    for process in processes:
      process.kill()
  assert [p.returncode for p in processes] == [0] * len(processes), outputs
  return outputs


@pytest.fixture(scope='module')
def two(tmp_path_factory):
  """Returns a run of two processes that a signal to the second has stopped."""
  workdir = tmp_path_factory.mktemp('two') / 'run'
  processes = start(2, workdir, TWO)
  path = workdir / 'metrics.jsonl'
  deadline = time.monotonic() + 600
  while time.monotonic() < deadline and processes[0].poll() is None:
    if path.exists() and len(path.read_text().splitlines()) >= 2:
      break
    time.sleep(0.1)
  processes[1].send_signal(signal.SIGTERM)
  return workdir, finish(processes)


def rows_of(workdir):
  """Returns all rollout rows, in the order of a single process."""
  rows = parquet.read_table(workdir / 'rollouts').to_pylist()

  def place(row):
    return [row[k] for k in ('step', 'role', 'group', 'sample')]

  return sorted(rows, key=place)


def assert_same_numbers(found: dict, expected: dict):
  """Compares metrics, with floats up to rounding; ignores times."""
  assert found.keys() == expected.keys()
  for name, value in expected.items():
    if name.startswith(('time/', 'seconds')):
      continue
    if isinstance(value, float):
      value = pytest.approx(value, rel=1e-3, abs=1e-5)
    assert found[name] == value, name


def assert_same_run(found: pathlib.Path, expected: pathlib.Path, config):
  for name in ('metrics.jsonl', 'eval.jsonl'):
    paths = [path / name for path in (found, expected)]
    rows = [jsonl.read(path) for path in paths if path.exists()]
    for one, other in zip(*rows, strict=True):
      assert_same_numbers(one, other)
  metrics = jsonl.read(found / 'metrics.jsonl')
  for role in ('proposer', 'solver'):
    assert any(row.get(f'train/{role}/updates') for row in metrics)
  for one, other in zip(rows_of(found), rows_of(expected), strict=True):
    assert_same_numbers(one, other)
  states = [restored(workdir, config) for workdir in (found, expected)]
  for name in states[1]:
    jax.tree.map(
      # An update moves an entry by 1e-3, whatever its gradient.
      lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4),
      *(state[name].params for state in states),
    )


def restored(workdir, config):
  with checkpoints.open_checkpoints(
    workdir / 'checkpoints', read_only=True
  ) as manager:
    abstract = train_states.abstract_states(build.build(config))
    return checkpoints.restore(manager, abstract)[1]


def test_a_signal_to_one_stops_all_at_the_same_step(two):
  workdir, outputs = two
  steps = len(jsonl.read(workdir / 'metrics.jsonl'))
  assert f'Stopped and saved after {steps} of 100000 steps' in outputs[0]
  assert 'steps' not in outputs[1]  # only the first one reports
  saved = {path.name for path in (workdir / 'checkpoints').iterdir()}
  assert saved == {str(steps), 'run_id'}


def test_one_process_and_two_go_on_with_the_run_of_two(two, tmp_path):
  """The result equals the run of one process that was never stopped."""
  workdir = shutil.copytree(two[0], tmp_path / 'two')
  steps = len(jsonl.read(workdir / 'metrics.jsonl'))
  train.train(
    config_of(TWO | ONE_DEVICE | {'num_steps': steps + 1}), str(workdir)
  )
  # The run was evaluated at this end, too; the reference run is not.
  remove_evaluations(workdir, steps + 1)
  longer = TWO | {'num_steps': steps + 2}
  finish(start(2, workdir, longer))
  config = config_of(longer | ONE_DEVICE)
  train.train(config, str(tmp_path / 'one'))
  assert_same_run(workdir, tmp_path / 'one', config)

  # With other samples, no answer of the last evaluation can be reused.
  other = {'evaluation.samples': 2}
  outputs = finish(start(2, workdir, longer | other, '--mode=eval'))
  assert 'greedy' in outputs[0]
  assert 'greedy' not in outputs[1]
  finish(start(1, tmp_path / 'one', longer | other | ONE_DEVICE, '--mode=eval'))
  found, expected = (evaluations(path) for path in (workdir, tmp_path / 'one'))
  assert found == expected
  assert len(found) == 3  # before training, after it, and this evaluation


def evaluations(workdir):
  """Returns the answers of each evaluation, by its directory."""
  return {
    path.parent.name: jsonl.read(path)
    for path in workdir.glob('evaluations/*/answers.jsonl')
  }


def remove_evaluations(workdir, step):
  for path in workdir.glob(f'evaluations/{step:08d}-*'):
    shutil.rmtree(path)
  path = workdir / 'eval.jsonl'
  lines = path.read_text().splitlines(keepends=True)
  others = [line for line in lines if json.loads(line)['step'] != step]
  assert len(others) == len(lines) - 1
  path.write_text(''.join(others))


def test_a_workdir_that_is_taken_is_refused_to_both(tmp_path):
  """Otherwise the second process would wait for the first, which has ended."""
  workdir = tmp_path / 'run'
  with storage.locked(workdir):
    processes = start(2, workdir, TWO)
    try:
      outputs = [p.communicate(timeout=200)[0] for p in processes]
    finally:
      for process in processes:
        process.kill()
  assert [p.returncode for p in processes] == [1, 1], outputs
  for said in outputs:
    assert 'another run is writing to this directory' in said


# Exchanges values with the other process until one fails in the given way.
FAILS = """
import os, signal, sys
from sqlm_jax.distributed import processes

address, index, failing, how = sys.argv[1:]
processes.start(address, 2, int(index))
with processes.exit_on_error():
  processes.all_gather(index)
  if how == 'both':
    sys.exit(3)
  if index == failing:
    if how == 'kill':
      os.kill(os.getpid(), signal.SIGKILL)
    if how == 'abort':
      os.abort()
    sys.exit('this one has failed')
  while True:
    processes.all_gather(index)
"""


@pytest.mark.parametrize(
  'failing, how, codes',
  [
    (0, 'exit', {1}),
    (1, 'exit', {1}),
    (0, 'kill', {-signal.SIGKILL}),
    (1, 'kill', {-signal.SIGKILL}),
    (1, 'abort', {6}),
    (0, 'both', {3}),
  ],
)
def test_a_failed_process_ends_the_others(failing, how, codes):
  """They end with an exit code for schedulers, and not by SIGABRT."""
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    address = f'127.0.0.1:{free.getsockname()[1]}'
  processes = [
    subprocess.Popen(
      [sys.executable, '-c', FAILS, address, str(i), str(failing), how],
      cwd=ROOT,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
      env=os.environ | QUICK,
    )
    for i in range(2)
  ]
  try:
    outputs = [p.communicate(timeout=200)[0] for p in processes]
  finally:
    for process in processes:
      process.kill()
  found = [process.returncode for process in processes]
  assert found[failing] in codes, outputs
  if how == 'exit':
    assert 'this one has failed' in outputs[failing]
  if how == 'both':
    assert found == [3, 3]
  # 1 if its own collective failed first, 6 if jax reported the failure.
  assert found[1 - failing] in {1, 6} | codes - {-signal.SIGKILL}, outputs


@pytest.mark.parametrize(
  'error, code, said',
  [
    (SystemExit(), 0, ''),
    (SystemExit(75), 75, ''),
    (SystemExit('why'), 1, 'why\n'),
    (KeyboardInterrupt(), 130, 'KeyboardInterrupt\n'),
    (ValueError('why'), 1, 'ValueError: why\n'),
  ],
)
def test_an_error_ends_a_process_as_in_python(error, code, said, capsys):
  assert processes_lib._report(error) == code
  assert capsys.readouterr().err == said


def test_four_processes_play_the_run_of_one(tmp_path):
  """Each process has two of the eight questions, and one gate holds for all.

  So do the verdicts; the last process also grades the replayed questions.
  """
  four = TWO | {
    'mesh.fsdp': 4,
    'num_steps': 3,
    'gate.majority': True,
    'gate.repeats': 'history',
    'gate.leak': 0.3,
    'exclude.patterns': (('early', '[a-e]'),),
    'probe.every': 1,
    'probe.steps': 1,
    'probe.answers': 4,
    # Times differ between processes, but all of them decide alike.
    'alarms.rules': (('slow', 'time/step > 0', 1, 'not_best'),),
    'task.checker': 'tests.review.runs:zero',
    'review.by': 'checker',
    'review.budget': 2,
    'review.replay': 4,
    # Three of five prompts, which four devices cannot share equally.
    'anchor.questions': str(tmp_path / 'anchor.txt'),
    'anchor.prompts_per_update': 3,
  }
  (tmp_path / 'anchor.txt').write_text('1 2\n3 4\n5 6\n7 8\n9 0\n')
  finish(start(4, tmp_path / 'four', four))
  config = config_of(four | ONE_DEVICE)
  train.train(config, str(tmp_path / 'one'))
  assert_same_run(tmp_path / 'four', tmp_path / 'one', config)
  names = {
    name for row in jsonl.read(tmp_path / 'four/metrics.jsonl') for name in row
  }
  assert {'gate/early', 'exclude/answers/early', 'review/replayed'} <= names
  assert {'probe/flip_rate', 'alarm/slow'} <= names
  assert 'train/solver/anchor_kl' in names
  events = [
    [event | {'time': ''} for event in reviews.read(tmp_path / name)]
    for name in ('four', 'one')
  ]
  assert events[0] == events[1]
  assert events[0]


def test_a_group_is_read_by_one_process(two):
  workdir, _ = two
  files = sorted((workdir / 'rollouts').glob('*-of-*.parquet'))
  seen = {}
  for path in files:
    part = re.fullmatch(r'step_(\d{8})-(0000[01])-of-00002.parquet', path.name)
    rows = parquet.read_table(path).to_pylist()
    asked = {row['question'] for row in rows if row['role'] == 'proposer'}
    for row in rows:
      seen.setdefault((part[1], row['role'], row['group']), set()).add(part[2])
      # Answers stay in the process that parsed their question.
      assert row['question'] in asked
  assert all(len(processes) == 1 for processes in seen.values())
  assert {tuple(processes) for processes in seen.values()} == {
    ('00000',),
    ('00001',),
  }


@pytest.mark.parametrize('number', [0, 1, 2, 7, 8])
@pytest.mark.parametrize('count', [1, 2, 4])
def test_all_is_somebodys_own(monkeypatch, number, count):
  monkeypatch.setattr(processes_lib, 'count', lambda: count)
  shares = []
  for index in range(count):
    monkeypatch.setattr(processes_lib, 'index', lambda index=index: index)
    shares.append(processes_lib.local_share(number))
  assert [i for share in shares for i in share] == list(range(number))
  sizes = [len(share) for share in shares]
  assert max(sizes) - min(sizes) <= 1
  assert sizes[0] == max(sizes)


def test_what_fails_in_the_first_process_fails_in_all(monkeypatch):
  monkeypatch.setattr(processes_lib, 'count', lambda: 2)
  told = []
  monkeypatch.setattr(
    processes_lib, 'all_gather', lambda x: told.append(x) or told
  )

  def make():
    raise ValueError('no such thing')

  with pytest.raises(ValueError, match='no such thing'):
    processes_lib.broadcast_from_first(make)
  monkeypatch.setattr(processes_lib, 'is_first', lambda: False)
  with pytest.raises(RuntimeError, match='first process stopped: no such th'):
    processes_lib.broadcast_from_first(make)
