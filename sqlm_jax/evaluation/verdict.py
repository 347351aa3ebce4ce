"""The verdict of a pilot: whether to train, and with which settings.

`decide` applies a list of rules in order. docs/pilot.md explains them.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from sqlm_jax.evaluation import labeled_votes, report

GO: Literal['go'] = 'go'
GO_WITH: Literal['go with these settings'] = 'go with these settings'
STOP: Literal['do not train'] = 'do not train'
UNKNOWN: Literal['unknown'] = 'unknown'

MIN_READABLE = 0.1  # fraction of the questions
MIN_MAJORITY = 0.1  # fraction of the readable questions
MIN_LEARNABLE = 0.02  # fraction of the readable questions
MAX_ANSWER_SHARE = 0.9  # fraction of the different questions with a majority
MIN_ACCURACY = 0.5  # fraction of the votes
MAX_AGREEMENT_GAP = 0.15  # between labeled and proposed questions
LABELS = 50  # a sufficient number of labels in most cases


class Questions(NamedTuple):
  """Figures of the questions of a step and of the answers to them.

  Attributes:
    total: Number of questions.
    readable: Fraction of the questions that are solved.
    reasons: Number of refused questions by the reason of the gate.
    distinct: Fraction of the readable questions that are different.
    majority: Fraction of the readable questions with a majority, None if
      programs are run against tests instead.
    agreement: Mean fraction of the answers that agree with the majority.
    right: Fraction of the votes that are right by the task's checker, None
      without a checker.
    unanimous: Fraction of the readable questions whose answers all agree.
    in_band: Fraction of the readable questions whose agreement is in
      `proposer.band`.
    learnable: Fraction of the readable questions whose answers have different
      rewards.
    top_answer: The most common voted answer over different questions.
    top_share: Fraction of the different questions whose vote is `top_answer`.
    pass_rate: Fraction of the tests that programs pass, None without tests.
  """

  total: int
  readable: float
  reasons: Mapping[str, int]
  distinct: float | None
  majority: float | None
  agreement: float | None
  right: float | None
  unanimous: float | None
  in_band: float | None
  learnable: float | None
  top_answer: str | None
  top_share: float | None
  pass_rate: float | None


class Verdict(NamedTuple):
  """A verdict.

  Attributes:
    decision: The decision.
    reason: Why, as a sentence.
    settings: Config overrides that the decision requires.
    notes: Further remarks, as sentences.
  """

  decision: Literal['go', 'go with these settings', 'do not train', 'unknown']
  reason: str
  settings: tuple[str, ...] = ()
  notes: tuple[str, ...] = ()

  def line(self) -> str:
    """Returns the verdict on one line."""
    if self.settings:
      return f'{self.decision}: {" ".join(self.settings)}'
    if self.decision == STOP:
      return f'{self.decision}, because {self.reason}'
    return self.decision


def decide(questions: Questions, votes: Mapping[str, Any] | None) -> Verdict:
  """Decides whether to train.

  Args:
    questions: Figures of the questions of a step.
    votes: Figures of votes on labeled questions, from
      `labeled_votes.summarize`; None without labeled questions.
  """
  verdict = _on_questions(questions) or _on_votes(questions, votes)
  return verdict._replace(notes=tuple(_notes(questions, votes)))


def _on_questions(q: Questions) -> Verdict | None:
  """Decides by the questions alone; returns None if they do not decide."""
  if q.readable < MIN_READABLE:
    return Verdict(STOP, f'only {q.readable:.0%} of the questions are readable')
  if q.pass_rate is not None:
    if q.pass_rate == 0:
      return Verdict(STOP, 'no program passes a test')
  elif (q.majority or 0.0) < MIN_MAJORITY:
    return Verdict(
      STOP, f'only {q.majority or 0.0:.0%} of the questions have a majority'
    )
  if (q.learnable or 0.0) < MIN_LEARNABLE:
    return Verdict(
      STOP,
      'there is nothing to learn: all answers to a question have the same '
      'reward',
    )
  if q.pass_rate is not None:
    return Verdict(GO, 'some programs pass tests and others do not')
  return None


def _on_votes(q: Questions, votes: Mapping[str, Any] | None) -> Verdict:
  if votes is None:
    if q.top_share is not None and q.top_share >= MAX_ANSWER_SHARE:
      return Verdict(
        STOP,
        f'the vote is {q.top_answer!r} for {q.top_share:.0%} of the different '
        'questions',
      )
    return Verdict(
      UNKNOWN,
      'without labeled questions, nobody knows how often the votes are right; '
      f'add about {LABELS} pairs of a question and its true answer as '
      'task.validation',
    )
  chosen = votes['suggestion']
  if chosen is None:
    return Verdict(STOP, 'no labeled question has a majority')
  configured = votes['configured']
  needs_change = configured is None or chosen['kept'] < configured['kept']
  if not needs_change:
    chosen = {**chosen, **configured}
  versus = chosen['vs_constant']
  right = f'{_count(chosen)} votes are right ({chosen["accuracy"]:.0%})'
  constant = (
    f'the most common label, {votes["constant"]["label"]!r}, is right for '
    f'{versus["other"]:.0%} of the same questions'
  )
  # All votes may be enough to tell where those above a threshold are too few.
  beats_chance = labeled_votes.is_better(versus) or (
    versus['value'] > 0 and labeled_votes.is_better(votes['all']['vs_constant'])
  )
  if not beats_chance:
    return Verdict(
      STOP,
      f'the votes are at chance: {right}; {constant} '
      f'({report.describe_p(versus["p"])})',
    )
  if chosen['accuracy'] < MIN_ACCURACY:
    return Verdict(
      STOP,
      f'most votes are wrong at any level of agreement: at best, {right}',
    )
  if not needs_change:
    return Verdict(GO, f'{right}; {constant}')
  before = 'without it, no vote counts'
  if configured is not None:
    before = f'without it, {_count(configured)} ({configured["accuracy"]:.0%})'
  setting = (
    f'--config.vote.min_agreement={report.round_down(chosen["agreement"])}'
  )
  return Verdict(GO_WITH, f'{right}; {before}; {constant}', (setting,))


def _agreement_gap(q: Questions, votes: Mapping[str, Any]) -> str | None:
  """Describes how the proposer's questions differ from labeled ones."""
  own, labeled = q.agreement, votes['agreement']
  if own is None or labeled - own <= MAX_AGREEMENT_GAP:
    return None
  return (
    f"On average, {own:.0%} of the answers to the proposer's questions agree, "
    f'and {labeled:.0%} of the answers to labeled questions. The votes on the '
    "proposer's questions are probably less often right than the verdict says; "
    'label questions of the proposer (--mode=sample --role=proposer).'
  )


def _count(votes: Mapping[str, Any]) -> str:
  return f'{votes["right"]} of {votes["votes"]}'


def _notes(q: Questions, votes: Mapping[str, Any] | None) -> list[str]:
  notes = []
  if MIN_READABLE <= q.readable < 0.5:
    notes.append(
      f'{1 - q.readable:.0%} of the questions cannot be used; see the reasons.'
    )
  if q.distinct is not None and q.distinct < 0.5:
    notes.append(
      f'Only {q.distinct:.0%} of the questions are different; '
      'gate.repeats=batch refuses repeated questions.'
    )
  if votes is None and q.right is not None:
    notes.append(
      f'By task.checker, {q.right:.0%} of the votes on the questions of the '
      'proposer are right.'
    )
  if votes is None or votes['suggestion'] is None:
    return notes
  if (gap := _agreement_gap(q, votes)) is not None:
    notes.append(gap)
  chosen, target = votes['suggestion'], votes['target']
  if not chosen['reaches_target']:
    notes.append(
      f'At no level of agreement are {target:.0%} of the votes right '
      '(evaluation.vote_precision).'
    )
  elif not chosen['is_certain']:
    notes.append(report.describe_certainty(chosen, target))
  if chosen['kept'] < 0.25:
    notes.append(
      f'Only {chosen["kept"]:.0%} of the questions keep their vote, so a step '
      'needs more questions.'
    )
  versus = chosen['vs_greedy']
  if versus['value'] < 0 and versus['p'] < 0.05:
    notes.append(
      f'The greedy answer is right for {versus["other"]:.0%} of the questions '
      f'whose vote counts, and the vote for {chosen["accuracy"]:.0%}: training '
      'may lower the greedy accuracy. A lower solver.temperature makes votes '
      'more like the greedy answer.'
    )
  return notes
