"""Writes rollouts/, which has every response of a run with its reward.

There is one Parquet file per step, such as step_00000012.parquet, with one row
per response and the columns of `SCHEMA`. With several processes, there is one
file per step and process, such as step_00000012-00000-of-00002.parquet.

`to_rows` converts the outcome of a step to rows, and `sample_questions` to the
questions that are displayed.
"""

import collections
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
from etils import epath
from pyarrow import parquet

from sqlm_jax import display
from sqlm_jax.game import types
from sqlm_jax.sandbox import unit_tests
from sqlm_jax.selfplay import responses, step_types
from sqlm_jax.text import json_text
from sqlm_jax.workdir import storage

_FILE = r'step_(\d+)(-\d+-of-\d+)?\.parquet'
_SHOWN_SAMPLES = 2


def _column(
  name: str, kind: pa.DataType, about: str, *, nullable: bool = False
) -> pa.Field:
  return pa.field(name, kind, nullable, metadata={'about': about})


def _nullable(name: str, kind: pa.DataType, about: str) -> pa.Field:
  return _column(name, kind, about, nullable=True)


# The descriptions are stored in the files.
SCHEMA = pa.schema(
  [
    _column('step', pa.int64(), 'self-play step, counted from 0'),
    _column('role', pa.string(), 'proposer, solver or voter'),
    _column('group', pa.int32(), 'index of the prompt in the step'),
    _column('sample', pa.int32(), 'index of the response in its group'),
    _column('seed', pa.int64(), 'seed of the run'),
    _column('policy_step', pa.int64(), 'optimizer steps of the weights used'),
    _column('prompt', pa.string(), 'prompt with special tokens'),
    _column('response', pa.string(), 'text that the model generated'),
    _column('finished', pa.bool_(), 'false: cut off at the token limit'),
    _column('num_tokens', pa.int32(), 'tokens of the response, with its stop'),
    _column('logprob', pa.float32(), 'log-probability of the response'),
    _nullable('question', pa.string(), 'parsed question; null: none'),
    _nullable('tests', pa.string(), 'unit tests of the question, as JSON'),
    _nullable('answer', pa.string(), 'canonical answer; null: unparsed'),
    _nullable('vote', pa.string(), 'majority answer; null: none'),
    _nullable('vote_share', pa.float32(), 'fraction that gave it'),
    _nullable('true_answer', pa.string(), 'answer of a verdict; null: none'),
    _nullable('tests_passed', pa.float32(), 'fraction of tests passed'),
    _nullable('reward', pa.float32(), 'reward before advantages; null: none'),
    _column('trained_on', pa.bool_(), 'true: in a batch of its role'),
    _nullable('reason', pa.string(), 'why it is refused or unrewarded'),
  ]
)

Row = dict[str, Any]
Show = Callable[[Sequence[int]], str]


def make_directory(workdir: epath.Path) -> None:
  (workdir / 'rollouts').mkdir(parents=True, exist_ok=True)


def part_name(process: int, num_processes: int) -> str:
  """Returns what the file names of a process end with, '' for one process."""
  if num_processes == 1:
    return ''
  return f'-{process:05d}-of-{num_processes:05d}'


def write(
  workdir: epath.Path,
  step: int,
  rows: Sequence[Mapping[str, Any]],
  *,
  part: str = '',
) -> None:
  """Writes the responses of a step, and replaces an earlier file of the step.

  Args:
    workdir: Directory of the run.
    step: Self-play step, counted from 0.
    rows: One row per response, with the columns of `SCHEMA` except the step.
      Nullable columns may be left out.
    part: End of the file name, from `part_name`.

  Raises:
    ValueError: If a row has an unknown column or lacks a required column.
  """
  known = set(SCHEMA.names) - {'step'}
  required = {x.name for x in SCHEMA if not x.nullable} - {'step'}
  for row in rows:
    given = {name for name, value in row.items() if value is not None}
    if wrong := (row.keys() - known) | (required - given):
      raise ValueError(
        f'row={sorted(row)!r}: expected the columns of a rollout; unknown or '
        f'missing: {", ".join(sorted(wrong))}'
      )
  table = pa.Table.from_pylist(
    [{'step': step} | dict(row) for row in rows], schema=SCHEMA
  )
  path = workdir / 'rollouts' / f'step_{step:08d}{part}.parquet'
  with storage.replacing(path) as temporary, temporary.open('wb') as file:
    parquet.write_table(table, file, compression='zstd')


def files(workdir: epath.PathLike, *, before: int) -> list[epath.Path]:
  """Returns the rollout files of the steps before `before`, oldest first."""
  directory = epath.Path(workdir) / 'rollouts'
  paths = [
    path
    for path in storage.entries(directory, _FILE)
    if _step_of(path) < before
  ]
  return sorted(paths, key=lambda path: (_step_of(path), path))


def rewind(workdir: epath.Path, step: int) -> None:
  """Removes the rollouts of step `step` and later, and incomplete files."""
  for path in storage.entries(workdir / 'rollouts', _FILE + r'(\.tmp)?'):
    if _step_of(path) >= step or path.suffix == '.tmp':
      path.unlink()


def step_of_name(name: str) -> int | None:
  """Returns the step of a file in rollouts/, None for any other name."""
  match = re.fullmatch(_FILE, name)
  return int(match[1]) if match else None


def _step_of(path: epath.Path) -> int:
  match = re.match(_FILE, path.name)
  assert match is not None  # the caller has filtered the files by this pattern
  return int(match[1])


def to_rows(outcome: step_types.Outcome, *, seed: int, show: Show) -> list[Row]:
  """Returns the rows of a step for `write`, proposals before answers.

  Each process returns the rows of the responses that it graded; together, the
  processes return all rows.

  Args:
    outcome: Outcome of a self-play step.
    seed: Seed of the run.
    show: Decodes the token ids of a prompt, including special tokens.
  """
  rows = []
  num_groups = collections.Counter()  # prompts of earlier rounds, by role
  num_readable = 0  # readable questions of earlier rounds
  for index, game_round in enumerate(outcome.rounds):
    readable = [q for q in game_round.questions if q.problem.ok]
    trained_on = {i - num_readable for i in outcome.trained_on}
    # The proposer is trained on the first round only.
    trains_proposer = 'proposer' in outcome.trained and index == 0
    for role, sampled, role_rows in (
      (
        'proposer',
        game_round.proposals,
        _proposal_rows(game_round, trains_proposer, show),
      ),
      (
        'solver',
        game_round.solutions,
        _solver_rows(
          game_round.solutions, readable, trained_on=trained_on, show=show
        ),
      ),
      (
        'voter',
        game_round.voters,
        _voter_rows(game_round.voters, readable, show),
      ),
    ):
      for row in role_rows:
        row['group'] += num_groups[role]
        policy_step = game_round.policy_steps[role]
        row |= {'role': role, 'seed': seed, 'policy_step': policy_step}
        rows.append(row)
      num_groups[role] += len(sampled.prompt_ids) if sampled else 0
    num_readable += len(readable)
  return rows


def sample_questions(outcome: step_types.Outcome) -> list[display.Sample]:
  """Returns the first questions that this process graded, with their votes."""
  graded = [q for q in outcome.rounds[0].questions if q.answers]
  return [
    display.Sample(
      question=q.problem.text,
      vote=None if (answer := _majority(q)) is None else str(answer),
      count=q.vote.count if q.vote else 0,
      size=len(q.answers) + len(q.voter_answers),
      passed=_fraction_passed(q, range(len(q.answers))),
    )
    for q in graded[:_SHOWN_SAMPLES]
  ]


def _proposal_rows(
  game_round: step_types.Round, is_trained_on: bool, show: Show
) -> Iterator[Row]:
  """Yields a row for each proposal of this process."""
  proposals = game_round.proposals
  if proposals is None:
    return
  group_size = proposals.rollout.lengths.shape[1]
  for i, question in enumerate(step_types.proposed(game_round.questions)):
    group, sample = divmod(i, group_size)
    if proposals.texts[group] is None:
      continue
    reward = question.proposer_reward
    all_answers = range(len(question.answers))
    yield (
      _response_columns(proposals, group=group, sample=sample, show=show)
      | _question_columns(question)
      | {
        'reward': reward,
        'tests_passed': _fraction_passed(question, all_answers),
        'trained_on': is_trained_on and reward is not None,
      }
    )


def _solver_rows(
  solutions: responses.Responses | None,
  readable: Sequence[types.ScoredQuestion],
  *,
  trained_on: Collection[int],
  show: Show,
) -> Iterator[Row]:
  """Yields a row for each answer of the solver that this process graded.

  Args:
    solutions: The answers to all readable questions.
    readable: The readable questions.
    trained_on: Indices of the questions that the solver was trained on.
    show: Decodes the token ids of a prompt.
  """
  answers = [question.answers for question in readable]
  for index, i, row in _answer_rows(solutions, answers, show):
    question = readable[index]
    yield (
      row
      | _question_columns(question, answer=i)
      | {
        'reward': (reward := question.solver_rewards[i]),
        'tests_passed': _fraction_passed(question, [i]),
        'trained_on': index in trained_on and reward is not None,
      }
    )


def _voter_rows(
  voters: responses.Responses | None,
  readable: Sequence[types.ScoredQuestion],
  show: Show,
) -> Iterator[Row]:
  """Yields a row for each voter's answer that this process graded."""
  answers = [question.voter_answers for question in readable]
  for index, i, row in _answer_rows(voters, answers, show):
    question = readable[index]
    yield (
      row
      | _question_columns(question, answer=len(question.answers) + i)
      | {'reward': None, 'tests_passed': None, 'trained_on': False}
    )


def _answer_rows(
  sampled: responses.Responses | None,
  answers: Sequence[Sequence[types.Answer]],
  show: Show,
) -> Iterator[tuple[int, int, Row]]:
  """Yields rows of answers, with indices of the question and the answer.

  The index of an answer is its position among all answers to the question.
  The answers to a question are divided among its prompts, each of which is a
  group of the sampler. Questions of other processes have no answers here.
  """
  if sampled is None:
    return
  for question, group in enumerate(answers):
    prompts = sampled.rows_of(question, len(answers))
    answers_per_prompt = len(group) // len(prompts)
    for i, answer in enumerate(group):
      variant, sample = divmod(i, answers_per_prompt)
      row = _response_columns(
        sampled, group=prompts[variant], sample=sample, show=show
      )
      row['answer'] = None if answer is None else str(answer)
      yield question, i, row


def _response_columns(
  sampled: responses.Responses, *, group: int, sample: int, show: Show
) -> Row:
  rollout, texts = sampled.rollout, sampled.texts[group]
  assert texts is not None  # another process decodes them
  length = int(rollout.lengths[group, sample])
  return {
    'group': group,
    'sample': sample,
    'prompt': show(sampled.prompt_ids[group]),
    'response': texts[sample],
    'finished': bool(rollout.finished[group, sample]),
    'num_tokens': length,
    'logprob': float(rollout.logprobs[group, sample, :length].sum()),
  }


def _question_columns(
  question: types.ScoredQuestion, answer: int | None = None
) -> Row:
  """Returns the columns that describe a question.

  Args:
    question: The question.
    answer: Index of the answer that the row is about, among those of solver and
      voters; None for the proposal. If the answer is excluded, it has a reason
      of its own.
  """
  problem, vote = question.problem, question.vote
  majority = _majority(question)
  true = question.label.answer if question.label else None
  # With a true answer, it does not matter that there is no majority.
  no_majority = vote.reason if vote and not question.label else ''
  reason = problem.reason or question.refused or no_majority
  if answer is not None and question.excluded:
    reason = question.excluded[answer] or reason
  return {
    'question': problem.text if problem.ok else None,
    'tests': json_text.dumps(problem.tests) if problem.tests else None,
    'vote': None if majority is None else str(majority),
    'vote_share': vote.count / vote.size
    if vote and majority is not None
    else None,
    'true_answer': None if true is None else str(true),
    'reason': reason or None,
  }


def _majority(question: types.ScoredQuestion) -> types.Answer:
  """Returns the answer of the majority, None if there is none."""
  return None if question.vote is None else question.vote.answer


def _fraction_passed(
  question: types.ScoredQuestion, answers: Sequence[int]
) -> float | None:
  """Returns the fraction of the tests that some of the answers passed."""
  if not question.results:
    return None
  results = [r for i in answers for r in question.results[i]]
  return unit_tests.fraction_passed(results)
