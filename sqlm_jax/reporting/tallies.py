"""Counts the questions and answers of all steps of a run.

One step is in memory at a time, so runs with millions of rows can be counted.
"""

import collections
import dataclasses
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from etils import epath

from sqlm_jax.workdir import run_reader

_COLUMNS = (
  'role',
  'group',
  'question',
  'answer',
  'right',
  'vote',
  'vote_share',
  'true_answer',
  'trained_on',
  'reason',
  'topic',
)


class Point(NamedTuple):
  """The vote on a question.

  Attributes:
    step: Self-play step.
    share: Fraction of the answers that equal the majority's, 0 without one.
    right: True if the vote is right by the checker, None if it is not known.
  """

  step: int
  share: float
  right: bool | None


@dataclasses.dataclass
class StepTally:
  """Counts of a step.

  Attributes:
    step: Self-play step.
    proposed: Responses of the proposer.
    solved: Questions that were answered.
    answers: Answers of the solver.
    trained_answers: Answers that the solver was trained on.
    trained_proposals: Responses that the proposer was trained on.
    reasons: Number of questions by the reason that refused them or left them
      without a majority.
  """

  step: int
  proposed: int = 0
  solved: int = 0
  answers: int = 0
  trained_answers: int = 0
  trained_proposals: int = 0
  reasons: collections.Counter[str] = dataclasses.field(
    default_factory=collections.Counter
  )


@dataclasses.dataclass
class TopicTally:
  """Counts of the votes on the questions of a topic.

  Attributes:
    votes: Questions that were answered.
    majorities: Votes with a majority.
    agreement: Sum of the agreement of these votes.
    checked: Majorities on questions whose true answer the checker knows.
    right: Number of these majorities that are right.
  """

  votes: int = 0
  majorities: int = 0
  agreement: float = 0.0
  checked: int = 0
  right: int = 0


class Tallies(NamedTuple):
  """Counts of a run.

  Attributes:
    steps: Counts of each step, in order.
    topics: Counts of votes by topic; None for questions without a topic.
    points: One for each vote, in order. Questions that are asked again because
      of a verdict are left out, here and in `topics`.
    trained_by_vote: Questions whose answers were trained on by their vote or
      their tests.
    trained_by_verdict: Questions whose answers were trained on by a verdict.
  """

  steps: list[StepTally]
  topics: dict[str | None, TopicTally]
  points: list[Point]
  trained_by_vote: set[str]
  trained_by_verdict: set[str]

  def reasons(self) -> collections.Counter[str]:
    """Returns the number of questions by reason."""
    return sum((t.reasons for t in self.steps), collections.Counter())


def read(workdir: epath.PathLike, *, num_views: int) -> Tallies:
  """Counts the rows of all steps.

  Args:
    workdir: Directory of the run.
    num_views: Number of prompts that ask a question.
  """
  tallies = Tallies([], {}, [], set(), set())
  for step in run_reader.steps(workdir):
    table = run_reader.rollouts(workdir, [step], columns=_COLUMNS)
    proposals = table.filter(pc.field('role') == 'proposer')
    answers = table.filter(pc.field('role') == 'solver')
    solved = _one_per_question(answers, num_views)
    tallies.steps.append(_count_step(step, proposals, answers, solved))
    asked = solved
    if proposals['topic'].null_count < len(proposals):
      # Only questions that are asked again because of a verdict have no topic.
      asked = solved.filter(pc.field('topic').is_valid())
    _add_votes(tallies, step, table, asked)
    for questions, is_verdict in (
      (tallies.trained_by_vote, pc.field('true_answer').is_null()),
      (tallies.trained_by_verdict, pc.field('true_answer').is_valid()),
    ):
      chosen = answers.filter(pc.field('trained_on') & is_verdict)
      questions.update(chosen['question'].unique().to_pylist())
  return tallies


def _count_step(
  step: int, proposals: pa.Table, answers: pa.Table, solved: pa.Table
) -> StepTally:
  # Without a proposer, the answers have the reasons of their questions.
  asked = proposals if len(proposals) else solved
  return StepTally(
    step,
    proposed=len(proposals),
    solved=len(solved),
    answers=len(answers),
    trained_answers=sum(answers['trained_on'].to_pylist()),
    trained_proposals=sum(proposals['trained_on'].to_pylist()),
    reasons=_counts(asked['reason']),
  )


def _add_votes(
  tallies: Tallies, step: int, table: pa.Table, asked: pa.Table
) -> None:
  """Adds the votes of a step to the topics and points."""
  # A voter's answers may be the majority, so rows of all roles are searched.
  agreeing = table.filter(pc.field('answer') == pc.field('vote'))
  # A step may ask a question twice, with different votes.
  right = {
    (row['question'], row['vote']): row['right']
    for row in agreeing.select(['question', 'vote', 'right']).to_pylist()
    if row['right'] is not None
  }
  for row in asked.to_pylist():
    tally = tallies.topics.setdefault(row['topic'], TopicTally())
    tally.votes += 1
    share, is_right = row['vote_share'], None
    if share is not None:
      is_right = right.get((row['question'], row['vote']))
      tally.majorities += 1
      tally.agreement += share
    if is_right is not None:
      tally.checked += 1
      tally.right += is_right
    tallies.points.append(Point(step, share or 0.0, is_right))


def _one_per_question(answers: pa.Table, num_views: int) -> pa.Table:
  """Returns a row of each question, in order, as `ballots.representative`."""
  groups = answers['group'].to_pylist()
  is_parsed = answers['answer'].is_valid().to_pylist()
  chosen: dict[int, int] = {}
  for row, group in enumerate(groups):
    current = chosen.setdefault(group // num_views, row)
    if is_parsed[row] and not is_parsed[current]:
      chosen[group // num_views] = row
  # Without a type, an empty list would not be a list of indices.
  return answers.take(pa.array(sorted(chosen.values()), pa.int64()))


def _counts(column: pa.ChunkedArray) -> collections.Counter[str]:
  counted = column.drop_null().value_counts().to_pylist()
  return collections.Counter({x['values']: x['counts'] for x in counted})
