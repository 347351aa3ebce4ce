"""Figures of votes on labeled questions, worked by hand."""

import pytest

from sqlm_jax.evaluation import accuracy, labeled_votes, paired


def make(label, agreement, *, vote, greedy, share):
  return labeled_votes.LabeledVote(label, agreement, vote, greedy, share)


VOTES = [
  *[make('A', 1.0, vote=True, greedy=True, share=1.0)] * 6,
  *[make('b ', 0.75, vote=True, greedy=False, share=0.75)] * 4,
  *[make(' B', 0.5, vote=False, greedy=True, share=0.25)] * 4,
  *[make('C', 0.0, vote=False, greedy=False, share=0.0)] * 2,
]


def test_figures_worked_by_hand():
  figures = labeled_votes.summarize(VOTES, target=0.8, min_agreement=0.0)
  assert figures['questions'] == 16
  assert figures['greedy'] == 10 / 16
  assert figures['sampled'] == (6 + 4 * 0.75 + 4 * 0.25) / 16
  # 'b' and 'B' are the same label.
  assert figures['constant'] == {'label': 'b', 'share': 8 / 16}
  configured = figures['configured']
  # Questions without a majority do not count: 14 of 16.
  assert (configured['right'], configured['votes']) == (10, 14)
  assert configured['kept'] == 14 / 16
  assert (configured['low'], configured['high']) == accuracy.wilson(10, 14)
  # The label is right for 8 of these 14, and greedy answers for 10.
  assert configured['vs_constant']['other'] == 8 / 14
  assert configured['vs_constant']['value'] == pytest.approx(2 / 14)
  # 6 questions only by the vote, 4 only by the label.
  assert configured['vs_constant']['p'] == pytest.approx(
    paired.mcnemar([1] * 6 + [0] * 4, [0] * 6 + [1] * 4)
  )
  assert configured['vs_greedy']['value'] == 0
  assert not labeled_votes.is_better(configured['vs_greedy'])
  # 10 of 10 at 0.75: the interval starts at 0.72, below 0.8.
  suggestion = figures['suggestion']
  assert suggestion['agreement'] == 0.75
  assert (suggestion['right'], suggestion['votes']) == (10, 10)
  assert suggestion['reaches_target']
  assert not suggestion['is_certain']
  assert suggestion['vs_greedy']['value'] == pytest.approx(4 / 10)


def test_the_minimum_agreement_of_the_config_counts():
  figures = labeled_votes.summarize(VOTES, target=0.8, min_agreement=0.8)
  assert figures['configured']['votes'] == 6
  figures = labeled_votes.summarize(VOTES[6:], target=0.8, min_agreement=0.8)
  assert figures['configured'] is None


def test_nothing_is_suggested_without_a_majority():
  figures = labeled_votes.summarize(VOTES[-2:], target=0.8, min_agreement=0.0)
  assert figures['suggestion'] is None
  assert figures['configured'] is None
