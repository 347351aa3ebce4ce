"""Finds what made an update, and where a question came from.

`update` collects the questions of a step with their answers, votes, verdicts
and advantages. `history` collects all steps that had a question, and the
proposal that it came from. Both only read the files of the run.
"""

import collections
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath
from rapidfuzz import process

from sqlm_jax import display
from sqlm_jax.config import schema
from sqlm_jax.game import ballots, verdicts
from sqlm_jax.workdir import reviews, run_reader

PROPOSED, REPLAYED, GIVEN = 'proposed', 'replayed', 'given'
_SUGGESTIONS = 5
_MAX_SHOWN = 100  # characters of a question in an error message

Row = Mapping[str, Any]


class Answers(NamedTuple):
  """The equal answers to a question.

  Attributes:
    answer: Canonical answer, None if unparsed.
    count: Number of responses with this answer, including those of voters.
    num_trained: Number of these responses that were trained on.
    reward: Mean reward, None without one.
    advantage: Mean advantage of the responses that were trained on, or None.
    right: True if the answer is right by the task's checker, None if it is not
      known.
  """

  answer: str | None
  count: int
  num_trained: int
  reward: float | None
  advantage: float | None
  right: bool | None


class Asked(NamedTuple):
  """A question of a step, with its answers if it was solved.

  Attributes:
    step: Self-play step.
    question: Text of the question, None if no question could be parsed.
    topic: Topic that it was proposed for, None without one.
    source: `PROPOSED` by the proposer, `REPLAYED` because of a verdict, or
      `GIVEN` by `task.questions`.
    proposal: Row of the proposal, {} without one.
    vote: Answer of the majority, None without one.
    vote_share: Fraction of the answers that equal it.
    true_answer: Answer of a verdict, which was the label instead of the vote.
    reason: Why the question was refused or had no majority, None otherwise.
    leaked: Reason for which the gate would have refused the question if it were
      not exempt (`gate.leak`), None otherwise.
    answers: Equal answers, most frequent first.
    share: The question's share of the solver's update: the sum of the absolute
      advantages of its answers, divided by this sum for all answers.
    verdict: Verdict that the step had read, None without one.
  """

  step: int
  question: str | None
  topic: str | None
  source: str
  proposal: Row
  vote: str | None
  vote_share: float | None
  true_answer: str | None
  reason: str | None
  leaked: str | None
  answers: tuple[Answers, ...]
  share: float
  verdict: verdicts.Verdict | None

  @property
  def num_trained(self) -> int:
    """Number of its answers that were trained on."""
    return sum(answers.num_trained for answers in self.answers)


class Update(NamedTuple):
  """The data of the update of a step.

  Attributes:
    step: Self-play step.
    asked: Its questions, solved ones first.
    metrics: Metrics of the step, {} if there are none yet.
    footer: What the step was made with, see `run_reader.footer`.
    policy_steps: Optimizer steps of the weights that sampled, by role.
    trained: Number of responses that were trained on, by role.
  """

  step: int
  asked: tuple[Asked, ...]
  metrics: Mapping[str, float]
  footer: Mapping[str, str]
  policy_steps: Mapping[str, int]
  trained: Mapping[str, int]


class History(NamedTuple):
  """The history of a question.

  Attributes:
    question: Text of the question as it first occurred.
    asked: The question in every step that had it, oldest first.
    events: Events of reviewers about it, oldest first.
    evaluation_sets: Names of the evaluation sets that contain it.
  """

  question: str
  asked: tuple[Asked, ...]
  events: tuple[Mapping[str, Any], ...]
  evaluation_sets: tuple[str, ...]


def update(workdir: epath.PathLike, step: int) -> Update:
  """Collects what made the update of a step.

  Raises:
    ValueError: If the step has no rollouts. The message names those that have.
  """
  steps = run_reader.steps(workdir)
  if step not in steps:
    known = f'one of {steps[0]} to {steps[-1]}' if steps else 'a finished step'
    raise ValueError(f'--step={step}: expected {known} of {workdir}')
  rows = run_reader.rollouts(workdir, [step]).to_pylist()
  metrics = [r for r in run_reader.metrics(workdir) if r.get('step') == step]
  trained = collections.Counter(r['role'] for r in rows if r['trained_on'])
  return Update(
    step,
    tuple(
      questions_of(
        rows,
        config=run_reader.config(workdir),
        known=verdicts_of_step(workdir, step),
      )
    ),
    metrics[-1] if metrics else {},
    run_reader.footer(workdir, step),
    {row['role']: row['policy_step'] for row in rows},
    dict(trained),
  )


def history(workdir: epath.PathLike, question: str) -> History:
  """Collects the history of a question.

  Questions are the same if they have the same `verdicts.question_id`.

  Raises:
    ValueError: If the run has not asked the question. The message has similar
      questions.
  """
  wanted = verdicts.question_id(question)
  texts: dict[str, bool] = {}  # text -> True if it is the question
  asked: list[Asked] = []
  config = run_reader.config(workdir)
  for step in run_reader.steps(workdir):
    table = run_reader.rollouts(workdir, [step], columns=['question'])
    for text in table['question'].unique().to_pylist():
      if text is not None and text not in texts:
        texts[text] = verdicts.question_id(text) == wanted
    if any(map(texts.get, table['question'].unique().to_pylist())):
      rows = run_reader.rollouts(workdir, [step]).to_pylist()
      entries = questions_of(
        rows, config=config, known=verdicts_of_step(workdir, step)
      )
      asked += [entry for entry in entries if texts.get(entry.question or '')]
  if not asked:
    raise ValueError(_unknown_question(question, texts))
  events = run_reader.review_events(workdir)
  return History(
    asked[0].question or '',
    tuple(asked),
    tuple(event for event in events if event.get('id') == wanted),
    tuple(sorted(_evaluation_sets(workdir, wanted))),
  )


def _unknown_question(question: str, texts: Iterable[str]) -> str:
  similar = process.extract(question, list(texts), limit=_SUGGESTIONS)
  shown = display.clip(question, _MAX_SHOWN)
  message = f'--question={shown!r}: expected a question of the run'
  if similar:
    shown = [repr(display.clip(text, _MAX_SHOWN)) for text, *_ in similar]
    message += f', such as {", ".join(shown)}'
  return message


def _evaluation_sets(
  workdir: epath.PathLike, question_id: str
) -> Iterator[str]:
  """Yields the names of the evaluation sets that contain a question."""
  for name, rows in evaluated_questions(workdir).items():
    if any(
      verdicts.question_id(row['question']) == question_id for row in rows
    ):
      yield name


def evaluated_questions(
  workdir: epath.PathLike,
) -> dict[str, list[dict[str, Any]]]:
  """Returns the rows of the first evaluation of each evaluation set."""
  rows: dict[str, list[dict[str, Any]]] = {}
  for result in run_reader.evaluations(workdir):
    name = result.get('set')
    if isinstance(name, str) and not rows.get(name):
      rows[name] = run_reader.evaluation_rows(workdir, result)
  return rows


def verdicts_of_step(workdir: epath.PathLike, step: int) -> verdicts.Verdicts:
  """Returns the verdicts that a step of training had read."""
  lines = [n for at, n in reviews.read_counts(workdir) if at <= step]
  if not lines:
    return verdicts.NONE
  return verdicts.fold(reviews.read(workdir, lines[-1]))


def questions_of(
  rows: Sequence[Row],
  *,
  config: Mapping[str, Any],
  known: verdicts.Verdicts = verdicts.NONE,
) -> list[Asked]:
  """Returns the questions of a step, solved ones first.

  Args:
    rows: All rows of the step.
    config: Config of the run, as it is stored.
    known: Verdicts that the step had read.
  """
  num_views = schema.stored_num_prompts(config)
  rest = GIVEN if config['task'].get('questions') else REPLAYED
  proposals: dict[str | None, collections.deque[Row]] = {}
  solved: dict[int, list[Row]] = {}
  for row in rows:
    if row['role'] == 'proposer':
      queue = proposals.setdefault(row['question'], collections.deque())
      queue.append(row)
    else:
      views = num_views if row['role'] == 'solver' else 1
      solved.setdefault(row['group'] // views, []).append(row)
  total = sum(map(_pull, rows)) or 1.0
  asked = []
  for _, answers in sorted(solved.items()):
    # Of equal questions, the first was proposed first.
    queue = proposals.get(answers[0]['question'])
    proposal: Row = queue.popleft() if queue else {}
    source = PROPOSED if proposal else rest
    share = sum(map(_pull, answers)) / total
    asked.append(_asked(answers, proposal, source, share, known))
  for queue in proposals.values():
    asked += [_asked([], row, PROPOSED, 0.0, known) for row in queue]
  return asked


def _asked(
  answers: Sequence[Row],
  proposal: Row,
  source: str,
  share: float,
  known: verdicts.Verdicts,
) -> Asked:
  row = ballots.representative(answers) if answers else proposal
  question = row['question']
  verdict = None
  if question is not None:
    verdict = known.by_id.get(verdicts.question_id(question))
  reason = proposal.get('reason') if proposal else row['reason']
  columns = ('topic', 'vote', 'vote_share', 'true_answer', 'leaked')
  return Asked(
    step=row['step'],
    question=question,
    source=source,
    proposal=proposal,
    reason=reason,
    answers=tuple(_equal_answers(answers)),
    share=share,
    verdict=verdict,
    **{name: row[name] for name in columns},
  )


def _equal_answers(rows: Sequence[Row]) -> list[Answers]:
  """Returns equal answers together, most frequent first."""
  by_answer: dict[str | None, list[Row]] = {}
  for row in rows:
    by_answer.setdefault(row['answer'], []).append(row)
  grouped = [
    Answers(
      answer,
      len(equal),
      sum(row['trained_on'] for row in equal),
      _mean([row['reward'] for row in equal]),
      _mean([row['advantage'] for row in equal]),
      equal[0]['right'],
    )
    for answer, equal in by_answer.items()
  ]
  return sorted(grouped, key=lambda answers: -answers.count)


def _pull(row: Row) -> float:
  """Returns the absolute advantage of an answer of the solver, or 0."""
  return abs(row['advantage'] or 0.0) if row['role'] == 'solver' else 0.0


def _mean(values: Sequence[float | None]) -> float | None:
  known = [value for value in values if value is not None]
  return sum(known) / len(known) if known else None
