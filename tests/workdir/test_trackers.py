"""Tests of the writers for Weights & Biases and trackio, without a network."""

import contextlib
import json
import struct
import sys
import time

import pytest
import trackio
import wandb
from absl import logging
from trackio import sqlite_storage
from wandb.proto import wandb_internal_pb2

from sqlm_jax.workdir import run_writer, trackers

SETTINGS = {'loss.clip_ratio': 0.2, 'advantage.estimator': 'grpo'}


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
  monkeypatch.setenv('WANDB_MODE', 'offline')
  monkeypatch.setenv('WANDB_SILENT', 'true')
  # Its modules have read the environment variable when they were imported.
  for name, module in list(sys.modules.items()):
    if name.startswith('trackio.') and hasattr(module, 'TRACKIO_DIR'):
      monkeypatch.setattr(module, 'TRACKIO_DIR', tmp_path / 'trackio')


def write(workdir, name, steps):
  """Writes metrics as a run does that starts or resumes at the first step."""
  writers = trackers.open_writers(
    (name,), workdir, project='sums', settings=SETTINGS
  )
  writer = run_writer.RunWriter(workdir, writers=writers)
  with contextlib.closing(writer):
    writer.rewind(steps[0])
    for step in steps:
      writer.metrics(step, {'vote/agreement': step / 4, 'nan': float('nan')})
    result = {'step': steps[-1] + 1, 'task': 'sums', 'set': 'test'}
    result |= {'questions': 4, 'greedy': 0.5}
    writer.evaluation(result | {'intervals': {'greedy': [0.4, 0.6]}})


def wandb_records(path):
  """Yields the records of a file of W&B, which is a log as LevelDB's."""
  data, at, parts = path.read_bytes(), 7, b''
  while at < len(data):
    left = 32768 - at % 32768  # of a block, which ends with padding
    if left < 7:
      at += left
      continue
    size, kind = struct.unpack('<HB', data[at + 4 : at + 7])
    parts += data[at + 7 : at + 7 + size]
    at += 7 + size
    if kind in (1, 4):  # complete, or the last part
      yield wandb_internal_pb2.Record.FromString(parts)
      parts = b''


def read_wandb(workdir):
  """Returns the points, configs and run ids in the files of W&B."""
  points, configs, identifiers = [], [], set()
  for path in sorted((workdir / 'wandb').glob('offline-run-*/*.wandb')):
    for record in wandb_records(path):
      point = {
        '/'.join(x.nested_key) or x.key: json.loads(x.value_json)
        for x in record.history.item
      }
      if point:
        points.append({k: v for k, v in point.items() if k[0] != '_'})
      if record.HasField('run'):
        identifiers.add(record.run.run_id)
        configs.append(
          {x.key: json.loads(x.value_json) for x in record.run.config.update}
        )
  return points, configs, identifiers


def test_wandb_receives_metrics_evaluations_and_settings(tmp_path):
  workdir = tmp_path / 'quick'
  write(workdir, 'wandb', [0, 1, 2])
  time.sleep(1)  # the name of the directory has the time in seconds
  write(workdir, 'wandb', [2, 3])  # resumed after a crash
  points, configs, identifiers = read_wandb(workdir)
  curve = [
    (p['step'], p['vote/agreement']) for p in points if 'vote/agreement' in p
  ]
  assert curve == [(0, 0.0), (1, 0.25), (2, 0.5), (2, 0.5), (3, 0.75)]
  assert {'step': 4, 'eval/sums/test/greedy': 0.5} in points
  assert not any('nan' in point for point in points)
  assert configs[0].items() >= SETTINGS.items()
  assert identifiers == {(workdir / 'tracking_id').read_text()}


def test_trackio_receives_metrics_evaluations_and_settings(tmp_path):
  workdir = tmp_path / 'quick'
  write(workdir, 'trackio', [0, 1])
  write(workdir, 'trackio', [2])
  storage = sqlite_storage.SQLiteStorage
  (name,) = storage.get_runs('sums')
  assert name == f'quick-{(workdir / "tracking_id").read_text()}'
  rows = storage.get_logs('sums', name)
  curve = [
    (r['step'], r['vote/agreement']) for r in rows if 'vote/agreement' in r
  ]
  assert curve == [(0, 0.0), (1, 0.25), (2, 0.5)]
  assert any(r.get('eval/sums/test/greedy') == 0.5 for r in rows)
  assert storage.get_run_config('sums', name).items() >= SETTINGS.items()


@pytest.mark.parametrize('name', ['wandb', 'trackio'])
def test_a_library_that_is_not_installed_is_named(name, monkeypatch):
  trackers.check((name, 'tensorboard'))
  monkeypatch.setitem(sys.modules, name, None)
  with pytest.raises(
    ValueError, match=rf"tracking.writers='{name}'.*\[{name}\]"
  ):
    trackers.check((name,))


def test_a_service_that_refuses_the_run_is_named(tmp_path, monkeypatch):
  def refuse(**_):
    raise wandb.errors.UsageError('No API key configured')

  monkeypatch.setattr(wandb, 'init', refuse)
  with pytest.raises(ValueError, match=r"'wandb': No API key configured"):
    trackers.open_writers(('wandb',), tmp_path, project='sums', settings={})


def test_a_service_that_fails_does_not_stop_the_run(tmp_path, monkeypatch):
  class Broken:
    def log(self, values, step):
      raise ConnectionError('no route to host')

    def finish(self):
      raise ConnectionError('no route to host')

  warnings = []
  monkeypatch.setattr(logging, 'warning', lambda *args: warnings.append(args))
  monkeypatch.setattr(trackio, 'init', lambda **_: Broken())
  write(tmp_path, 'trackio', [0, 1])
  assert len(warnings) == 1
  assert 'no route to host' in str(warnings[0][-1])
  assert len((tmp_path / 'metrics.jsonl').read_text().splitlines()) == 2
