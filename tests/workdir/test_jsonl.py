"""Tests of files with one JSON object per line."""

import math

import pytest

from sqlm_jax.workdir import jsonl


def test_numbers_that_json_cannot_represent_become_null(tmp_path):
  path = tmp_path / 'rows.jsonl'
  jsonl.append(path, [{'a': math.nan, 'b': {'c': math.inf}, 'd': -math.inf}])
  assert path.read_text() == '{"a": null, "b": {"c": null}, "d": null}\n'
  assert jsonl.read(path) == [{'a': None, 'b': {'c': None}, 'd': None}]


def test_rewriting_replaces_all_rows(tmp_path):
  path = tmp_path / 'rows.jsonl'
  jsonl.append(path, [{'step': 0}, {'step': 1}])
  jsonl.rewrite(path, [{'step': 2}])
  assert jsonl.read(path) == [{'step': 2}]


@pytest.mark.parametrize('incomplete', ['{"step": 1', '{', '\0\0\0', '12'])
def test_an_incomplete_last_line_is_ignored(tmp_path, incomplete):
  path = tmp_path / 'rows.jsonl'
  path.write_text('{"step": 0}\n' + incomplete)
  assert jsonl.read(path) == [{'step': 0}]


def test_a_last_line_cut_within_a_character_is_ignored(tmp_path):
  path = tmp_path / 'rows.jsonl'
  jsonl.append(path, [{'step': step, 'set': '温度'} for step in (0, 2)])
  content = path.read_bytes()
  for end in range(len(content) - 1, content.index(b'\n'), -1):
    path.write_bytes(content[:end])
    steps = [row['step'] for row in jsonl.read(path)]
    # Only the line break is missing in the first case.
    assert steps == ([0, 2] if end == len(content) - 1 else [0])


def test_a_damaged_line_is_an_error_with_its_number(tmp_path):
  path = tmp_path / 'rows.jsonl'
  path.write_text('{"step": 0}\n{"st\n{"step": 2}\n')
  with pytest.raises(ValueError, match=r'rows\.jsonl:2: expected a JSON'):
    jsonl.read(path)


def test_a_damaged_character_is_an_error_with_its_line_number(tmp_path):
  path = tmp_path / 'rows.jsonl'
  path.write_bytes(b'{"step": "\xe6\xb8"}\n{"step": 2}\n')
  with pytest.raises(ValueError, match=r'rows\.jsonl:1: expected a JSON'):
    jsonl.read(path)
