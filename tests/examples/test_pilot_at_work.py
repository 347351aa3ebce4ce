"""The scripts of the worked case: verdicts in a spreadsheet, and exclusions."""

import pathlib
import re

import pyarrow as pa
import pytest
from pyarrow import parquet

from examples import check_exclusions, review_orders
from sqlm_jax.review import spreadsheets

ROOT = pathlib.Path(__file__).parent.parent.parent
QUEUE = """\
id,step,index,question,vote,agreement,pick,verdict,answer
a,0,0,"Bring two sacks, please.",2,0.5,random,,
b,0,1,Bring sixty-four sacks.,60,0.5,uncertain,,
c,0,2,Bring two or three sacks.,2,0.5,uncertain,,
d,0,3,Bring two sacks.,2,0.5,uncertain,,
"""


def test_the_first_rows_of_a_queue_are_decided(tmp_path):
  path = tmp_path / 'queue.csv'
  path.write_text(QUEUE, encoding='utf-8-sig')
  counts = review_orders.fill(str(path), 3)
  assert counts == {'accept': 1, 'correct': 1, 'exclude': 1}
  rows = spreadsheets._read_csv(str(path), required=('id', 'question'))
  assert [(row['id'], row['verdict'], row['answer']) for _, row in rows] == [
    ('a', 'accept', ''),
    ('b', 'correct', '64'),
    ('c', 'exclude', ''),
    ('d', '', ''),
  ]


def write_rollouts(path, response, *, trained_on):
  rows = [
    ('solver', ' 24', None, True),
    ('proposer', ' Mr. Miller needs two sacks.', 'title', False),
    ('proposer', response, 'words', trained_on),
  ]
  names = ('role', 'response', 'reason', 'trained_on')
  columns = dict(zip(names, zip(*rows, strict=True), strict=True))
  (path / 'rollouts').mkdir()
  parquet.write_table(pa.table(columns), path / 'rollouts' / '0.parquet')


def test_exclusions_are_counted(tmp_path):
  (tmp_path / 'words.txt').write_text('Miller\nSmith\n')
  write_rollouts(tmp_path, ' For smith.', trained_on=False)
  counts = check_exclusions.check(str(tmp_path), str(tmp_path / 'words.txt'))
  assert counts == {
    'proposer, title': 1,
    'proposer, words': 1,
    'trained on': 1,
  }


def test_a_name_that_was_trained_on_is_found(tmp_path):
  (tmp_path / 'words.txt').write_text('Miller\nSmith\n')
  write_rollouts(tmp_path, ' For smith.', trained_on=True)
  with pytest.raises(ValueError, match="trained on 'smith'"):
    check_exclusions.check(str(tmp_path), str(tmp_path / 'words.txt'))


def test_the_files_of_the_script_exist():
  text = (ROOT / 'examples' / 'pilot_at_work.sh').read_text()
  paths = re.findall(r'(?:configs|examples)/[\w/]+\.\w+', text)
  assert len(set(paths)) >= 5
  for path in paths:
    assert (ROOT / path).exists(), path
