"""Tests of evaluation sets from configs, datasets and files."""

import json

import pytest

from configs import smoke
from sqlm_jax.config import schema as config_lib
from sqlm_jax.run import build, evaluation_sets


def make_parts(**changes) -> build.Parts:
  c = smoke.get_config()
  c.mesh.data = 1
  c.task.test = (('1 + 1', '2'), ('2 + 3', '5'))
  c.task.validation = ()
  c.update_from_flattened_dict(changes)
  return build.build(config_lib.from_dict(c.to_dict()))


@pytest.fixture(scope='module')
def parts():
  return make_parts()


def test_a_set_is_a_part_of_a_dataset(tmp_path, monkeypatch):
  monkeypatch.setenv('SQLM_JAX_CACHE', str(tmp_path))
  changes = {
    'task.test': (),
    'evaluation.test': 'multiplication/test[:3]',
    'evaluation.question_template': 'What is {question}?',
  }
  first = make_parts(**changes).sets('test')
  assert (first.name, first.origin) == ('test', 'multiplication/test[:3]')
  assert first.examples[0].question == 'What is 974 * 780?'
  again = make_parts(**changes).sets('test')
  assert again.fingerprint == first.fingerprint
  changes['evaluation.test'] = 'multiplication/test[1:4]'
  assert make_parts(**changes).sets('test').fingerprint != first.fingerprint


def test_examples_that_cannot_be_graded_are_left_out(parts, tmp_path, caplog):
  path = tmp_path / 'mine.jsonl'
  rows = [
    {'question': '1 + 1', 'answer': '2'},
    {'question': '?', 'answer': 'x'},
  ]
  path.write_text('\n'.join(map(json.dumps, rows)))

  def read():
    return evaluation_sets.from_dataset(parts.config, parts.task, str(path))

  assert [e.question for e in read().examples] == ['1 + 1']
  assert '1 of 2 examples are left out' in caplog.text
  path.write_text(json.dumps(rows[1]))
  with pytest.raises(
    ValueError, match=r'none of 1 examples fits task\.answer_k'
  ):
    read()


def test_sets_that_share_a_question_are_rejected(parts, tmp_path):
  path = tmp_path / 'mine.jsonl'
  path.write_text(json.dumps({'question': 'What is 2+3?', 'answer': '5'}))
  other = evaluation_sets.from_dataset(parts.config, parts.task, str(path))
  with pytest.raises(ValueError, match=r"found 1, for example '2 \+ 3'"):
    evaluation_sets.check_disjoint(parts.sets('test'), other)
  evaluation_sets.check_disjoint(
    other._replace(examples=()), parts.sets('test')
  )


def test_an_unreadable_true_answer_is_an_error_with_its_key():
  parts = make_parts(**{'task.test': (('1 + 1', 'two'),)})
  with pytest.raises(ValueError, match=r"task\.test: \('1 \+ 1', 'two'"):
    parts.sets('test')
