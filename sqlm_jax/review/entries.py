"""Rows of rollouts as the entries that pages show: questions and responses."""

import collections
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from etils import epath

from sqlm_jax.game import ballots, verdicts
from sqlm_jax.workdir import rollouts, run_reader

Row = Mapping[str, Any]

# Texts of prompts and responses are read for a single question only.
_QUESTION_COLUMNS = (
  'role',
  'group',
  'sample',
  'question',
  'answer',
  'vote',
  'vote_share',
  'reward',
  'reason',
)


class Question(NamedTuple):
  """A question of a step that was solved.

  Attributes:
    ballot: Its answers and their vote.
    rewards: Reward of each answer of the solver, None for none.
    proposer_reward: Reward of the question, None for none.
    topic: Topic that the proposer was given, '' if unknown.
    verdict: The decision that holds, None without one.
  """

  ballot: ballots.Ballot
  rewards: tuple[float | None, ...]
  proposer_reward: float | None
  topic: str
  verdict: verdicts.Verdict | None


class Filter(NamedTuple):
  """Which questions or responses of a step a page shows.

  Attributes:
    reason: Reason of the gate or of the vote, 'none' for no reason, '' for any.
    low: Minimum agreement.
    high: Maximum agreement.
    topic: '' for any.
    reviewed: 'yes', 'no', or '' for both.
    text: Text that a question or an answer contains, in any case.
    sort: 'agreement', '-agreement', or '' for the order of the step.
  """

  reason: str = ''
  low: float = 0.0
  high: float = 1.0
  topic: str = ''
  reviewed: str = ''
  text: str = ''
  sort: str = ''


def read_questions(
  workdir: epath.PathLike,
  step: int,
  *,
  num_views: int,
  decided: verdicts.Verdicts = verdicts.NONE,
) -> list[Question]:
  """Reads the solved questions of a step.

  Args:
    workdir: Directory of the run.
    step: Self-play step.
    num_views: Number of prompts that ask a question.
    decided: The verdicts that hold.
  """
  rows = read_rows(workdir, step, _QUESTION_COLUMNS).to_pylist()
  proposals: dict[str, collections.deque[Row]] = {}
  rewards: dict[int, list[float | None]] = {}
  for row in rows:
    if row['role'] == 'proposer' and row['question'] is not None:
      queue = proposals.setdefault(row['question'], collections.deque())
      queue.append(row)
    elif row['role'] == 'solver':
      rewards.setdefault(row['group'] // num_views, []).append(row['reward'])
  questions = []
  for ballot in ballots.from_rows(rows, step=step, num_views=num_views):
    # Of equal questions, the first was proposed first.
    queue = proposals.get(ballot.question)
    proposal: Row = queue.popleft() if queue else {}
    questions.append(
      Question(
        ballot,
        tuple(rewards.get(ballot.index, ())),
        proposal.get('reward'),
        proposal.get('topic') or '',
        decided.by_id.get(ballot.id),
      )
    )
  return questions


def read_rows(
  workdir: epath.PathLike,
  step: int,
  columns: Sequence[str],
  *,
  where: pc.Expression | None = None,
) -> pa.Table:
  """Reads columns of a step, and its topics if the run has stored them."""
  names = [*columns, 'topic'] if 'topic' in rollouts.SCHEMA.names else columns
  return run_reader.rollouts(workdir, [step], columns=list(names), where=where)


def read_answers(
  workdir: epath.PathLike, step: int, index: int, *, num_views: int
) -> list[dict[str, Any]]:
  """Reads the responses to one question, each with its likelihood."""
  group, role = pc.field('group'), pc.field('role')
  solver = (group >= index * num_views) & (group < (index + 1) * num_views)
  where = ((role == 'solver') & solver) | ((role == 'voter') & (group == index))
  rows = run_reader.rollouts(workdir, [step], where=where).to_pylist()
  return [row | {'likelihood': likelihood(row)} for row in rows]


def read_proposal(
  workdir: epath.PathLike, step: int, question: str
) -> dict[str, Any] | None:
  """Reads the response in which the proposer asked a question."""
  where = (pc.field('role') == 'proposer') & (pc.field('question') == question)
  rows = run_reader.rollouts(workdir, [step], where=where).to_pylist()
  return rows[0] if rows else None


def read_responses(
  workdir: epath.PathLike, step: int, role: str
) -> list[dict[str, Any]]:
  """Reads all responses of a role in a step, without their prompts."""
  columns = (*_QUESTION_COLUMNS, 'response', 'finished', 'trained_on')
  where = pc.field('role') == role
  return read_rows(workdir, step, columns, where=where).to_pylist()


def likelihood(row: Row) -> float | None:
  """Returns the geometric mean of the probabilities of a row's tokens."""
  if not row['num_tokens']:
    return None
  return math.exp(row['logprob'] / row['num_tokens'])


def select_questions(
  questions: Iterable[Question], chosen: Filter
) -> list[Question]:
  """Returns the questions that a filter selects, in its order."""
  kept = [q for q in questions if _accepts(q, chosen)]
  if chosen.sort in ('agreement', '-agreement'):
    kept.sort(
      key=lambda q: q.ballot.agreement, reverse=chosen.sort.startswith('-')
    )
  return kept


def select_responses(rows: Iterable[Row], chosen: Filter) -> list[Row]:
  """Returns the responses that a filter selects."""
  text = chosen.text.casefold()
  return [
    row
    for row in rows
    if _has_reason(row['reason'] or '', chosen.reason)
    and (not chosen.topic or row.get('topic') == chosen.topic)
    and chosen.low <= (row['vote_share'] or 0.0) <= chosen.high
    and text in (row['response'] or '').casefold()
  ]


def _accepts(question: Question, chosen: Filter) -> bool:
  ballot, text = question.ballot, chosen.text.casefold()
  texts = (ballot.question, ballot.vote or '', *filter(None, ballot.answers))
  is_reviewed = {'yes': True, 'no': False}.get(chosen.reviewed)
  return (
    _has_reason(ballot.reason, chosen.reason)
    and chosen.low <= ballot.agreement <= chosen.high
    and (not chosen.topic or question.topic == chosen.topic)
    and is_reviewed in (None, question.verdict is not None)
    and any(text in other.casefold() for other in texts)
  )


def _has_reason(reason: str, wanted: str) -> bool:
  return not wanted or reason == ('' if wanted == 'none' else wanted)
