"""The queue of votes that need a decision, and the decisions of people."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

from etils import epath, epy

from sqlm_jax.config import schema
from sqlm_jax.game import ballots, verdicts
from sqlm_jax.grading import answer_kinds
from sqlm_jax.review import entries
from sqlm_jax.workdir import reviews, run_reader

with epy.lazy_imports():  # takes half a second
  from scipy import stats

# The queue has the votes of the newest steps, until it has enough of them.
_MAX_STEPS = 8
_MIN_BALLOTS = 100
_CONFIDENCE = 0.95
MAX_REVIEWER = 80
ORDERS = ('uncertain', 'leverage', 'views')
PICKS = (*ORDERS, verdicts.RANDOM)


class StaleError(ValueError):
  """Raised if a step was repeated after a page had shown it."""


class VoteAccuracy(NamedTuple):
  """Share of right votes, with the ends of its 95% interval."""

  right: int
  total: int
  low: float
  high: float


def queue(
  workdir: epath.PathLike,
  config: schema.Config,
  *,
  reviewer: str = '',
  pick: str = '',
  all_steps: bool = False,
) -> list[ballots.Choice]:
  """Returns the votes that need a decision, in the order of the queue.

  Args:
    workdir: Directory of the run.
    config: Config of the run.
    reviewer: Votes that this reviewer has skipped are left out.
    pick: Replaces `review.pick`; '' uses the config.
    all_steps: True for all steps, False for the newest ones.
  """
  events = verdicts.live(run_reader.review_events(workdir))
  decided = verdicts.fold(events).by_id
  hidden = decided.keys() | {
    event['id']
    for event in events
    if event['verdict'] == 'skip' and event.get('reviewer') == reviewer
  }
  waiting: list[ballots.Ballot] = []
  steps = run_reader.steps(workdir)[::-1]
  for step in steps if all_steps else steps[:_MAX_STEPS]:
    questions = entries.read_questions(
      workdir, step, num_views=config.num_prompts
    )
    waiting += [q.ballot for q in questions if q.ballot.id not in hidden]
    if len(waiting) >= _MIN_BALLOTS and not all_steps:
      break
  return ballots.order(
    waiting,
    pick=pick or config.review.pick,
    random_share=config.review.random_share,
    seed=config.seed,
    num_decided=len(decided),
  )


def vote_accuracy(events: Sequence[verdicts.Event]) -> VoteAccuracy | None:
  """Estimates how often votes are right, from random draws alone.

  Returns:
    The estimate with Wilson's interval, None without any verdict on a draw.
  """
  right, total = verdicts.count_random(events)
  if not total:
    return None
  interval = stats.binomtest(right, total).proportion_ci(
    _CONFIDENCE, method='wilson'
  )
  return VoteAccuracy(right, total, float(interval.low), float(interval.high))


def to_event(
  config: schema.Config,
  ballot: ballots.Ballot,
  *,
  kind: str,
  answer: str = '',
  reviewer: str = '',
  pick: str = '',
) -> dict[str, Any]:
  """Returns a decision as a line of reviews.jsonl.

  Args:
    config: Config of the run.
    ballot: The vote that is decided.
    kind: One of `verdicts.DECISIONS`, or 'skip'.
    answer: The true answer, for 'correct'.
    reviewer: Name of the reviewer.
    pick: Why the vote was shown, '' if the reviewer opened it directly.

  Raises:
    ValueError: If the decision is not possible; the message says why.
  """
  allowed = (*verdicts.DECISIONS, 'skip')
  if kind not in allowed:
    raise ValueError(f'verdict={kind!r}: expected one of {", ".join(allowed)}')
  if kind in ('accept', 'reject') and ballot.vote is None:
    raise ValueError(
      f'verdict={kind!r}: expected a vote with a majority; this question has '
      'none'
    )
  answer = answer.strip() if kind == 'correct' else ''
  if kind == 'correct' and not is_readable(config, answer):
    raise ValueError(
      f'answer={answer!r}: expected an answer of the kind '
      f'{config.task.answer_kind!r}'
    )
  event = {
    'time': reviews.now(),
    'reviewer': clean_name(reviewer),
    'step': ballot.step,
    'id': ballot.id,
    'question': ballot.question,
    'vote': ballot.vote,
    'verdict': kind,
  }
  event |= {'answer': answer} if answer else {}
  return event | ({'pick': pick} if pick in PICKS else {})


def undo(workdir: epath.PathLike, reviewer: str) -> str | None:
  """Withdraws the last decision of a reviewer.

  Returns:
    The question that it was about, None if there is nothing to withdraw.
  """
  reviewer = clean_name(reviewer)
  events = verdicts.live(run_reader.review_events(workdir))
  mine = [event for event in events if event.get('reviewer', '') == reviewer]
  if not mine:
    return None
  event = {'time': reviews.now(), 'reviewer': reviewer, 'verdict': 'undo'}
  event |= {name: mine[-1][name] for name in ('id', 'question')}
  reviews.append(workdir, [event])
  return mine[-1]['question']


def find_ballot(
  workdir: epath.PathLike,
  config: schema.Config,
  *,
  step: int,
  index: int,
  id: str,
) -> ballots.Ballot:
  """Returns the vote that a page has shown.

  Raises:
    StaleError: If the step has been repeated since, with other questions.
  """
  questions = entries.read_questions(
    workdir, step, num_views=config.num_prompts
  )
  return match_ballot(questions, step=step, index=index, id=id)


def match_ballot(
  questions: Sequence[entries.Question], *, step: int, index: int, id: str
) -> ballots.Ballot:
  """Returns the vote with an index and an id among the questions of a step.

  Raises:
    StaleError: If there is none.
  """
  for question in questions:
    if (question.ballot.index, question.ballot.id) == (index, id):
      return question.ballot
  raise StaleError(
    f'step {step}: this question is no longer there, because the step was '
    'repeated'
  )


def is_readable(config: schema.Config, answer: str) -> bool:
  """Returns True if the task can read an answer."""
  if not answer:
    return False
  parse = _parser(config.task.answer_kind, config.task.options)
  return parse([answer])[0] is not None


# Cached because expressions are parsed in processes that have to be started.
@functools.cache
def _parser(kind: str, options: tuple[str, ...]) -> answer_kinds.AnswerParser:
  return answer_kinds.make_parser(kind, options)


def clean_name(reviewer: str) -> str:
  """Returns a name on one line, without control characters."""
  printable = ''.join(c if c.isprintable() else ' ' for c in reviewer)
  return ' '.join(printable.split())[:MAX_REVIEWER]
