"""Judges answers by a vote or by unit tests, and computes all rewards."""

import functools
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from sqlm_jax.game import repetition, rewards, types, vote
from sqlm_jax.sandbox import unit_tests
from sqlm_jax.selfplay import background_grading
from sqlm_jax.tasks import base

Schedule = tuple[tuple[str, int, float], ...]


class Rules(NamedTuple):
  """Settings of the rewards; docs/config.md explains each of them."""

  solver_rewards: Mapping[str, float]
  solver_schedule: Schedule
  proposer_rewards: Mapping[str, float]
  proposer_schedule: Schedule
  unreadable_reward: float
  band: tuple[float, float]
  over: str
  unsolved: str
  similarity: float
  weights: str
  ties: str
  min_agreement: float


class Answers(NamedTuple):
  """Responses to one question, with their likelihoods."""

  texts: Sequence[str]  # responses of the solver, which are rewarded
  likelihoods: Sequence[float]
  voter_texts: Sequence[str] = ()  # responses of an earlier solver; only vote
  voter_likelihoods: Sequence[float] = ()


def judge(
  problems: Sequence[types.Problem],
  groups: Sequence[Answers | None],
  task: base.Task,
  rules: Rules,
  *,
  step: int,
  coin: Callable[[int], random.Random],
  asked_before: repetition.Memory,
  known: Mapping[int, background_grading.Read] | None = None,
) -> list[types.Verdict]:
  """Judges every problem and computes the rewards of both roles.

  Args:
    problems: the proposer's problems.
    groups: the answers to each readable problem, None if another process
      judges them.
    task: reads answers, runs tests and checks answers.
    rules: settings of the rewards.
    step: the self-play step, for the weight schedules.
    coin: returns the random generator of a readable question, given the
      question's index; for random rewards.
    asked_before: questions of earlier steps.
    known: answers that are already read, by index of the readable question.

  Returns:
    One verdict per problem, in order. An unreadable problem gets the lowest
    reward, and a problem from an evaluation set gets None. The verdict on a
    problem that another process judges has neither answers nor rewards.
  """
  asked = [problem for problem in problems if problem.ok]
  own = [i for i, group in enumerate(groups) if group is not None]
  known = _read_rest(known or {}, asked, groups, own, task)
  weights = rewards.weights_at(
    step, rules.solver_rewards, rules.solver_schedule
  )
  own_problems, reads = [asked[i] for i in own], [known[i] for i in own]
  coins = map(coin, own)
  if task.run_tests:
    rated = _by_tests(own_problems, reads, rules, weights, coins)
  else:
    own_groups = [groups[i] for i in own]
    rated = _by_vote(
      own_problems, own_groups, reads, task, rules, weights, coins
    )
  weights = rewards.weights_at(
    step, rules.proposer_rewards, rules.proposer_schedule
  )
  penalties = _penalties(asked, rules, weights, asked_before)
  judged = {
    i: verdict._replace(
      proposer_reward=max(
        sum(
          weight * difficulty(term)
          for term, weight in weights.items()
          if weight and term in rewards.PROPOSER_TERMS
        )
        - penalties[i],
        # A readable question never gets less than an unreadable one.
        rules.unreadable_reward,
      )
    )
    for i, (verdict, difficulty) in zip(own, rated, strict=True)
  }
  # No reward, so that nothing is learned about evaluation questions.
  refused = lambda problem: types.Verdict(
    problem,
    proposer_reward=None
    if problem.reason == types.CONTAMINATED
    else rules.unreadable_reward,
  )
  of_asked = (
    judged.get(i, types.Verdict(problem)) for i, problem in enumerate(asked)
  )
  return [
    next(of_asked) if problem.ok else refused(problem) for problem in problems
  ]


def _read_rest(
  known, asked, groups, own, task
) -> dict[int, background_grading.Read]:
  """Reads this process's remaining answers and adds them to `known`."""
  left = [i for i in own if i not in known]
  found = background_grading.read(
    [asked[i] for i in left],
    [[*groups[i].texts, *groups[i].voter_texts] for i in left],
    task,
  )
  return {**known, **dict(zip(left, found, strict=True))}


# A verdict without the proposer's reward, and a function `term -> value` from
# which that reward is computed.
_Rated = tuple[types.Verdict, Callable[[str], float]]


def _by_vote(
  problems: Sequence[types.Problem],
  groups: Sequence[Answers],
  reads: Sequence[background_grading.Read],
  task: base.Task,
  rules: Rules,
  weights: Mapping[str, float],
  coins: Iterable[random.Random],
) -> Iterator[_Rated]:
  for problem, group, (read, _), coin in zip(
    problems, groups, reads, coins, strict=True
  ):
    likelihoods = [*group.likelihoods, *group.voter_likelihoods]
    result = vote.majority(
      read,
      weights=likelihoods if rules.weights == 'likelihood' else None,
      ties=rules.ties,
      min_agreement=rules.min_agreement,
    )
    answers, votes = read[: len(group.texts)], read[len(group.texts) :]
    solver_rewards = rewards.solver(
      weights,
      answers,
      vote=result,
      coin=coin,
      true=functools.partial(task.true_answer, problem.text),
      is_true=task.is_true,
    )
    yield (
      types.Verdict(
        problem, answers, votes, vote=result, solver_rewards=solver_rewards
      ),
      functools.partial(
        rewards.difficulty_of_vote, vote=result, band=rules.band
      ),
    )


def _by_tests(
  problems: Sequence[types.Problem],
  reads: Sequence[background_grading.Read],
  rules: Rules,
  weights: Mapping[str, float],
  coins: Iterable[random.Random],
) -> Iterator[_Rated]:
  for problem, (answers, results), coin in zip(
    problems, reads, coins, strict=True
  ):
    passed = unit_tests.shares_passed(results, unsolved=rules.unsolved)
    solver_rewards = rewards.solver(weights, answers, passed=passed, coin=coin)
    yield (
      types.Verdict(
        problem, answers, results=results, solver_rewards=solver_rewards
      ),
      functools.partial(
        rewards.difficulty_of_tests,
        passed=passed,
        over=rules.over,
        band=rules.band,
      ),
    )


def _penalties(
  problems: Sequence[types.Problem],
  rules: Rules,
  weights: Mapping[str, float],
  asked_before: repetition.Memory,
) -> list[float]:
  """Returns the repetition penalty of each question's reward."""
  questions = [problem.text for problem in problems]
  of = {
    'batch_repeats': lambda: repetition.shares(questions, rules.similarity),
    'history_repeats': lambda: asked_before.seen(questions, rules.similarity),
  }
  total = [0.0] * len(questions)
  for name in rewards.PENALTIES:
    if weight := weights.get(name, 0.0):
      total = [t + weight * v for t, v in zip(total, of[name](), strict=True)]
  return total
