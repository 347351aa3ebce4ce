"""Progress of a run, read from what it has written so far."""

import sys

import pytest

from benchmarks import compile as benchmark


def test_whole_lines_count(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  assert benchmark.lines(path) == 0
  path.write_text('{}\n{"step"')
  assert benchmark.lines(path) == 1


def test_a_run_that_fails_is_told(monkeypatch):
  monkeypatch.setattr(sys, 'executable', 'false')
  with pytest.raises(RuntimeError, match='no first step'):
    benchmark.run_to_first_step([])
