"""Converts the outcome of a step to rollout rows and displayed samples."""

import collections
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from sqlm_jax import display
from sqlm_jax.game import types
from sqlm_jax.sandbox import unit_tests
from sqlm_jax.selfplay import responses, step_types
from sqlm_jax.text import json_text

_SHOWN_SAMPLES = 2

Row = dict[str, Any]
Show = Callable[[Sequence[int]], str]


def to_rows(outcome: step_types.Outcome, *, seed: int, show: Show) -> list[Row]:
  """Returns rows for `run_writer.RunWriter.rollouts`, proposals before answers.

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
        _solver_rows(game_round.solutions, readable, trained_on, show),
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
  for i, question in enumerate(game_round.questions):
    group, sample = divmod(i, group_size)
    if proposals.texts[group] is None:
      continue
    reward = question.proposer_reward
    all_answers = range(len(question.answers))
    yield (
      _response_columns(proposals, group, sample, show)
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
      | _question_columns(question)
      | {
        'reward': question.solver_rewards[i],
        'tests_passed': _fraction_passed(question, [i]),
        'trained_on': index in trained_on,
      }
    )


def _voter_rows(
  voters: responses.Responses | None,
  readable: Sequence[types.ScoredQuestion],
  show: Show,
) -> Iterator[Row]:
  """Yields a row for each voter's answer that this process graded."""
  answers = [question.voter_answers for question in readable]
  for index, _, row in _answer_rows(voters, answers, show):
    yield (
      row
      | _question_columns(readable[index])
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
      row = _response_columns(sampled, prompts[variant], sample, show)
      row['answer'] = None if answer is None else str(answer)
      yield question, i, row


def _response_columns(
  sampled: responses.Responses, group: int, sample: int, show: Show
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


def _question_columns(question: types.ScoredQuestion) -> Row:
  """Returns the columns that a question and all its answers share."""
  problem, vote = question.problem, question.vote
  majority = _majority(question)
  reason = problem.reason or (vote.reason if vote else '')
  return {
    'question': problem.text if problem.ok else None,
    'tests': json_text.dumps(problem.tests) if problem.tests else None,
    'vote': None if majority is None else str(majority),
    'vote_share': vote.count / vote.size
    if vote and majority is not None
    else None,
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
