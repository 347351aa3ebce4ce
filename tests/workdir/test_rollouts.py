"""Tests of the Parquet files of rollouts."""

import pyarrow as pa
import pytest
from etils import epath
from pyarrow import parquet

from sqlm_jax.workdir import rollouts

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
  'true_answer': None,
  'tests_passed': None,
  'reward': 1.0,
  'trained_on': True,
  'reason': None,
  'topic': 'addition',
  'advantage': 0.5,
  'right': True,
  'leaked': None,
}


@pytest.fixture
def workdir(tmp_path):
  workdir = epath.Path(tmp_path)
  rollouts.make_directory(workdir)
  return workdir


def test_a_file_has_the_columns_of_the_schema(workdir):
  short = {k: v for k, v in ROW.items() if k not in ('vote', 'reason')}
  rollouts.write(workdir, 12, [ROW, short | {'answer': None, 'reward': None}])
  path = workdir / 'rollouts' / 'step_00000012.parquet'
  table = parquet.read_table(path)
  assert table.schema.equals(rollouts.SCHEMA, check_metadata=False)
  assert table.schema.field('policy_step').type == pa.int64()
  assert table.schema.field('logprob').type == pa.float32()
  assert table.to_pylist() == [
    {'step': 12} | ROW,
    {'step': 12} | ROW | {'vote': None, 'answer': None, 'reward': None},
  ]
  # The file describes its columns and is compressed.
  about = {x.name: x.metadata[b'about'] for x in table.schema}
  assert about['finished'] == b'false: cut off at the token limit'
  column = parquet.ParquetFile(path).metadata.row_group(0).column(0)
  assert column.compression == 'ZSTD'


def test_the_footer_keeps_its_texts(workdir):
  rollouts.write(workdir, 0, [ROW], footer={'code_version': '1.2'})
  path = workdir / 'rollouts' / 'step_00000000.parquet'
  assert parquet.read_schema(path).metadata[b'code_version'] == b'1.2'
  rollouts.write(workdir, 1, [ROW])  # files of two versions read as one table
  table = parquet.read_table(workdir / 'rollouts')
  assert table['step'].to_pylist() == [0, 1]


def test_a_step_without_rows_has_an_empty_table(workdir):
  rollouts.write(workdir, 0, [])
  path = workdir / 'rollouts' / 'step_00000000.parquet'
  assert parquet.read_table(path).num_rows == 0


@pytest.mark.parametrize(
  'row, name',
  [
    (ROW | {'colour': 'red'}, 'colour'),
    ({k: v for k, v in ROW.items() if k != 'seed'}, 'seed'),
    (ROW | {'prompt': None}, 'prompt'),
    (ROW | {'step': 3}, 'step'),  # the step is an argument
  ],
)
def test_wrong_columns_are_rejected_by_name(workdir, row, name):
  with pytest.raises(ValueError, match=f'unknown or missing: {name}$'):
    rollouts.write(workdir, 0, [ROW, row])
  assert not list((workdir / 'rollouts').iterdir())


def test_a_failed_write_keeps_the_earlier_file(workdir):
  rollouts.write(workdir, 0, [ROW])
  with pytest.raises(pa.ArrowInvalid):
    rollouts.write(workdir, 0, [ROW | {'group': 2**40}])  # exceeds int32
  path = workdir / 'rollouts' / 'step_00000000.parquet'
  assert parquet.read_table(path).num_rows == 1


def test_files_are_listed_in_the_order_of_steps_and_processes(workdir):
  for step in (10, 9):
    for process in (1, 0):
      part = rollouts.part_name(process, 2)
      rollouts.write(workdir, step, [ROW], part=part)
  names = [path.name for path in rollouts.files(workdir, before=11)]
  assert names == [
    'step_00000009-00000-of-00002.parquet',
    'step_00000009-00001-of-00002.parquet',
    'step_00000010-00000-of-00002.parquet',
    'step_00000010-00001-of-00002.parquet',
  ]
  names = [path.name for path in rollouts.files(workdir, before=10)]
  assert len(names) == 2


def test_rewind_removes_later_steps_and_incomplete_files(workdir):
  for step in range(3):
    rollouts.write(workdir, step, [ROW])
  directory = workdir / 'rollouts'
  (directory / 'step_00000000.parquet.tmp').write_bytes(b'PAR1')
  (directory / 'notes.txt').write_text('a file of the user')
  rollouts.rewind(workdir, 1)
  names = {path.name for path in directory.iterdir()}
  assert names == {'step_00000000.parquet', 'notes.txt'}
