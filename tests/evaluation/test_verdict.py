"""The verdict of a pilot, over a table of cases."""

import pytest

from sqlm_jax.evaluation import labeled_votes, verdict

QUESTIONS = verdict.Questions(
  total=32,
  readable=0.9,
  reasons={'format': 3},
  distinct=0.8,
  majority=0.9,
  agreement=0.6,
  right=None,
  unanimous=0.3,
  in_band=0.5,
  learnable=0.6,
  top_answer='7',
  top_share=0.2,
  pass_rate=None,
)
PROGRAMS = QUESTIONS._replace(majority=None, agreement=None, pass_rate=0.4)
LABELS = 'ABCDE'


def votes(*groups, min_agreement=0.0, labels=LABELS, greedy=True):
  """Returns figures from groups (agreement, right, wrong) of votes."""
  rights = [
    (agreement, is_right)
    for agreement, right, wrong in groups
    for is_right in [True] * right + [False] * wrong
  ]
  return labeled_votes.summarize(
    [
      labeled_votes.LabeledVote(
        label=labels[i % len(labels)],
        agreement=agreement,
        vote_is_right=is_right,
        greedy_is_right=greedy,
        share_right=0.5,
      )
      for i, (agreement, is_right) in enumerate(rights)
    ],
    target=0.8,
    min_agreement=min_agreement,
  )


NO_MAJORITY = votes((0.0, 0, 20))
GOOD = votes((1.0, 30, 0), (0.5, 18, 2))
# Without a threshold, 26 of 50 votes are right, and 23 of 25 with one.
ORDERS = votes((0.75, 23, 2), (0.25, 3, 22))
# The five votes with full agreement are too few to tell.
FEW_CERTAIN = votes((1.0, 5, 0), (0.25, 30, 25), labels=LABELS * 4 + 'FGHIJ')
STRICT = votes((0.75, 23, 2), (0.25, 3, 22), min_agreement=0.6)
TOO_STRICT = votes((0.75, 23, 2), (0.25, 3, 22), min_agreement=0.9)
AT_CHANCE = votes((1.0, 8, 32), (0.5, 2, 8))
ONE_LABEL = votes((1.0, 45, 5), labels='AAAAAAAAAB')


@pytest.mark.parametrize(
  'questions, figures, line, reason',
  [
    (
      QUESTIONS._replace(readable=0.05),
      GOOD,
      'do not train, because only 5% of the questions are readable',
      '',
    ),
    (
      QUESTIONS._replace(readable=0.0, majority=None, learnable=None),
      GOOD,
      'do not train, because only 0% of the questions are readable',
      '',
    ),
    (
      QUESTIONS._replace(majority=0.05),
      GOOD,
      'do not train, because only 5% of the questions have a majority',
      '',
    ),
    (
      QUESTIONS._replace(learnable=0.0),
      GOOD,
      'do not train, because there is nothing to learn',
      'the same reward',
    ),
    (QUESTIONS, GOOD, 'go', '48 of 50 votes'),
    (
      QUESTIONS,
      ORDERS,
      'go with these settings: --config.vote.min_agreement=0.75',
      '23 of 25 votes are right (92%); without it, 26 of 50 (52%)',
    ),
    (QUESTIONS, STRICT, 'go', '23 of 25 votes'),
    (
      QUESTIONS,
      FEW_CERTAIN,
      'go with these settings: --config.vote.min_agreement=1',
      '5 of 5 votes are right',
    ),
    (
      QUESTIONS,
      TOO_STRICT,
      'go with these settings: --config.vote.min_agreement=0.75',
      'without it, no vote counts',
    ),
    (
      QUESTIONS,
      AT_CHANCE,
      'do not train, because the votes are at chance: 10 of 50',
      'the most common label',
    ),
    (
      QUESTIONS,
      ONE_LABEL,
      'do not train, because the votes are at chance: 45 of 50',
      "'A', is right for 90%",
    ),
    (
      QUESTIONS,
      NO_MAJORITY,
      'do not train, because no labeled question has a majority',
      '',
    ),
    (
      QUESTIONS,
      None,
      'unknown',
      'add about 50 pairs',
    ),
    (
      QUESTIONS._replace(top_share=0.95, top_answer='C'),
      None,
      "do not train, because the vote is 'C' for 95%",
      '',
    ),
    # Labels decide, if there are any.
    (QUESTIONS._replace(top_share=0.95), GOOD, 'go', ''),
    (PROGRAMS, None, 'go', 'some programs pass tests'),
    (
      PROGRAMS._replace(pass_rate=0.0),
      None,
      'do not train, because no program passes a test',
      '',
    ),
    (
      PROGRAMS._replace(learnable=0.0),
      None,
      'do not train, because there is nothing to learn',
      '',
    ),
  ],
)
def test_the_verdict(questions, figures, line, reason):
  decided = verdict.decide(questions, figures)
  assert decided.line().startswith(line)
  assert reason in decided.reason


def test_mostly_wrong_votes_are_not_trained_on():
  """They may be far better than chance, which is 1% here."""
  labels = [str(i) for i in range(100)]
  wrong = votes((0.75, 20, 30), (0.25, 5, 45), labels=labels)
  decided = verdict.decide(QUESTIONS, wrong)
  assert decided.line().startswith(
    'do not train, because most votes are wrong at any level of agreement'
  )
  half = votes((0.75, 30, 20), (0.25, 5, 45), labels=labels)
  decided = verdict.decide(QUESTIONS, half)
  assert decided.settings == ('--config.vote.min_agreement=0.75',)
  assert any('At no level of agreement are 80%' in x for x in decided.notes)


@pytest.mark.parametrize(
  'questions, figures, note',
  [
    (QUESTIONS._replace(readable=0.3), GOOD, '70% of the questions cannot'),
    (QUESTIONS._replace(distinct=0.4), GOOD, 'Only 40% of the questions'),
    (QUESTIONS._replace(right=0.75), None, 'By task.checker, 75% of the votes'),
    (
      QUESTIONS,
      votes((0.75, 9, 1), (0.25, 3, 37)),
      'more labeled questions would show it',
    ),
    (
      QUESTIONS,
      votes((0.75, 9, 1), (0.25, 3, 37)),
      'Only 20% of the questions keep their vote',
    ),
    (
      QUESTIONS,
      votes((1.0, 40, 10), greedy=True),
      'may lower the greedy accuracy',
    ),
  ],
)
def test_notes(questions, figures, note):
  assert any(note in x for x in verdict.decide(questions, figures).notes)


def test_a_good_pilot_needs_no_note():
  figures = votes((0.7, 50, 0))
  assert figures['agreement'] == pytest.approx(0.7)
  assert verdict.decide(QUESTIONS, figures).notes == ()


def test_labeled_questions_that_are_easier_than_those_of_the_proposer():
  (note,) = verdict.decide(QUESTIONS, votes((0.8, 50, 0))).notes
  assert note.startswith(
    "On average, 60% of the answers to the proposer's questions agree, and "
    '80% of the answers to labeled questions.'
  )
