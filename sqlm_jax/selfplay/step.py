"""One step of self-play: propose, solve, judge, learn.

1. The proposer continues the step's topic prompts: groups of questions
   (`Responses`), read into one `Problem` each.
2. The solver answers every readable question G times (`Responses`).
3. The answers of a question are read and put to a vote; vote and answers give
   the rewards of both roles (`Verdict`).
4. Rewards become advantages and, with tokens and log-probabilities of the
   responses, a `GroupBatch` an update. `train_step` turns the `TrainState`
   and a batch into the next `TrainState`; the solver learns in every step,
   the proposer in every k-th.
"""

import contextlib
import functools
import random
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from sqlm_jax import sharding
from sqlm_jax.engine import learner
from sqlm_jax.game import rewards, types, vote
from sqlm_jax.models import lora
from sqlm_jax.selfplay import batches, responses
from sqlm_jax.tasks import base

ROLES = ('proposer', 'solver')  # the index is the role's number in key paths

States = dict[str, learner.TrainState]


class Rules(NamedTuple):
  """The numbers of the game; `configs/default.py` says what they mean."""

  seed: int
  questions: int  # Q
  group_size: int  # of the proposer
  train_every: int
  unreadable_reward: float
  proposer_reward: str
  band: tuple[float, float]
  solver_reward: str
  weights: str
  ties: str
  min_agreement: float
  estimator: str
  average: str
  keep_neutral: bool
  updates: dict[str, int]
  groups_per_microbatch: int


class Game(NamedTuple):
  """What stays the same from step to step.

  Attributes:
    rules: the numbers of the game.
    task: how to ask, read and check.
    writers: one a role.
    owner: role -> name of the `TrainState` that it reads and trains; both
      roles name the same one where they share weights.
    train_step: the compiled update.
    reference_params: frozen initial weights, None without a KL penalty.
    base_params: frozen weights under the adapters, {} without adapters.
    mesh: where batches go.
  """

  rules: Rules
  task: base.Task
  writers: dict[str, responses.Writer]
  owner: dict[str, str]
  train_step: Callable[..., tuple[learner.TrainState, learner.Metrics]]
  reference_params: Any
  base_params: Any
  mesh: jax.sharding.Mesh


class Outcome(NamedTuple):
  """What a step leaves for the record."""

  proposals: responses.Responses
  solutions: responses.Responses | None  # None if no question was readable
  verdicts: list[types.Verdict]  # one a proposal
  trained: tuple[str, ...]  # roles that were updated
  metrics: dict[str, float]


def params_of(role: str, states: States, game: Game) -> Any:
  """All parameters that a role samples with."""
  trained = states[game.owner[role]].params
  return lora.join(game.base_params, trained) if game.base_params else trained


def self_play_step(
  step: int, states: States, game: Game
) -> tuple[States, Outcome]:
  """Plays and learns from one step. Everything random derives from `step`.

  Args:
    step: counted from 0.
    states: one TrainState a policy; donated where it is trained.
    game: what stays the same.

  Returns:
    The states after the step, and its record.

  Raises:
    FloatingPointError: if a training metric is not finite.
  """
  seconds = {}
  with _clock(seconds, 'propose'):
    proposals = propose(step, states, game)
    problems, prompts = read_questions(proposals, game)
  with _clock(seconds, 'solve'):
    solutions = solve(step, states, prompts, game)
  with _clock(seconds, 'judge'):
    verdicts = judge(step, problems, solutions, game)
  with _clock(seconds, 'learn'):
    states, trained, train_metrics = learn(
      step, states, proposals, solutions, verdicts, game
    )
  metrics = {f'time/{name}': value for name, value in seconds.items()}
  metrics |= describe(proposals, solutions, verdicts, game.task)
  metrics |= train_metrics
  outcome = Outcome(proposals, solutions, verdicts, trained, metrics)
  return states, outcome


def propose(step: int, states: States, game: Game) -> responses.Responses:
  """Samples a group of questions for each of the step's topics."""
  writer = game.writers['proposer']
  prompts = [
    writer.encode(game.task.proposer_prompt(topic))
    for topic in game.task.topics(step)
  ]
  return responses.write(
    writer,
    params_of('proposer', states, game),
    prompts,
    path=(game.rules.seed, step, ROLES.index('proposer')),
    num_rows=len(prompts),
  )


def read_questions(
  proposals: responses.Responses, game: Game
) -> tuple[list[types.Problem], list[list[int]]]:
  """Reads every proposal; returns the problems and the readable ones' prompts.

  A question that was cut off, does not have the format, or whose prompt is
  over the limit is unreadable: it never reaches the solver.
  """
  problems, prompts = [], []
  finished = proposals.rollout.finished.reshape(-1)
  texts = [text for group in proposals.texts for text in group]
  for text, complete in zip(texts, finished, strict=True):
    problem = game.task.read_question(text)
    if not complete:
      problem = problem._replace(ok=False, why_not='unfinished')
    if problem.ok:
      prompt = game.writers['solver'].encode(
        game.task.solver_prompt(problem.text)
      )
      if prompt is None:
        problem = problem._replace(ok=False, why_not='too_long')
      else:
        prompts.append(prompt)
    problems.append(problem)
  return problems, prompts


def solve(
  step: int, states: States, prompts: list[list[int]], game: Game
) -> responses.Responses | None:
  """Samples G answers to every readable question, if there is one."""
  if not prompts:
    return None
  return responses.write(
    game.writers['solver'],
    params_of('solver', states, game),
    prompts,
    path=(game.rules.seed, step, ROLES.index('solver')),
    num_rows=game.rules.questions,
  )


def judge(
  step: int,
  problems: list[types.Problem],
  solutions: responses.Responses | None,
  game: Game,
) -> list[types.Verdict]:
  """Votes on the answers of every question and pays both roles."""
  rules = game.rules
  coin = random.Random(f'{rules.seed}/{step}')
  groups = iter(_groups(solutions) if solutions else ())
  verdicts = []
  for problem in problems:
    if not problem.ok:
      verdicts.append(
        types.Verdict(problem, (), None, (), rules.unreadable_reward)
      )
      continue
    texts, likelihoods = next(groups)
    answers = game.task.read_answers(texts)
    result = vote.majority(
      answers,
      weights=likelihoods if rules.weights == 'likelihood' else None,
      ties=rules.ties,
      min_agreement=rules.min_agreement,
    )
    solver_rewards = rewards.solver(
      rules.solver_reward,
      answers,
      result,
      coin=coin,
      true=functools.partial(game.task.true_answer, problem.text),
    )
    paid = rewards.proposer(
      result, rules.proposer_reward, low=rules.band[0], high=rules.band[1]
    )
    verdicts.append(
      types.Verdict(problem, answers, result, solver_rewards, paid)
    )
  return verdicts


def _groups(
  solutions: responses.Responses,
) -> Iterator[tuple[list[str], list[float]]]:
  """Texts and likelihoods of each question's answers."""
  rollout = solutions.rollout
  for group, texts in enumerate(solutions.texts):
    lengths = rollout.lengths[group].tolist()
    yield (
      texts,
      [
        vote.likelihood(float(logprobs[:length].sum()), length)
        for logprobs, length in zip(
          rollout.logprobs[group], lengths, strict=True
        )
      ],
    )


def learn(
  step: int,
  states: States,
  proposals: responses.Responses,
  solutions: responses.Responses | None,
  verdicts: list[types.Verdict],
  game: Game,
) -> tuple[States, tuple[str, ...], dict[str, float]]:
  """Updates the solver, and in every k-th step the proposer.

  Both batches hold the log-probabilities of the weights that sampled them,
  so the order of the two updates does not change what they learn from.
  """
  rules = game.rules
  pending = {}
  if solutions is not None:
    pending['solver'] = (solutions, _solver_scores(verdicts, rules.questions))
  if rules.train_every and (step + 1) % rules.train_every == 0:
    pending['proposer'] = (proposals, _proposer_scores(verdicts, rules))
  states, metrics, trained, changed = dict(states), {}, [], set()
  for role, (written, scores) in pending.items():
    todo = batches.make_batches(
      written.prompts,
      written.rollout,
      scores,
      updates=rules.updates[role],
      groups_per_microbatch=rules.groups_per_microbatch,
      estimator=rules.estimator,
      average=rules.average,
      longest=game.writers[role].slots,
      keep_neutral=rules.keep_neutral,
    )
    totals = []
    for batch in todo:
      owner = game.owner[role]
      states[owner], found = game.train_step(
        states[owner],
        sharding.put_rows(batch, game.mesh),
        game.reference_params,
        game.base_params,
      )
      gap = found.pop('logprob_gap')
      if owner not in changed:
        # The weights that sampled: sampler and learner should agree on them.
        metrics |= _means(
          jax.device_get([{'logprob_gap': gap}]), f'sample/{role}', step
        )
      changed.add(owner)
      totals.append(found)
    metrics[f'train/{role}/updates'] = float(len(todo))
    metrics |= _means(jax.device_get(totals), f'train/{role}', step)
    trained += [role] if todo else []
  return states, tuple(trained), metrics


def describe(
  proposals: responses.Responses,
  solutions: responses.Responses | None,
  verdicts: list[types.Verdict],
  task: base.Task,
) -> dict[str, float]:
  """The step in numbers. A mean over nothing is left out.

  `vote/accuracy` compares the vote with the task's checker where that can
  tell: a diagnosis that training never sees.
  """
  asked = [v for v in verdicts if v.problem.ok]
  labelled = [v for v in asked if v.vote.answer is not None]
  checked = [
    v.vote.answer == true
    for v in labelled
    if (true := task.true_answer(v.problem.text)) is not None
  ]
  answers = [answer for v in asked for answer in v.answers]
  questions = {v.problem.text for v in asked}
  means = {
    'proposer/valid_rate': [v.problem.ok for v in verdicts],
    'proposer/reward': [v.proposer_reward for v in verdicts],
    'solver/reward': [r for v in asked for r in v.solver_rewards],
    'solver/blank_rate': [answer is None for answer in answers],
    'vote/majority_rate': [v.vote.answer is not None for v in asked],
    'vote/agreement': [v.vote.count / v.vote.size for v in labelled],
    'vote/unanimous_rate': [v.vote.count == v.vote.size for v in asked],
    'vote/accuracy': checked,
  }
  metrics = {k: float(np.mean(v)) for k, v in means.items() if v}
  metrics['vote/checked'] = float(len(checked))
  if asked:
    metrics['proposer/distinct_rate'] = len(questions) / len(asked)
  why_not = [('proposer/unreadable', v.problem.why_not) for v in verdicts]
  why_not += [('vote/nobody', v.vote.why_not) for v in asked]
  for prefix, reason in why_not:
    if reason:
      key = f'{prefix}/{reason}'
      metrics[key] = metrics.get(key, 0.0) + 1.0
  for role, written, rows in (
    ('proposer', proposals, None),
    ('solver', solutions, len(asked)),
  ):
    if written is not None:
      rollout = written.rollout
      metrics[f'sample/{role}/tokens'] = float(np.mean(rollout.lengths[:rows]))
      metrics[f'sample/{role}/finished_rate'] = float(
        np.mean(rollout.finished[:rows])
      )
  return metrics


def _solver_scores(
  verdicts: list[types.Verdict], num_rows: int
) -> batches.Scores:
  """Asked questions in order, then the rows that only fill the shape."""
  asked = [v.solver_rewards for v in verdicts if v.problem.ok]
  scores = np.zeros((num_rows, len(asked[0])), np.float32)
  scores[: len(asked)] = asked
  counted = np.zeros(scores.shape, bool)
  counted[: len(asked)] = True
  return batches.Scores(scores, counted)


def _proposer_scores(
  verdicts: list[types.Verdict], rules: Rules
) -> batches.Scores:
  scores = np.array([v.proposer_reward for v in verdicts], np.float32)
  scores = scores.reshape(-1, rules.group_size)
  return batches.Scores(scores, np.ones(scores.shape, bool))


def _means(totals, prefix: str, step: int) -> dict[str, float]:
  """Adds up (sum, count) pairs over updates; refuses what is not finite."""
  metrics = {}
  for name in totals[0] if totals else ():
    total = sum(float(found[name][0]) for found in totals)
    count = sum(float(found[name][1]) for found in totals)
    key = f'{prefix}/{name}'
    if not np.isfinite(total):
      raise FloatingPointError(f'{key}={total} in step {step}: not finite')
    if count:
      metrics[key] = total / count
  return metrics


@contextlib.contextmanager
def _clock(seconds: dict[str, float], name: str):
  start = time.perf_counter()
  yield
  seconds[name] = time.perf_counter() - start
