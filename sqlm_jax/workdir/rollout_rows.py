"""Converts the outcome of a step to the rows of its rollout files.

`to_rows` returns the rows of `workdir.rollouts.SCHEMA`, and `sample_questions`
the questions that are displayed.
"""

import collections
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from sqlm_jax import display
from sqlm_jax.game import types
from sqlm_jax.sandbox import unit_tests
from sqlm_jax.selfplay import diagnosis, responses, step_types
from sqlm_jax.tasks import base
from sqlm_jax.text import json_text

Row = dict[str, Any]
Show = Callable[[Sequence[int]], str]

_Readable = tuple[types.ScoredQuestion, str | None]  # with its topic
_SHOWN_SAMPLES = 2


def to_rows(
  outcome: step_types.Outcome,
  *,
  seed: int,
  show: Show,
  task: base.Task | None = None,
  topics: Sequence[str] = (),
) -> list[Row]:
  """Returns the rows of a step for `rollouts.write`, proposals before answers.

  Each process returns the rows of the responses that it graded; together, the
  processes return all rows.

  Args:
    outcome: Outcome of a self-play step.
    seed: Seed of the run.
    show: Decodes the token ids of a prompt, including special tokens.
    task: Task whose checker the answers are compared with, for diagnosis only;
      None to compare with nothing.
    topics: Topic of each group of proposals.
  """
  check = diagnosis.checker(task)
  solver_advantages = diagnosis.solver_advantages(outcome)
  rows = []
  num_groups = collections.Counter()  # prompts of earlier rounds, by role
  num_readable = 0  # readable questions of earlier rounds
  for index, game_round in enumerate(outcome.rounds):
    all_topics = diagnosis.topics_of(game_round, topics)
    pairs = zip(game_round.questions, all_topics, strict=True)
    readable = [(q, topic) for q, topic in pairs if q.problem.ok]
    # The proposer is trained on the first round only.
    trains_proposer = 'proposer' in outcome.trained and index == 0
    proposer_advantages = (
      outcome.advantages['proposer'] if trains_proposer else None
    )
    advantages = {i - num_readable: x for i, x in solver_advantages.items()}
    for role, sampled, role_rows in (
      (
        'proposer',
        game_round.proposals,
        _proposal_rows(game_round, all_topics, proposer_advantages, show),
      ),
      (
        'solver',
        game_round.solutions,
        _solver_rows(
          game_round.solutions, readable, advantages, check=check, show=show
        ),
      ),
      (
        'voter',
        game_round.voters,
        _voter_rows(game_round.voters, readable, check=check, show=show),
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
  game_round: step_types.Round,
  topics: Sequence[str | None],
  advantages: np.ndarray | None,
  show: Show,
) -> Iterator[Row]:
  """Yields a row for each proposal of this process.

  Args:
    game_round: The round.
    topics: Topic of each question.
    advantages: Advantages [groups, G]; None if the proposer is not trained.
    show: Decodes the token ids of a prompt.
  """
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
        'topic': topics[i],
        'trained_on': advantages is not None and reward is not None,
        'advantage': None
        if advantages is None or reward is None
        else float(advantages[group, sample]),
      }
    )


def _solver_rows(
  solutions: responses.Responses | None,
  readable: Sequence[_Readable],
  advantages: Mapping[int, np.ndarray],
  *,
  check: diagnosis.Check,
  show: Show,
) -> Iterator[Row]:
  """Yields a row for each answer of the solver that this process graded.

  Args:
    solutions: The answers to all readable questions.
    readable: The readable questions, with their topics.
    advantages: Advantages of the answers to each question that the solver was
      trained on, by index.
    check: Compares answers with the true answer.
    show: Decodes the token ids of a prompt.
  """
  answers = [question.answers for question, _ in readable]
  right = [check(q.problem.text, q.answers) for q, _ in readable]
  for index, i, row in _answer_rows(solutions, answers, show):
    question, topic = readable[index]
    reward = question.solver_rewards[i]
    trained = index in advantages and reward is not None
    yield (
      row
      | _question_columns(question, answer=i)
      | {
        'reward': reward,
        'tests_passed': _fraction_passed(question, [i]),
        'trained_on': trained,
        'topic': topic,
        'advantage': float(advantages[index][i]) if trained else None,
        'right': right[index][i],
      }
    )


def _voter_rows(
  voters: responses.Responses | None,
  readable: Sequence[_Readable],
  *,
  check: diagnosis.Check,
  show: Show,
) -> Iterator[Row]:
  """Yields a row for each voter's answer that this process graded."""
  answers = [question.voter_answers for question, _ in readable]
  right = [check(q.problem.text, q.voter_answers) for q, _ in readable]
  for index, i, row in _answer_rows(voters, answers, show):
    question, topic = readable[index]
    yield (
      row
      | _question_columns(question, answer=len(question.answers) + i)
      | {
        'reward': None,
        'tests_passed': None,
        'trained_on': False,
        'topic': topic,
        'right': right[index][i],
      }
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
    'leaked': problem.leaked or None,
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
