"""Computes the rewards of both roles from votes or from unit tests."""

import dataclasses
import functools
import operator
import random
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from sqlm_jax.config import game_schema, schema
from sqlm_jax.game import (
  exclusion,
  question_kinds,
  repetition,
  rewards,
  types,
  verdicts,
  vote,
)
from sqlm_jax.sandbox import unit_tests
from sqlm_jax.selfplay import background_grading, kinds
from sqlm_jax.tasks import base


class Answers(NamedTuple):
  """The answers to a question: those of the solver, then those of voters."""

  graded: background_grading.GradedAnswers
  likelihoods: Sequence[float]  # one per answer, solver first; vote weights
  num_solver: int  # number of answers of the solver


class Weights(NamedTuple):
  """The weights of the reward terms in a step, by name of the term."""

  solver: Mapping[str, float]
  proposer: Mapping[str, float]


def score_questions(
  problems: Sequence[types.Problem],
  answers: Mapping[int, Answers],
  task: base.Task,
  *,
  config: schema.Config,
  step: int,
  memory: repetition.Memory,
  coin_of: Callable[[int], random.Random],
  check_vote: Callable[[str, types.Vote], str] = lambda question, vote: '',
  functions: rewards.Functions = rewards.NO_FUNCTIONS,
  leaks: Callable[[int], bool] = lambda index: False,
  kinds_of: kinds.KindsOf | None = None,
) -> list[types.ScoredQuestion]:
  """Computes the rewards of both roles for every problem of a round.

  Args:
    problems: the proposer's problems.
    answers: the answers to the readable problems that this process scores, by
      index among the readable problems.
    task: checks answers.
    config: config of the rewards, the vote and the tests.
    step: the self-play step, for the weight schedules.
    memory: questions of earlier steps.
    coin_of: returns the generator of a readable problem's random rewards, given
      the problem's index.
    check_vote: returns the reason to refuse a question after its vote, or ''.
    functions: functions of the user that add to the rewards.
    leaks: returns True if a leaky gate lets a problem pass, given its index
      among all problems.
    kinds_of: returns the kinds of questions; required for the reward of the
      coverage.

  Returns:
    One question per problem, in order. A refused problem gets the lowest reward
    or None. The question of a problem that another process scores has neither
    answers nor rewards.
  """
  weights = Weights(
    solver=_weights_at(step, config.solver),
    proposer=_weights_at(step, config.proposer),
  )
  readable = [problem for problem in problems if problem.ok]
  # Replayed questions come last. They have no penalty, because the proposer
  # did not ask them.
  new = [problem for problem in readable if not problem.replayed]
  penalties = _penalties(new, config, weights.proposer, memory)
  if weights.proposer.get('coverage'):
    assert kinds_of is not None
    bonuses = _coverage([problem.text for problem in new], memory, kinds_of)
    weight = weights.proposer['coverage']
    penalties = [
      penalty - weight * bonus
      for penalty, bonus in zip(penalties, bonuses, strict=True)
    ]
  penalties += [0.0] * (len(readable) - len(new))
  questions: list[types.ScoredQuestion] = []
  index = 0  # among the readable problems
  for i, problem in enumerate(problems):
    if not problem.ok:
      reward = _refused_reward(problem.refused_reward, config)
      questions.append(types.ScoredQuestion(problem, proposer_reward=reward))
      continue
    question = types.ScoredQuestion(problem)
    if index in answers:
      score = functools.partial(
        score_question,
        problem,
        answers[index],
        task,
        weights=weights,
        penalty=penalties[index],
        true=_true_answer(problem.text, memory.verdicts, task),
        functions=functions,
      )
      question = score(config=config, coin=coin_of(index))
      reason = memory.verdicts.refusal(problem.text)
      may_leak = leaks(i) and not reason and not problem.replayed
      reason = reason or _refusal(question, check_vote, leaks=may_leak)
      if reason and may_leak:
        question = score(config=_without_threshold(config), coin=coin_of(index))
        question = question._replace(
          problem=problem._replace(leaked=problem.leaked or reason)
        )
      elif reason:
        question = _refuse(question, reason, config)
    questions.append(question)
    index += 1
  return questions


def _refusal(
  question: types.ScoredQuestion,
  check_vote: Callable[[str, types.Vote], str],
  *,
  leaks: bool,
) -> str:
  """Returns the reason that a scored question is refused for, or ''.

  Without a leak, a vote below the threshold is not a refusal: it only has no
  majority.
  """
  vote_result = question.label or question.vote
  if vote_result is None:
    return ''
  if leaks and vote_result.reason == 'disagreement':
    return vote_result.reason
  return check_vote(question.problem.text, vote_result)


def _true_answer(
  question: str, known: verdicts.Verdicts, task: base.Task
) -> types.Answer:
  """Returns the true answer that a reviewer has given, None without one."""
  text = known.true_answer(question)
  return task.parse_answer(text) if text and task.run_tests is None else None


def _refuse(
  question: types.ScoredQuestion, reason: str, config: schema.Config
) -> types.ScoredQuestion:
  """Removes the rewards of a question that the gate refuses after its vote."""
  return question._replace(
    refused=reason,
    solver_rewards=(None,) * len(question.answers),
    proposer_reward=_refused_reward(config.gate.reward, config),
  )


def _without_threshold(config: schema.Config) -> schema.Config:
  """Returns a config without a minimum agreement of votes."""
  vote_config = dataclasses.replace(config.vote, min_agreement=0.0)
  return dataclasses.replace(config, vote=vote_config)


def score_question(
  problem: types.Problem,
  answers: Answers,
  task: base.Task,
  *,
  config: schema.Config,
  weights: Weights,
  penalty: float,
  coin: random.Random,
  true: types.Answer = None,
  functions: rewards.Functions = rewards.NO_FUNCTIONS,
) -> types.ScoredQuestion:
  """Computes the rewards of one question and of the answers to it.

  Args:
    problem: the question.
    answers: the answers to it.
    task: checks answers.
    config: config of the rewards, the vote and the tests.
    weights: weights of the reward terms.
    penalty: subtracted from the proposer's reward, because the question repeats
      others; negative if the question is rewarded for the coverage of kinds.
    coin: generator of the random rewards.
    true: the true answer of a verdict, which replaces the vote; None without a
      verdict.
    functions: functions of the user that add to the reward of the question.
      Those of answers have been called when the answers were graded.
  """
  graded, num_solver = answers.graded, answers.num_solver
  reasons = graded.excluded[:num_solver]
  solver_answers = graded.answers[:num_solver]
  accepted_answers = exclusion.accepted(solver_answers, reasons)
  vote_result, label = None, None
  if task.run_tests is None:
    vote_result = target = _vote(answers, config.vote)
    share = _share_of(answers, config.vote)
    if true is not None:
      voting = exclusion.accepted(graded.answers, graded.excluded)
      target = label = verdicts.as_vote(true, voting, task.is_true)
      share = functools.partial(operator.eq, label.answer)
    solver_rewards = rewards.solver(
      weights.solver,
      accepted_answers,
      vote=target,
      share=share,
      coin=coin,
      true=functools.partial(task.true_answer, problem.text),
      is_true=task.is_true,
    )
    difficulty = functools.partial(
      rewards.difficulty_of_vote, vote=target, band=config.proposer.band
    )
  else:
    passed = unit_tests.shares_passed(
      exclusion.accepted(graded.results, graded.excluded),
      unsolved=config.tests.unsolved,
    )
    solver_rewards = rewards.solver(
      weights.solver, accepted_answers, passed=passed, coin=coin
    )
    difficulty = functools.partial(
      rewards.difficulty_of_tests,
      passed=passed,
      over=config.proposer.reward_over,
      band=config.proposer.band,
    )
  proposer_reward = sum(
    weight * difficulty(term)
    for term, weight in weights.proposer.items()
    if weight and term in rewards.PROPOSER_TERMS
  )
  proposer_reward += functions.reward_question(problem.text, accepted_answers)
  return types.ScoredQuestion(
    problem,
    solver_answers,
    voter_answers=graded.answers[num_solver:],
    vote=vote_result,
    label=label,
    results=graded.results,
    excluded=graded.excluded,
    solver_rewards=_rewards_of_all(solver_rewards, answers, config),
    # A readable question never gets less than an unreadable one.
    proposer_reward=max(
      proposer_reward - penalty, config.proposer.unreadable_reward
    ),
  )


def _rewards_of_all(
  accepted: Sequence[float], answers: Answers, config: schema.Config
) -> tuple[float | None, ...]:
  """Returns the reward of each answer, None if it is not trained on.

  Args:
    accepted: rewards of the terms, for answers that are not excluded.
    answers: the answers, with the rewards by functions of the user.
    config: config of the run.
  """
  graded = answers.graded
  reasons = graded.excluded[: answers.num_solver]
  if graded.extra_rewards:
    extra = exclusion.accepted(graded.extra_rewards, reasons)
    accepted = tuple(map(sum, zip(accepted, extra, strict=True)))
  restored = exclusion.restore(accepted, reasons)
  if not config.vote.extra_answers:
    return restored
  return tuple(
    reward if is_trained else None
    for reward, is_trained in zip(restored, config.trains_answer, strict=True)
  )


def _weights_at(
  step: int, role: game_schema.Solver | game_schema.Proposer
) -> dict[str, float]:
  """Returns the weights of a role's reward terms in a step."""
  weights = dataclasses.asdict(role.rewards)
  return rewards.weights_at(step, weights, role.reward_schedule)


def _refused_reward(reward: str, config: schema.Config) -> float | None:
  """Returns the proposer's reward for a refused question, None for none."""
  return config.proposer.unreadable_reward if reward == 'lowest' else None


def _vote(answers: Answers, config: game_schema.Vote) -> types.Vote:
  voting, weights = _votes(answers, config)
  return vote.majority(
    voting,
    weights=weights,
    ties=config.ties,
    min_agreement=config.min_agreement,
  )


def _share_of(
  answers: Answers, config: game_schema.Vote
) -> Callable[[types.Answer], float]:
  """Returns the function from an answer to its share of the votes."""
  voting, weights = _votes(answers, config)
  return lambda answer: vote.share(voting, answer, weights=weights)


def _votes(
  answers: Answers, config: game_schema.Vote
) -> tuple[Sequence[types.Answer], Sequence[float] | None]:
  """Returns the answers that vote, and their weights; None if all are 1."""
  excluded = answers.graded.excluded
  weights = None
  if config.weights == 'likelihood':
    weights = exclusion.accepted(answers.likelihoods, excluded)
  return exclusion.accepted(answers.graded.answers, excluded), weights


def _coverage(
  questions: Sequence[str],
  memory: repetition.Memory,
  kinds_of: kinds.KindsOf,
) -> tuple[float, ...]:
  """Returns how rarely earlier steps asked questions of each one's kinds."""
  found = kinds_of([*questions, *memory.questions])
  return question_kinds.rarities(
    found[: len(questions)], found[len(questions) :]
  )


def _penalties(
  problems: Sequence[types.Problem],
  config: schema.Config,
  weights: Mapping[str, float],
  memory: repetition.Memory,
) -> list[float]:
  """Returns the repetition penalty of each question's reward."""
  questions = [problem.text for problem in problems]
  measures = {
    'batch_repeats': repetition.shares,
    'history_repeats': memory.seen,
  }
  totals = [0.0] * len(questions)
  for name in rewards.PENALTIES:
    if weight := weights.get(name, 0.0):
      repeats = measures[name](questions, config.proposer.min_similarity)
      totals = [
        total + weight * repeat
        for total, repeat in zip(totals, repeats, strict=True)
      ]
  return totals
