"""Tests of data cards, and of the queries in the docs."""

import json
import pathlib
import re

import duckdb
import mlcroissant
import pytest

from sqlm_jax.reporting import modes
from tests.reporting import reported_runs

TRACE = pathlib.Path(__file__).parents[2] / 'docs' / 'trace.md'


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('runs') / 'run'
  reported_runs.write_run(workdir, before='0101', after='0111')
  reported_runs.add_verdict(workdir, '3 + 3', 'correct', answer='6')
  modes.report([workdir])
  return workdir


def test_a_card_in_markdown(workdir):
  card = (workdir / 'data_card.md').read_text()
  for expected in (
    '# Data card of the run `run`',
    'The base model is `random`; its license: not known',
    '| answers that were trained on | 24 |',
    '| different questions that were trained on | 3 |',
    'People have decided about 1 questions',
    'For 1 of the 3 questions that were trained on (33.3%)',
    '| 0 | 3 | 3 | 1 | 12 |',
    '| `format` | 2 |',
    '| `test` | `task.test` | 4 |',
    f'| config_sha256 | `{"c" * 64}` |',
  ):
    assert expected in card


def test_the_license_of_a_known_model_is_stated(tmp_path):
  reported_runs.write_run(tmp_path, **{'model.path': 'smollm2-135m-instruct'})
  modes.report([tmp_path])
  card = (tmp_path / 'data_card.md').read_text()
  assert '`smollm2-135m-instruct`; its license: apache-2.0' in card


@pytest.mark.filterwarnings('ignore::DeprecationWarning')
def test_croissant_is_valid_and_loads_the_rows(workdir):
  dataset = mlcroissant.Dataset(workdir / 'croissant.json')
  assert not dataset.metadata.issues.errors
  records = list(dataset.records('responses'))
  assert len(records) == 2 * 15
  questions = {record['responses/question'] for record in records}
  assert questions == {None, b'1 + 1', b'2 + 2', b'3 + 3'}


def test_croissant_describes_every_column(workdir):
  stored = json.loads((workdir / 'croissant.json').read_text())
  (records,) = stored['recordSet']
  assert {'step', 'advantage', 'right', 'topic'} <= {
    field['name'] for field in records['field']
  }
  assert all(field['description'] for field in records['field'])


def queries() -> list[str]:
  return re.findall(r'```sql\n(.*?)```', TRACE.read_text(), re.DOTALL)


def test_the_docs_have_four_queries():
  assert len(queries()) == 4


@pytest.mark.parametrize(
  'number, rows',
  [
    # Advantages 3 x 0.25 and 0.75 of 1 + 1, and as much of 3 + 3.
    (0, 5),
    (1, 3),
    (2, 2),
    (3, 2 * 3),
  ],
)
def test_the_queries_of_the_docs_run(workdir, number, rows):
  query = queries()[number].replace('runs/quickstart', str(workdir))
  found = duckdb.sql(query).fetchall()
  assert len(found) == rows
  if number == 0:
    assert {row[:3] for row in found} == {
      ('1 + 1', '2', 3),
      ('1 + 1', None, 1),
      ('3 + 3', '6', 1),
      ('3 + 3', '7', 3),
      ('2 + 2', '5', 4),
    }
  if number == 1:
    assert ('1 + 1', 2, 0, 1, 0.75) in found
  if number == 2:
    # The majority of 1 + 1 is right, that of 3 + 3 wrong; two steps each.
    assert [(round(a, 6), n) for a, n, _ in found] == [(0.8, 4), (1.0, 2)]
    assert [share for *_, share in found] == [0.5, 0.0]
  if number == 3:
    assert ('config_sha256', 'c' * 64) in {row[1:] for row in found}
