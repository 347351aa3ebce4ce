"""Verdicts of reviewers on questions and their votes.

A verdict is an event. reviews.jsonl has one event per line, with these entries:

  verdict    accept: the vote is right; correct: `answer` is right; reject: the
             vote is wrong; exclude: the question must not be trained on;
             skip: no decision; undo: the reviewer's last event on the question
             is withdrawn
  question   text of the question, and `id`, its `question_id`
  reviewer   name of the person; `CHECKER` for a simulated reviewer
  vote       answer of the majority that the reviewer saw, None without one
  pick       why the reviewer was asked; `RANDOM` for a random draw

The last verdict on a question counts, whoever gave it.
"""

import functools
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlm_jax.game import contamination, types

DECISIONS = ('accept', 'correct', 'reject', 'exclude')
KINDS = (*DECISIONS, 'skip', 'undo')
CHECKER = 'checker'
RANDOM = 'random'

# Reasons of the gate, by verdict.
_REFUSALS = {'reject': 'rejected', 'exclude': 'excluded'}

_MAX_CHARACTERS = 10_000  # the time to find a key grows faster than linearly

Event = Mapping[str, Any]


class Verdict(NamedTuple):
  """A decision about a question.

  Attributes:
    question: text of the question.
    kind: one of `DECISIONS`.
    answer: the true answer as text, '' if it is not known.
  """

  question: str
  kind: str
  answer: str = ''


class Verdicts(NamedTuple):
  """The verdicts that a step of training has read.

  Attributes:
    by_id: verdicts by `question_id`, in the order in which they were given.
    num_lines: number of lines of reviews.jsonl that were read.
    random_right: number of right votes among the randomly drawn ones.
    random_total: number of randomly drawn votes with a verdict.
  """

  by_id: Mapping[str, Verdict] = {}
  num_lines: int = 0
  random_right: int = 0
  random_total: int = 0

  def refusal(self, question: str) -> str:
    """Returns the reason to refuse a question, '' for none."""
    verdict = self._of(question)
    return _REFUSALS.get(verdict.kind, '') if verdict else ''

  def true_answer(self, question: str) -> str:
    """Returns the true answer to a question as text, '' if unknown."""
    verdict = self._of(question)
    return verdict.answer if verdict else ''

  def answered(self) -> list[str]:
    """Returns the questions whose true answers are known, oldest first."""
    return [v.question for v in self.by_id.values() if v.answer]

  def _of(self, question: str) -> Verdict | None:
    return self.by_id.get(question_id(question)) if self.by_id else None


NONE = Verdicts()


# Cached because a page and a step need the same hashes several times.
@functools.lru_cache(maxsize=2**14)
def question_id(question: str) -> str:
  """Returns the hash that equal questions share, see `contamination.key`.

  Very long questions are equal only if all of their characters are.
  """
  is_short = len(question) <= _MAX_CHARACTERS
  key = contamination.key(question) if is_short else question
  return hashlib.sha256(key.encode('utf-8', 'surrogatepass')).hexdigest()[:16]


def fold(events: Sequence[Event | None]) -> Verdicts:
  """Returns the verdicts that are in force after some events.

  Args:
    events: one entry for each line of the file, None for a damaged line.
  """
  by_id: dict[str, Verdict] = {}
  valid = live(events)
  for event in valid:
    if event['verdict'] in DECISIONS:
      by_id.pop(event['id'], None)  # the last verdict comes last
      by_id[event['id']] = _verdict(event)
  return Verdicts(by_id, len(events), *count_random(valid))


def live(events: Iterable[Event | None]) -> list[Event]:
  """Returns the valid events that have not been withdrawn by an undo."""
  kept: list[Event] = []
  for event in events:
    if event is None or not _is_valid(event):
      continue
    if event['verdict'] != 'undo':
      kept.append(event)
      continue
    for i in reversed(range(len(kept))):
      if _author(kept[i]) == _author(event):
        del kept[i]
        break
  return kept


def count_random(events: Iterable[Event]) -> tuple[int, int]:
  """Returns the number of right votes, and of all votes, among random draws.

  Only random draws do not depend on how many answers agree, so only they give
  an unbiased estimate of how often votes are right. Each question counts once.

  Args:
    events: events from `live`.
  """
  right: dict[str, bool] = {}
  for event in events:
    is_judged = event['verdict'] in ('accept', 'correct', 'reject')
    if event.get('pick') == RANDOM and is_judged and event.get('vote'):
      right[event['id']] = event['verdict'] == 'accept'
  return sum(right.values()), len(right)


def as_vote(
  true: types.Answer,
  answers: Sequence[types.Answer],
  is_true: Callable[[types.Answer, types.Answer], bool],
) -> types.Vote:
  """Returns the true answer as a vote for which the equal answers voted.

  Args:
    true: the true answer.
    answers: the answers to the question.
    is_true: `(answer, true) -> bool`, see `Task.is_true`.
  """
  agreeing = [a for a in answers if a is not None and is_true(a, true)]
  # The group's own form of the answer, which rewards are compared with.
  answer = agreeing[0] if agreeing else true
  return types.Vote(answer, len(agreeing), len(answers))


def _author(event: Event) -> tuple[str, str]:
  return event['id'], event.get('reviewer', '')


def _is_valid(event: Event) -> bool:
  texts = (event.get('verdict'), event.get('id'), event.get('question'))
  return all(isinstance(x, str) for x in texts) and event['verdict'] in KINDS


def _verdict(event: Event) -> Verdict:
  kind = event['verdict']
  answer = {'accept': event.get('vote'), 'correct': event.get('answer')}
  return Verdict(event['question'], kind, str(answer.get(kind) or ''))
