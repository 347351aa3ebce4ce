"""Responses of chosen lengths."""

import sys

import numpy as np
import pytest

from benchmarks import long_tail, models, rollouts, sampling


def walk(table, tokens):
  """The number of tokens after which a response has stopped."""
  state = 0
  for count, token in enumerate(tokens, start=1):
    state = table[state, token]
    if state == 1:
      return count
  return None


@pytest.mark.parametrize('length', [1, 2, 3, 5])
def test_the_first_token_decides_the_length(length):
  first, lengths = np.array([[4, 7]]), np.array([[length, 5]])
  table = rollouts.length_table(first, lengths, vocab_size=9)
  assert walk(table, [4, 7, 8, 4, 0, 1]) == length
  assert walk(table, [7, 4, 8, 4, 0, 1]) == 5


def test_the_sampler_writes_as_much_as_was_asked_for():
  sampler = rollouts.Sampling(models.SHAPES['tiny'], chunk=4)
  lengths = np.array([[1, 9], [4, 2]])
  prompts = models.prompts(2, 3, vocab_size=512)
  settings = sampler.forced(prompts, lengths)
  found = sampler.call(prompts, settings, slots=9)()
  assert found.lengths.tolist() == lengths.tolist()


def test_a_heavy_tail():
  lengths = long_tail.heavy_tail(128, median=50, ratio=10)
  # The last quantile is at 10 medians by construction, the middle between the
  # two middle ones.
  assert (np.median(lengths), lengths.max()) == (50, 500)
  assert (np.diff(lengths) >= 0).all()
  assert np.mean(lengths > 100) < 0.2


def run(module, monkeypatch, *words):
  monkeypatch.setattr(sys, 'argv', ['name', '--model=tiny', *words])
  module.main()


def test_room_runs(monkeypatch, capsys):
  words = '--workload=room --room_tokens=2 --rooms 2 64 --repeats=1'
  run(sampling, monkeypatch, *words.split())
  assert 'room for 64' in capsys.readouterr().out
