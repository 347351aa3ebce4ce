"""The time to the first step: lines of a running process, and its failure."""

import sys

import pytest

from benchmarks import compile as benchmark


def test_only_complete_lines_are_counted(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  assert benchmark.lines(path) == 0
  path.write_text('{}\n{"step"')
  assert benchmark.lines(path) == 1


def test_a_failed_run_is_an_error(monkeypatch):
  monkeypatch.setattr(sys, 'executable', 'false')
  with pytest.raises(RuntimeError, match='without a first step'):
    benchmark.run_to_first_step([])
