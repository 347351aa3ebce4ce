"""Tests of the files of a run: metrics, curves, and resuming after a kill."""

import contextlib
import io
import math
import os
import pathlib
import struct
import subprocess
import sys

import numpy as np
import pytest
from etils import epath
from pyarrow import parquet
from tensorboardX import record_writer
from tensorboardX.proto import event_pb2

from sqlm_jax.workdir import (
  config_json,
  evaluations,
  jsonl,
  rollouts,
  run_writer,
  storage,
)
from tests import buckets

ROOT = pathlib.Path(__file__).parents[2]
ROW = {
  'role': 'solver',
  'group': 3,
  'sample': 1,
  'seed': 0,
  'policy_step': 7,
  'prompt': 'Q: 7 + 8\nA: ',
  'response': '15\n',
  'finished': True,
  'num_tokens': 2,
  'logprob': -0.5,
  'trained_on': True,
}


def lines(path):
  return path.read_text().splitlines()


def curves(workdir) -> dict[str, dict[int, float]]:
  """Reads TensorBoard's points by name and step, without purged points."""
  points = {}
  for path in sorted((workdir / 'tensorboard').iterdir()):
    data = path.read_bytes()
    while data:
      (size,) = struct.unpack('<Q', data[:8])
      event = event_pb2.Event.FromString(data[12 : 12 + size])
      data = data[16 + size :]
      if event.session_log.status == event_pb2.SessionLog.START:
        for curve in points.values():
          for step in [s for s in curve if s >= event.step]:
            del curve[step]
      for value in event.summary.value:
        points.setdefault(value.tag, {})[event.step] = value.simple_value
  return points


@pytest.fixture
def writer(tmp_path):
  writer = run_writer.RunWriter(tmp_path / 'runs' / 'one')
  yield writer
  writer.close()


def test_metrics_are_written_as_lines_and_curves(writer):
  writer.metrics(0, {'vote/agreement': np.float32(0.5), 'solver/reward': 1})
  writer.metrics(1, {'solver/reward': 0.25, 'train/kl': math.nan})
  assert lines(writer.workdir / 'metrics.jsonl') == [
    '{"step": 0, "solver/reward": 1.0, "vote/agreement": 0.5}',
    '{"step": 1, "solver/reward": 0.25, "train/kl": null}',
  ]
  writer.close()
  assert curves(writer.workdir) == {
    'solver/reward': {0: 1.0, 1: 0.25},
    'vote/agreement': {0: 0.5},
  }


def test_an_evaluation_is_written_as_a_line_and_curves(writer):
  assert evaluations.read_results(writer.workdir) == []
  result = {'step': 5, 'task': 'sums', 'set': 'test', 'questions': 4}
  result |= {'greedy': 0.5, 'intervals': {'greedy': [0.4, 0.6]}}
  writer.evaluation(result)
  assert evaluations.read_results(writer.workdir) == [result]
  writer.close()
  assert curves(writer.workdir) == {'eval/sums/test/greedy': {5: 0.5}}


def test_only_the_first_process_writes_shared_files(tmp_path):
  second = run_writer.RunWriter(tmp_path, process=1, num_processes=2)
  second.metrics(0, {'solver/reward': 1.0})
  second.evaluation({'step': 0})
  second.rollouts(0, [ROW])
  second.close()
  names = [path.name for path in tmp_path.rglob('*') if path.is_file()]
  assert names == ['step_00000000-00001-of-00002.parquet']
  with pytest.raises(ValueError, match=r'expected an integer "step"'):
    second.evaluation({})


def evaluate(writer, step):
  figures = {'greedy': step / 20, 'intervals': {'greedy': [0.0, 1.0]}}
  writer.evaluation({'step': step, 'task': 'sums', 'set': 'test'} | figures)


def play(writer, steps):
  """Writes the output of steps, with an evaluation after each."""
  for step in steps:
    writer.metrics(step, {'solver/reward': step / 10})
    writer.rollouts(step, [ROW | {'group': step}])
    evaluate(writer, step + 1)


def contents(workdir):
  workdir = pathlib.Path(workdir)
  return {
    path.relative_to(workdir): path.read_bytes()
    for path in sorted(workdir.rglob('*'))
    if path.is_file() and path.parent.name != 'tensorboard'
  }


def test_a_resumed_run_leaves_the_same_files_as_an_unbroken_run(tmp_path):
  unbroken = run_writer.RunWriter(tmp_path / 'unbroken')
  evaluate(unbroken, 0)
  play(unbroken, range(6))
  unbroken.close()

  killed = run_writer.RunWriter(tmp_path / 'killed')
  evaluate(killed, 0)
  play(killed, range(5))  # the last checkpoint is of step 3
  killed.close()
  for name in ('metrics.jsonl', 'eval.jsonl'):
    with (killed.workdir / name).open('a') as file:
      file.write('{"step": 5, "solver/rew')
  incomplete = killed.workdir / 'rollouts' / 'step_00000005.parquet.tmp'
  incomplete.write_bytes(b'PAR1')
  resumed = run_writer.RunWriter(tmp_path / 'killed')
  resumed.rewind(3)
  metrics = jsonl.read(resumed.workdir / 'metrics.jsonl')
  assert [row['step'] for row in metrics] == [0, 1, 2]
  results = evaluations.read_results(resumed.workdir)
  assert [result['step'] for result in results] == [0, 1, 2, 3]
  play(resumed, range(3, 6))
  resumed.close()

  assert contents(tmp_path / 'killed') == contents(tmp_path / 'unbroken')
  assert curves(tmp_path / 'killed') == curves(tmp_path / 'unbroken')


def test_rewinding_an_empty_workdir_changes_nothing(writer):
  writer.rewind(0)
  assert contents(writer.workdir) == {}


WRITES = """
import contextlib, locale, pathlib, sys
from sqlm_jax.workdir import config_json, evaluations, run_writer
assert locale.getpreferredencoding() != 'UTF-8'
workdir = pathlib.Path(sys.argv[1])
text = '注文 \\ud800 \\u2028'
config = {'task': {'topics': [text]}}
config_json.write(workdir, config)
assert config_json.read(workdir) == config
config_json.check(workdir, config)
writer = run_writer.RunWriter(workdir)
writer.evaluation({'step': 1, 'set': text})
writer.rewind(1)
assert evaluations.read_results(workdir) == [{'step': 1, 'set': text}]
settings = {'step': 1, 'set': 'test', 'origin': text}
files = evaluations.find_files(workdir, settings)
files.directory.mkdir(parents=True)
with contextlib.ExitStack() as stack:
  evaluations.start(files, stack)
  evaluations.append_answers(files, [{'index': 0, 'question': text}])
files = evaluations.find_files(workdir, settings)
assert files.rows == [{'index': 0, 'question': text}]
"""


def test_files_are_utf8_in_every_locale(tmp_path):
  """The default encoding is ASCII here, and varies by country on Windows."""
  program = tmp_path / 'writes.py'
  program.write_text(WRITES, encoding='utf-8')
  environment = os.environ | {'LC_ALL': 'C', 'PYTHONCOERCECLOCALE': '0'}
  subprocess.run(
    [sys.executable, '-X', 'utf8=0', str(program), str(tmp_path)],
    check=True,
    env=environment | {'PYTHONPATH': str(ROOT)},
    timeout=120,
  )
  (answers,) = tmp_path.glob('evaluations/*/answers.jsonl')
  (settings,) = tmp_path.glob('evaluations/*/settings.json')
  for path in (
    tmp_path / 'config.json',
    tmp_path / 'eval.jsonl',
    answers,
    settings,
  ):
    text = path.read_text(encoding='utf-8')
    assert '注文 \\ud800 \\u2028' in text, path
    assert len(text.splitlines()) == text.count('\n')


def test_a_run_in_a_bucket_leaves_the_same_files():
  """Objects cannot be appended to, and appear only when they are complete."""
  workdir = 'gs://bucket/runs/one'
  config = {'seed': 1, 'model': {'path': 'random'}}
  with buckets.substituted():
    with storage.locked(workdir):
      config_json.write(workdir, config)
      with contextlib.closing(run_writer.RunWriter(workdir)) as writer:
        for step in range(3):
          writer.rollouts(step, [ROW])
          writer.metrics(step, {'solver/reward': step / 2})
          writer.evaluation({'step': step, 'set': 'test'})
      with contextlib.closing(run_writer.RunWriter(workdir)) as writer:
        writer.rewind(1)
        writer.metrics(1, {'solver/reward': 0.75})
    assert jsonl.read(f'{workdir}/metrics.jsonl') == [
      {'step': 0, 'solver/reward': 0.0},
      {'step': 1, 'solver/reward': 0.75},
    ]
    results = evaluations.read_results(workdir)
    assert [result['step'] for result in results] == [0, 1]
    (path,) = rollouts.files(workdir, before=9)
    assert f'{path}' == f'{workdir}/rollouts/step_00000000.parquet'
    with path.open('rb') as file:
      assert parquet.read_table(file).num_rows == 1
    with pytest.raises(ValueError, match=r'seed: 1 -> 2'):
      config_json.check(workdir, config | {'seed': 2})
    settings = {'step': 4, 'set': 'test'}
    files = evaluations.find_files(workdir, settings)
    with contextlib.ExitStack() as stack:
      evaluations.start(files, stack)
    for index in range(2):
      evaluations.append_answers(files, [{'index': index}])
    files = evaluations.find_files(workdir, settings)
    assert files.rows == [{'index': 0}, {'index': 1}]
    evaluations.rewind(workdir, 3)
    assert not files.directory.exists()
    names = {path.name for path in epath.Path(workdir).iterdir()}
  expected = {'config.json', 'metrics.jsonl', 'eval.jsonl', 'rollouts'}
  assert names - {'evaluations'} == expected | {'tensorboard'}


def test_a_full_disk_raises_an_error_with_the_path(writer, monkeypatch):
  """Every write to /dev/full fails, as on a full disk."""
  pathlib.Path(writer.workdir, 'metrics.jsonl').symlink_to('/dev/full')
  message = (
    r'metrics.jsonl could not be (?s:.*)No space left(?s:.*)same command'
  )
  with pytest.raises(OSError, match=message):
    writer.metrics(0, {'solver/reward': 1})
  with io.FileIO('/dev/full', 'w') as full:
    monkeypatch.setattr(record_writer, 'open_file', lambda path: full)
    with pytest.raises(OSError, match='tensorboard could not be written'):
      writer.evaluation({'step': 1, 'intervals': {'a': 0}, 'a': 1.0})
  writer.close()
