import contextlib
import functools
import io
import json
import math
import os
import pathlib
import struct
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from etils import epath
from pyarrow import parquet
from tensorboardX import record_writer
from tensorboardX.proto import event_pb2

from configs import smoke
from sqlm_jax.config import schema as config_lib
from sqlm_jax.workdir import evaluation_files, run_writer, storage
from tests import buckets

ROOT = pathlib.Path(__file__).parents[2]
ROW = {
  'role': 'solver',
  'group': 3,
  'sample': 1,
  'seed': 2**40,
  'policy_step': 7,
  'prompt': 'Q: 7 + 8\nA: ',
  'response': '15\n',
  'finished': True,
  'num_tokens': 2,
  'logprob': -0.5,
  'question': '7 + 8',
  'tests': None,
  'answer': '15',
  'vote': '15',
  'vote_share': 0.75,
  'tests_passed': None,
  'reward': 1.0,
  'trained_on': True,
  'reason': None,
}


def lines(path):
  return path.read_text().splitlines()


def curves(workdir) -> dict[str, dict[int, float]]:
  """TensorBoard's scalars: by name, then step; a purge voids what it voids."""
  found = {}
  for path in sorted((workdir / 'tensorboard').iterdir()):
    data = path.read_bytes()
    while data:
      (size,) = struct.unpack('<Q', data[:8])
      event = event_pb2.Event.FromString(data[12 : 12 + size])
      data = data[16 + size :]
      if event.session_log.status == event_pb2.SessionLog.START:
        for points in found.values():
          for step in [s for s in points if s >= event.step]:
            del points[step]
      for value in event.summary.value:
        found.setdefault(value.tag, {})[event.step] = value.simple_value
  return found


@pytest.fixture
def writer(tmp_path):
  writer = run_writer.RunWriter(tmp_path / 'runs' / 'one')
  yield writer
  writer.close()


def test_metrics_are_a_line_a_step_and_points_of_curves(writer):
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


@pytest.mark.parametrize('value', [math.nan, math.inf, -math.inf])
def test_evaluation_is_valid_json_whatever_the_numbers(writer, value):
  writer.evaluation({'step': 4, 'task': 't', 'a': value, 'b': {'c': value}})
  text = (writer.workdir / 'eval.jsonl').read_text()
  assert text == '{"step": 4, "task": "t", "a": null, "b": {"c": null}}\n'


def test_evaluation_is_a_record_and_points_of_curves(writer):
  assert writer.evaluations() == []
  record = {'step': 5, 'task': 'sums', 'set': 'test', 'questions': 4}
  record |= {'greedy': 0.5, 'intervals': {'greedy': [0.4, 0.6]}}
  writer.evaluation(record)
  assert writer.evaluations() == [record]
  writer.close()
  assert curves(writer.workdir) == {'eval/sums/test/greedy': {5: 0.5}}


def test_an_evaluation_is_found_by_its_settings(writer):
  settings = [{'samples': n, 'solver_stop': ('\n',)} for n in (4, 16)]
  assert writer.find_evaluation(settings[0]) is None
  for n, each in enumerate(settings):
    writer.evaluation({'step': 5, 'greedy': n, 'settings': each})
  assert writer.find_evaluation(settings[1])['greedy'] == 1
  assert writer.find_evaluation(settings[1] | {'samples': 8}) is None


@pytest.mark.parametrize('record', [{}, {'step': None}, {'step': 1.0}])
def test_evaluation_without_a_step_is_refused(writer, record):
  with pytest.raises(ValueError, match=r'expected a whole "step"'):
    writer.evaluation(record)


def test_rollouts_have_the_columns_of_the_schema(writer):
  short = {k: v for k, v in ROW.items() if k not in ('vote', 'reason')}
  writer.rollouts(12, [ROW, short | {'answer': None, 'reward': None}])
  path = writer.workdir / 'rollouts' / 'step_00000012.parquet'
  table = parquet.read_table(path)
  assert table.schema.equals(run_writer.ROLLOUT_SCHEMA, check_metadata=False)
  assert table.schema.field('policy_step').type == pa.int64()
  assert table.schema.field('logprob').type == pa.float32()
  assert table.to_pylist() == [
    {'step': 12} | ROW,
    {'step': 12} | ROW | {'vote': None, 'answer': None, 'reward': None},
  ]
  # The file says what its columns mean, and is compressed.
  about = {x.name: x.metadata[b'about'] for x in table.schema}
  assert about['finished'] == b'ended by itself, not cut off'
  column = parquet.ParquetFile(path).metadata.row_group(0).column(0)
  assert column.compression == 'ZSTD'


def test_rollouts_of_a_step_without_rows_are_an_empty_table(writer):
  writer.rollouts(0, [])
  path = writer.workdir / 'rollouts' / 'step_00000000.parquet'
  assert parquet.read_table(path).num_rows == 0


@pytest.mark.parametrize(
  'row, named',
  [
    (ROW | {'colour': 'red'}, 'colour'),
    ({k: v for k, v in ROW.items() if k != 'seed'}, 'seed'),
    (ROW | {'prompt': None}, 'prompt'),
    (ROW | {'step': 3}, 'step'),  # it is the argument
  ],
)
def test_rollout_with_wrong_columns_is_refused_by_name(writer, row, named):
  with pytest.raises(ValueError, match=f'unknown or missing: {named}$'):
    writer.rollouts(0, [ROW, row])
  assert not list((writer.workdir / 'rollouts').iterdir())


def test_failed_write_leaves_the_earlier_file(writer):
  writer.rollouts(0, [ROW])
  with pytest.raises(pa.ArrowInvalid):
    writer.rollouts(0, [ROW | {'group': 2**40}])  # over int32
  path = writer.workdir / 'rollouts' / 'step_00000000.parquet'
  assert parquet.read_table(path).num_rows == 1


def evaluate(writer, step):
  figures = {'greedy': step / 20, 'intervals': {'greedy': [0.0, 1.0]}}
  writer.evaluation({'step': step, 'task': 'sums', 'set': 'test'} | figures)


def play(writer, steps):
  """Steps as a run takes them, an evaluation after each."""
  for step in steps:
    writer.metrics(step, {'solver/reward': step / 10})
    writer.rollouts(step, [ROW | {'group': step}])
    evaluate(writer, step + 1)


def content(workdir):
  workdir = pathlib.Path(workdir)
  return {
    path.relative_to(workdir): path.read_bytes()
    for path in sorted(workdir.rglob('*'))
    if path.is_file() and path.parent.name != 'tensorboard'
  }


def test_killed_and_resumed_run_leaves_what_an_unbroken_one_does(tmp_path):
  unbroken = run_writer.RunWriter(tmp_path / 'unbroken')
  evaluate(unbroken, 0)
  play(unbroken, range(6))
  unbroken.close()

  killed = run_writer.RunWriter(tmp_path / 'killed')
  evaluate(killed, 0)
  play(killed, range(5))  # the checkpoint in use has seen 3 steps
  killed.close()
  for name in ('metrics.jsonl', 'eval.jsonl'):
    with (killed.workdir / name).open('a') as file:
      file.write('{"step": 5, "solver/rew')
  half = killed.workdir / 'rollouts' / 'step_00000005.parquet.tmp'
  half.write_bytes(b'PAR1')
  resumed = run_writer.RunWriter(tmp_path / 'killed')
  resumed.rewind(3)
  assert [row['step'] for row in read(resumed, 'metrics')] == [0, 1, 2]
  assert [row['step'] for row in read(resumed, 'eval')] == [0, 1, 2, 3]
  play(resumed, range(3, 6))
  resumed.close()

  assert content(tmp_path / 'killed') == content(tmp_path / 'unbroken')
  assert curves(tmp_path / 'killed') == curves(tmp_path / 'unbroken')


def read(writer, name):
  return run_writer.read_jsonl(writer.workdir / f'{name}.jsonl')


def test_rewind_of_a_run_that_wrote_nothing_does_nothing(writer):
  writer.rewind(0)
  assert content(writer.workdir) == {}


def test_rewind_leaves_files_that_it_did_not_write(writer):
  notes = writer.workdir / 'rollouts' / 'notes.txt'
  notes.write_text('mine')
  writer.rewind(0)
  assert notes.read_text() == 'mine'


@pytest.mark.parametrize('half', ['{"step": 1', '{', '\0\0\0', '12'])
def test_half_written_last_line_is_left_out(tmp_path, half):
  path = tmp_path / 'metrics.jsonl'
  path.write_text('{"step": 0}\n' + half)
  assert run_writer.read_jsonl(path) == [{'step': 0}]


def test_a_line_that_ends_within_a_character_is_left_out(writer):
  for step in (0, 2):
    writer.evaluation({'step': step, 'set': '温度'})
  path = writer.workdir / 'eval.jsonl'
  whole = path.read_bytes()
  for end in range(len(whole) - 1, whole.index(b'\n'), -1):
    path.write_bytes(whole[:end])
    steps = [row['step'] for row in writer.evaluations()]
    assert steps == ([0, 2] if end == len(whole) - 1 else [0])
  writer.evaluation({'step': 4, 'set': '温度'})
  assert [row['step'] for row in writer.evaluations()] == [0, 4]


def test_a_damaged_character_inside_is_an_error(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  path.write_bytes(b'{"step": "\xe6\xb8"}\n{"step": 2}\n')
  with pytest.raises(ValueError, match=r'metrics\.jsonl:1: expected a JSON'):
    run_writer.read_jsonl(path)


WRITES = """
import contextlib, locale, pathlib, sys
from sqlm_jax.workdir import evaluation_files, run_writer
assert locale.getpreferredencoding() != 'UTF-8'
workdir = pathlib.Path(sys.argv[1])
text = '注文 \\ud800 \\u2028'
config = {'task': {'topics': [text]}}
run_writer.write_config(workdir, config)
assert run_writer.read_config(workdir) == config
run_writer.check_config(workdir, config)
writer = run_writer.RunWriter(workdir)
writer.evaluation({'step': 1, 'set': text})
writer.rewind(1)
assert writer.evaluations() == [{'step': 1, 'set': text}]
settings = {'step': 1, 'set': 'test', 'origin': text}
files = evaluation_files.find(workdir, settings)
files.directory.mkdir(parents=True)
with contextlib.ExitStack() as stack:
  evaluation_files.start(files, stack)
  evaluation_files.append(files, [{'index': 0, 'question': text}])
found = evaluation_files.find(workdir, settings)
assert found.rows == [{'index': 0, 'question': text}]
"""


def test_japanese_is_readable_whatever_the_locale(tmp_path):
  """The default of this one is ASCII; Windows has one for each country."""
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
  written = (tmp_path / 'config.json', tmp_path / 'eval.jsonl')
  for path in (*written, answers, settings):
    text = path.read_text(encoding='utf-8')
    assert '注文 \\ud800 \\u2028' in text, path
    assert len(text.splitlines()) == text.count('\n')


@pytest.mark.parametrize('cut', [7, 1])
def test_an_evaluation_behind_half_a_line(writer, cut):
  """Killed in the middle of the second line, or before its end was written."""
  for step in (0, 2):
    writer.evaluation({'step': step, 'settings': {'step': step}})
  path = writer.workdir / 'eval.jsonl'
  path.write_text(path.read_text()[:-cut])
  if writer.find_evaluation({'step': 2}) is None:
    writer.evaluation({'step': 2, 'settings': {'step': 2}})
  writer.evaluation({'step': 4, 'settings': {'step': 4}})
  assert [row['step'] for row in writer.evaluations()] == [0, 2, 4]


def test_damaged_line_inside_is_an_error_with_its_number(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  path.write_text('{"step": 0}\n{"st\n{"step": 2}\n')
  with pytest.raises(ValueError, match=r'metrics\.jsonl:2: expected a JSON'):
    run_writer.read_jsonl(path)


CONFIG = {
  'seed': 0,
  'num_steps': 20,
  'task': {'topics': ('sums', 'products'), 'prompt': 'Q: ' * 50 + 'A: '},
  'checkpoint': {'every': 10},
}


def test_config_is_written_once_and_accepted_again(tmp_path):
  workdir = tmp_path / 'runs' / 'one'
  assert run_writer.read_config(workdir) is None
  run_writer.check_config(workdir, CONFIG)
  assert not workdir.exists()  # looking leaves nothing behind
  run_writer.write_config(workdir, CONFIG)
  first = (workdir / 'config.json').read_bytes()
  run_writer.check_config(workdir, CONFIG)
  run_writer.write_config(workdir, CONFIG)
  assert (workdir / 'config.json').read_bytes() == first
  # What JSON makes of it: a tuple becomes a list.
  assert run_writer.read_config(workdir) == json.loads(json.dumps(CONFIG))


def test_config_of_another_run_is_refused_by_key_and_values(tmp_path):
  run_writer.write_config(tmp_path, CONFIG)
  other = CONFIG | {
    'seed': 1,
    'task': {'topics': ('sums',), 'prompt': 'Q: ' * 50 + 'Answer: '},
    'loss': {'kl': None},
  }
  with pytest.raises(ValueError, match='another --workdir') as error:
    run_writer.check_config(tmp_path, other, may_change={'num_steps'})
  assert str(error.value).splitlines()[1:] == [
    '  loss.kl_coef: no such key -> None',
    '  seed: 0 -> 1',
    # Long values from the ten characters before their difference.
    "  task.prompt: …Q: Q: Q: A: ' -> …Q: Q: Q: Answer: '",
    "  task.topics: ['sums', 'products'] -> ['sums']",
  ]
  assert run_writer.read_config(tmp_path)['seed'] == 0


def test_config_may_change_where_it_is_told_to(tmp_path):
  run_writer.write_config(tmp_path, CONFIG)
  longer = CONFIG | {'num_steps': 40, 'checkpoint': {'every': 5}}
  with pytest.raises(ValueError, match='num_steps: 20 -> 40'):
    run_writer.check_config(tmp_path, longer, may_change={'checkpoint.every'})
  run_writer.check_config(
    tmp_path, longer, may_change={'num_steps', 'checkpoint.every'}
  )
  run_writer.write_config(tmp_path, longer)
  assert run_writer.read_config(tmp_path)['num_steps'] == 40


def test_a_run_of_an_earlier_version_goes_on(tmp_path):
  """Its config lacks keys that came later, and that changed nothing."""
  config = config_lib.to_dict(
    config_lib.from_dict(smoke.get_config().to_dict())
  )
  old = json.loads(json.dumps(config))
  del old['sampler']['one_step_ahead'], old['sampler']['dtype']
  run_writer.write_config(tmp_path, old)
  check = functools.partial(
    run_writer.check_config, complete=config_lib.complete
  )
  check(tmp_path, config)
  config['sampler']['one_step_ahead'] = True
  with pytest.raises(ValueError, match=r'sampler\.one_step_ahead: False'):
    check(tmp_path, config)
  # What it cannot read, of a later version say, is told as it stands.
  run_writer.write_config(tmp_path, old | {'later': 1})
  with pytest.raises(ValueError, match='later: 1 -> no such key'):
    check(tmp_path, config)


def test_damaged_config_is_an_error_with_its_path(tmp_path):
  (tmp_path / 'config.json').write_text('{"seed": ')
  with pytest.raises(ValueError, match=r'config\.json: expected JSON'):
    run_writer.check_config(tmp_path, CONFIG)


def test_a_run_in_a_bucket_leaves_the_same():
  """Objects in a bucket cannot be appended to and appear when complete."""
  workdir = 'gs://bucket/runs/one'
  config = {'seed': 1, 'model': {'path': 'random'}}
  with buckets.doubled():
    with storage.locked(workdir):
      run_writer.write_config(workdir, config)
      with contextlib.closing(run_writer.RunWriter(workdir)) as writer:
        for step in range(3):
          writer.rollouts(step, [ROW])
          writer.metrics(step, {'solver/reward': step / 2})
          writer.evaluation({'step': step, 'set': 'test'})
      with contextlib.closing(run_writer.RunWriter(workdir)) as writer:
        writer.rewind(1)
        writer.metrics(1, {'solver/reward': 0.75})
    assert run_writer.read_jsonl(f'{workdir}/metrics.jsonl') == [
      {'step': 0, 'solver/reward': 0.0},
      {'step': 1, 'solver/reward': 0.75},
    ]
    assert [row['step'] for row in writer.evaluations()] == [0, 1]
    (file,) = run_writer.rollout_files(workdir, before=9)
    assert f'{file}' == f'{workdir}/rollouts/step_00000000.parquet'
    with file.open('rb') as opened:
      assert parquet.read_table(opened).num_rows == 1
    with pytest.raises(ValueError, match=r'seed: 1 -> 2'):
      run_writer.check_config(workdir, config | {'seed': 2})
    files = evaluation_files.find(workdir, {'step': 4, 'set': 'test'})
    with contextlib.ExitStack() as stack:
      evaluation_files.start(files, stack)
    for index in range(2):
      evaluation_files.append(files, [{'index': index}])
    again = evaluation_files.find(workdir, {'step': 4, 'set': 'test'})
    assert again.rows == [{'index': 0}, {'index': 1}]
    evaluation_files.forget_after(workdir, 3)
    assert not again.directory.exists()
    left = {path.name for path in epath.Path(workdir).iterdir()}
  names = {'config.json', 'metrics.jsonl', 'eval.jsonl', 'rollouts'}
  assert left - {'evaluations'} == names | {'tensorboard'}


def test_a_full_disk_ends_the_step_and_hangs_nothing(writer, monkeypatch):
  """/dev/full is a disk without room: no write to it succeeds."""
  writer.workdir.mkdir(parents=True, exist_ok=True)
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
