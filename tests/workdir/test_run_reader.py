"""Tests of reading the files of a run, whatever state the run is in."""

import json
import time

import pyarrow.compute as pc
import pytest
from pyarrow import parquet

from sqlm_jax.workdir import metrics, rollouts, run_reader, run_writer


def row(**changes):
  return {
    'role': 'solver',
    'group': 0,
    'sample': 0,
    'seed': 0,
    'policy_step': 0,
    'prompt': 'Add 1 + 1',
    'response': '2',
    'finished': True,
    'num_tokens': 1,
    'logprob': -0.5,
    'question': '1 + 1',
    'answer': '2',
    'trained_on': True,
  } | changes


@pytest.fixture
def run(tmp_path):
  writer = run_writer.RunWriter(tmp_path)
  for step in range(3):
    writer.metrics(step, {'solver/reward': step / 2})
    writer.rollouts(
      step, [row(sample=i, answer=str(step + i)) for i in range(2)]
    )
  writer.close()
  return tmp_path


def test_a_live_run_with_a_half_written_line_is_read(run):
  with (run / 'metrics.jsonl').open('ab') as file:
    file.write('{"step": 3, "é'.encode()[:-1])  # in the middle of a character
  assert [line['step'] for line in run_reader.metrics(run)] == [0, 1, 2]


def test_a_damaged_line_does_not_hide_the_others(run):
  with (run / 'metrics.jsonl').open('ab') as file:
    file.write(b'\x00\x00\n[1]\n{"step": 3}\n')
  assert [line['step'] for line in run_reader.metrics(run)] == [0, 1, 2, 3]


def test_a_file_that_grows_is_read_again(run):
  assert len(run_reader.metrics(run)) == 3
  metrics.append(run, 3, {'solver/reward': 0.0})
  assert len(run_reader.metrics(run)) == 4


def test_a_directory_without_a_run_is_empty(tmp_path):
  assert run_reader.metrics(tmp_path) == []
  assert run_reader.evaluations(tmp_path) == []
  assert run_reader.alarms(tmp_path) == []
  assert run_reader.review_events(tmp_path) == []
  assert run_reader.steps(tmp_path) == []
  assert run_reader.rollouts(tmp_path, [0]).num_rows == 0
  with pytest.raises(ValueError, match='expected a directory with a run'):
    run_reader.config(tmp_path)


def test_rows_and_columns_are_selected(run):
  assert run_reader.steps(run) == [0, 1, 2]
  table = run_reader.rollouts(
    run, [2, 0, 7], columns=['step', 'answer'], where=pc.field('sample') == 1
  )
  assert table.to_pylist() == [
    {'step': 0, 'answer': '1'},
    {'step': 2, 'answer': '3'},
  ]
  with pytest.raises(ValueError, match=r"columns=\['price'\]"):
    run_reader.rollouts(run, [0], columns=['price'])


def test_a_column_that_an_earlier_version_did_not_write_is_null(run):
  path = run / 'rollouts' / 'step_00000001.parquet'
  parquet.write_table(parquet.read_table(path).drop(['reason', 'vote']), path)
  table = run_reader.rollouts(run, [1], columns=['reason', 'answer', 'vote'])
  assert table.column_names == ['reason', 'answer', 'vote']
  assert table['vote'].to_pylist() == [None, None]
  assert table['answer'].to_pylist() == ['1', '2']


def test_the_files_of_all_processes_are_read(tmp_path):
  rollouts.make_directory(tmp_path)
  for process in range(2):
    part = rollouts.part_name(process, 2)
    rollouts.write(tmp_path, 4, [row(group=process)], part=part)
  table = run_reader.rollouts(tmp_path, [4], columns=['group'])
  assert table['group'].to_pylist() == [0, 1]
  assert run_reader.steps(tmp_path) == [4]


def test_the_nearest_step_is_at_or_before():
  assert run_reader.nearest_step([], 3) is None
  assert run_reader.nearest_step([2, 5], 0) == 2
  assert run_reader.nearest_step([2, 5], 4) == 2
  assert run_reader.nearest_step([2, 5], 9) == 5


def test_a_link_out_of_the_run_is_refused(run, tmp_path_factory):
  secret = tmp_path_factory.mktemp('other') / 'secret.jsonl'
  secret.write_text(json.dumps({'step': 0}) + '\n')
  (run / 'alarms.jsonl').symlink_to(secret)
  with pytest.raises(ValueError, match=r'not a link to .*secret'):
    run_reader.alarms(run)
  path = run / 'rollouts' / 'step_00000009.parquet'
  path.symlink_to(secret)
  with pytest.raises(ValueError, match=r'not a link to .*secret'):
    run_reader.rollouts(run, [9])


def test_a_step_of_a_long_run_is_read_without_the_others(tmp_path):
  """The time does not grow with the number of rows of other steps."""
  rollouts.make_directory(tmp_path)
  rollouts.write(tmp_path, 0, [row(group=i) for i in range(250)])
  first = tmp_path / 'rollouts' / 'step_00000000.parquet'
  for step in range(1, 10_000):
    # Links within the run stand for files with 2.5 million rows in total.
    first.with_name(f'step_{step:08d}.parquet').hardlink_to(first)
  start = time.perf_counter()
  assert len(run_reader.steps(tmp_path)) == 10_000
  table = run_reader.rollouts(tmp_path, [9_000], columns=['question', 'vote'])
  seconds = time.perf_counter() - start
  assert table.num_rows == 250
  assert seconds < 1
