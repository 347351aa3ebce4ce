"""Writes rollouts/, which has every response of a run with its reward.

There is one Parquet file per step, such as step_00000012.parquet, with one row
per response and the columns of `SCHEMA`. With several processes, there is one
file per step and process, such as step_00000012-00000-of-00002.parquet.

`to_rows` converts the outcome of a step to rows, and `sample_questions` to the
questions that are displayed.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa
from etils import epath
from pyarrow import parquet

from sqlm_jax import display
from sqlm_jax.game import types
from sqlm_jax.sandbox import unit_tests
from sqlm_jax.selfplay import responses
from sqlm_jax.selfplay import rounds as rounds_lib
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
    _nullable('tests_passed', pa.float32(), 'fraction of tests passed'),
    _nullable('reward', pa.float32(), 'null: no reward'),
    _column('trained_on', pa.bool_(), 'true: in a batch of its role'),
    _nullable('reason', pa.string(), 'why it is invalid or unrewarded'),
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


def _step_of(path: epath.Path) -> int:
  return int(re.match(_FILE, path.name)[1])


def to_rows(
  outcome: rounds_lib.Outcome,
  *,
  seed: int,
  sampled_by: Mapping[str, int],
  policy_steps: Mapping[str, int],
  show: Show,
) -> list[Row]:
  """Returns the rows of a step for `write`, proposals before answers.

  Each process returns the rows of the responses that it graded; together, the
  processes return all rows.

  Args:
    outcome: Outcome of a self-play step.
    seed: Seed of the run.
    sampled_by: Number of optimizer steps of the weights that sampled the first
      round, by role. This round may have been sampled one step ahead.
    policy_steps: Number of optimizer steps of the weights that sampled the
      other rounds, by role.
    show: Decodes the token ids of a prompt, including special tokens.
  """
  rows = []
  groups: dict[str, int] = {}  # number of earlier prompts by role, all rounds
  asked_before = 0
  for number, one in enumerate(outcome.rounds):
    found = _proposals(one, show, 'proposer' in outcome.trained and not number)
    for row in found:
      row['group'] += groups.get('proposer', 0)
    first_row = len(rows)
    rows += found
    asked = [v for v in one.verdicts if v.problem.ok]
    for role, written, answers in (
      ('solver', one.solutions, [v.answers for v in asked]),
      ('voter', one.voters, [v.votes for v in asked]),
    ):
      if written is None:
        continue
      for row, question, i in _answers(written, answers, show):
        verdict = asked[question]
        learned = asked_before + question in outcome.learned
        rewards = verdict.solver_rewards
        row['group'] += groups.get(role, 0)
        rows.append(
          row
          | _judged(verdict)
          | {
            'role': role,
            'reward': rewards[i] if role == 'solver' else None,
            'tests_passed': _passed(verdict, [i]) if role == 'solver' else None,
            'trained_on': role == 'solver' and learned,
          }
        )
      groups[role] = groups.get(role, 0) + len(written.prompt_ids)
    if one.proposals is not None:
      count = len(one.proposals.prompt_ids)
      groups['proposer'] = groups.get('proposer', 0) + count
    asked_before += len(asked)
    used = policy_steps if number else sampled_by
    for row in rows[first_row:]:
      row |= {'seed': seed, 'policy_step': used[row['role']]}
  return rows


def sample_questions(outcome: rounds_lib.Outcome) -> list[display.Sample]:
  """Returns the first questions that this process graded, with their votes."""
  judged = [v for v in outcome.rounds[0].verdicts if v.answers]
  return [
    display.Sample(
      question=v.problem.text,
      vote=str(v.vote.answer) if _has_majority(v) else None,
      count=v.vote.count if v.vote else 0,
      size=len(v.answers) + len(v.votes),
      passed=_passed(v, range(len(v.answers))),
    )
    for v in judged[:_SHOWN_SAMPLES]
  ]


def _proposals(one: rounds_lib.Round, show: Show, counted: bool) -> list[Row]:
  if one.proposals is None:
    return []
  group_size = one.proposals.rollout.lengths.shape[1]
  rows = []
  for i, verdict in enumerate(one.verdicts):
    group, sample = divmod(i, group_size)
    if one.proposals.texts[group] is None:
      continue
    row = _response_row(one.proposals, group, sample, show)
    row |= _judged(verdict) | {
      'role': 'proposer',
      'reward': verdict.proposer_reward,
      'tests_passed': _passed(verdict, range(len(verdict.answers))),
      'trained_on': counted and verdict.proposer_reward is not None,
    }
    rows.append(row)
  return rows


def _answers(
  written: responses.Responses,
  answers: Sequence[Sequence[types.Answer]],
  show: Show,
):
  """Yields rows of answers, with indices of the question and the answer.

  The index of an answer is its position among all answers to the question.
  The answers to a question are divided among its prompts, each of which is a
  group of the sampler. Questions of other processes have no answers here.
  """
  variants = len(written.texts) // len(answers)
  for question, group in enumerate(answers):
    size = len(group) // variants
    for i, answer in enumerate(group):
      variant, sample = divmod(i, size)
      row = _response_row(written, question * variants + variant, sample, show)
      row['answer'] = None if answer is None else str(answer)
      yield row, question, i


def _response_row(
  written: responses.Responses, group: int, sample: int, show: Show
) -> Row:
  rollout = written.rollout
  length = int(rollout.lengths[group, sample])
  return {
    'group': group,
    'sample': sample,
    'prompt': show(written.prompt_ids[group]),
    'response': written.texts[group][sample],
    'finished': bool(rollout.finished[group, sample]),
    'num_tokens': length,
    'logprob': float(rollout.logprobs[group, sample, :length].sum()),
  }


def _has_majority(verdict: types.Verdict) -> bool:
  return verdict.vote is not None and verdict.vote.answer is not None


def _judged(verdict: types.Verdict) -> Row:
  """Returns the columns that a question and all its answers share."""
  problem, vote = verdict.problem, verdict.vote
  labelled = _has_majority(verdict)
  reason = problem.reason or (vote.reason if vote else '')
  return {
    'question': problem.text if problem.ok else None,
    'tests': json_text.dumps(problem.tests) if problem.tests else None,
    'vote': str(vote.answer) if labelled else None,
    'vote_share': vote.count / vote.size if labelled else None,
    'reason': reason or None,
  }


def _passed(verdict: types.Verdict, answers: Sequence[int]) -> float | None:
  """Returns the fraction of tests that the given answers passed."""
  if not verdict.results:
    return None
  results = [r for i in answers for r in verdict.results[i]]
  return unit_tests.fraction_passed(results)
