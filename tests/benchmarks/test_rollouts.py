"""Responses have the chosen lengths."""

import sys

import numpy as np
import pytest

from benchmarks import models, rollouts, sampling


def walk(table, tokens):
  """Returns the number of tokens after which a response stops."""
  state = 0
  for count, token in enumerate(tokens, start=1):
    state = table[state, token]
    if state == 1:
      return count
  return None


@pytest.mark.parametrize('length', [1, 2, 3, 5])
def test_the_first_token_determines_the_length(length):
  first, lengths = np.array([[4, 7]]), np.array([[length, 5]])
  table = rollouts.length_table(first, lengths, vocab_size=9)
  assert walk(table, [4, 7, 8, 4, 0, 1]) == length
  assert walk(table, [7, 4, 8, 4, 0, 1]) == 5


def test_sampled_responses_have_the_chosen_lengths():
  sampler = rollouts.Sampling(models.SHAPES['tiny'], chunk=4)
  lengths = np.array([[1, 9], [4, 2]])
  prompts = models.prompts(2, 3, vocab_size=512)
  settings = sampler.forced(prompts, lengths)
  rollout = sampler.call(prompts, settings, slots=9)()
  assert rollout.lengths.tolist() == lengths.tolist()


def test_capacity_workload_runs(monkeypatch, capsys):
  flags = (
    '--workload=capacity --capacity_tokens=2 --capacities 2 64 --repeats=1'
  )
  monkeypatch.setattr(sys, 'argv', ['sampling', '--model=tiny', *flags.split()])
  sampling.main()
  assert 'with a capacity of 64' in capsys.readouterr().out
