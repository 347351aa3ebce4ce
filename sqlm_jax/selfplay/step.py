"""One step of self-play: propose, solve, judge, learn.

1. The proposer continues the step's topic prompts: groups of questions
   (`Responses`), read into one `Problem` each.
2. The solver answers every readable question G times (`Responses`).
3. The answers of a question are read and put to a vote, or are programs and
   run against the question's tests; the rewards of both roles follow
   (`Verdict`).
4. Rewards become advantages and, with tokens and log-probabilities of the
   responses, a `GroupBatch` an update. `train_step` turns the `TrainState`
   and a batch into the next `TrainState`; the solver learns in every step,
   the proposer in every k-th. With PPO a critic's values come first, and it
   learns from the same batches.

1 to 3 are a round. A step has one, or as many as it takes to find questions
that tell answers apart.
"""

import contextlib
import itertools
import random
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sqlm_jax import sharding
from sqlm_jax.engine import groups, learner
from sqlm_jax.game import repetition, types, vote
from sqlm_jax.models import lora
from sqlm_jax.selfplay import batches, estimates, judging, metrics, responses
from sqlm_jax.tasks import base

ROLES = ('proposer', 'solver')
# A role's number in key paths; evaluation and talking have 2 and 3.
_KEYS = {'proposer': 0, 'solver': 1, 'voter': 4}
_KEYS_A_ROUND = 8

States = dict[str, learner.TrainState]


class Rules(NamedTuple):
  """The numbers of the game; `configs/default.py` says what they mean."""

  seed: int
  questions: int  # Q
  group_size: int  # of the proposer
  rounds: int
  train_every: int
  earlier_every: int
  estimator: str
  average: str
  keep_neutral: bool
  updates: dict[str, int]
  groups_per_microbatch: int
  judging: judging.Rules


class Critic(NamedTuple):
  """A value function as compiled programs, and what PPO does with it.

  Attributes:
    values: `(texts, params, base_params) -> [Q, G, R]`.
    update: the compiled update.
    reference_logprobs: `(texts, params) -> [Q, G, R]`, None unless the
      rewards pay for the KL to the reference policy.
    kl: what a nat of it costs.
    gamma: discount a token.
    decay: GAE's lambda.
  """

  values: Callable[..., jax.Array]
  update: Callable[..., tuple[learner.TrainState, learner.Metrics]]
  reference_logprobs: Callable[..., jax.Array] | None
  kl: float
  gamma: float
  decay: float


class Game(NamedTuple):
  """What stays the same from step to step.

  Attributes:
    rules: the numbers of the game.
    task: how to ask, read and check.
    questions: written beforehand, instead of a proposer's; () for none.
    writers: one a role, and 'voter' where earlier solvers vote.
    owner: role -> name of the `TrainState` that it reads and trains; both
      roles name the same one where they share weights.
    train_step: the compiled update.
    critic: None without value functions.
    reference_params: frozen initial weights, None without a KL penalty.
    base_params: frozen weights under the adapters, {} without adapters.
    mesh: where batches go.
  """

  rules: Rules
  task: base.Task
  questions: tuple[str, ...]
  writers: dict[str, responses.Writer]
  owner: dict[str, str]
  train_step: Callable[..., tuple[learner.TrainState, learner.Metrics]]
  critic: Critic | None
  reference_params: Any
  base_params: Any
  mesh: jax.sharding.Mesh


class Round(NamedTuple):
  """What was asked and answered, and how that was judged."""

  proposals: responses.Responses | None  # None if written beforehand
  solutions: responses.Responses | None  # None if no question was readable
  voters: responses.Responses | None  # earlier solvers' answers
  verdicts: list[types.Verdict]  # one a question, readable or not


class Outcome(NamedTuple):
  """What a step leaves for the record."""

  rounds: list[Round]
  trained: tuple[str, ...]  # roles that were updated
  learned: frozenset[int]  # which questions, counted as they were asked
  metrics: dict[str, float]


def params_of(role: str, states: States, game: Game) -> Any:
  """All parameters that a role samples with."""
  trained = states[game.owner[role]].params
  return lora.join(game.base_params, trained) if game.base_params else trained


def critic_of(owner: str) -> str:
  """The name of the critic of an owner's policy.

  A value function is one policy's. Where two roles share weights they are one
  policy, and its critic learns from both: the prompt tells them apart.
  """
  return f'{owner}_critic'


def self_play_step(
  step: int, states: States, memory: repetition.Memory, game: Game
) -> tuple[States, repetition.Memory, Outcome]:
  """Plays and learns from one step. Everything random derives from `step`.

  Args:
    step: counted from 0.
    states: one TrainState a policy; donated where it is trained.
    memory: questions of earlier steps.
    game: what stays the same.

  Returns:
    States and memory after the step, and its record.

  Raises:
    FloatingPointError: if a training metric is not finite.
  """
  clock = _Clock()
  rounds = []
  while len(rounds) < game.rules.rounds:
    rounds.append(play(step, len(rounds), states, memory, game, clock))
    memory = memory.add(
      v.problem.text for v in rounds[-1].verdicts if v.problem.ok
    )
    useful = sum(_tells_apart(v) for r in rounds for v in r.verdicts)
    if useful >= game.rules.questions:
      break
  learned = to_learn(rounds, game.rules)
  with clock('learn'):
    states, trained, found = learn(step, states, rounds, learned, game)
  found |= describe(rounds, game.task)
  found |= {f'time/{name}': value for name, value in clock.seconds.items()}
  if 'solver' not in trained:
    learned = []
  return states, memory, Outcome(rounds, trained, frozenset(learned), found)


def play(
  step: int,
  number: int,
  states: States,
  memory: repetition.Memory,
  game: Game,
  clock: '_Clock',
) -> Round:
  """Asks, answers and judges once; learns nothing.

  Args:
    step: counted from 0.
    number: of the round in its step.
    states: one TrainState a policy.
    memory: questions asked before.
    game: what stays the same.
    clock: adds up the seconds of each part.
  """
  with clock('propose'):
    proposals = propose(step, number, states, game)
    problems, prompts = read_questions(step, number, proposals, game)
  with clock('solve'):
    solutions = solve('solver', step, number, states, prompts, game)
    voters = None
    if 'voter' in game.writers:
      first = prompts and [variants[:1] for variants in prompts]
      voters = solve('voter', step, number, states, first, game)
  with clock('judge'):
    verdicts = judging.judge(
      problems,
      _answers(len(prompts), solutions, voters),
      game.task,
      game.rules.judging,
      step=step,
      coin=random.Random(f'{game.rules.seed}/{step}' + f'/{number}' * number),
      asked_before=memory,
    )
  return Round(proposals, solutions, voters, verdicts)


def propose(
  step: int, number: int, states: States, game: Game
) -> responses.Responses | None:
  """Samples a group of questions for each of the step's topics."""
  if game.questions:
    return None
  writer = game.writers['proposer']
  prompts = [
    writer.encode(game.task.proposer_prompt(topic))
    for topic in game.task.topics(step)
  ]
  return responses.write(
    writer,
    params_of('proposer', states, game),
    prompts,
    path=_path('proposer', step, number, game),
    num_rows=len(prompts),
  )


def read_questions(
  step: int,
  number: int,
  proposals: responses.Responses | None,
  game: Game,
) -> tuple[list[types.Problem], list[list[list[int]]]]:
  """Reads every proposal; returns the problems and the readable ones' prompts.

  A question that was cut off, does not have the format, or whose prompt is
  over the limit is unreadable: it never reaches the solver.
  """
  if proposals is None:
    first = (step * game.rules.rounds + number) * game.rules.questions
    texts = [
      game.questions[(first + i) % len(game.questions)]
      for i in range(game.rules.questions)
    ]
    finished = [True] * len(texts)
  else:
    texts = [text for group in proposals.texts for text in group]
    finished = proposals.rollout.finished.reshape(-1)
  problems, prompts = [], []
  encode = game.writers['solver'].encode
  for text, complete in zip(texts, finished, strict=True):
    problem = game.task.read_question(text)
    if not complete:
      problem = problem._replace(ok=False, why_not='unfinished')
    if problem.ok:
      variants = [encode(p) for p in game.task.solver_prompts(problem.text)]
      if None in variants:
        problem = problem._replace(ok=False, why_not='too_long')
      else:
        prompts.append(variants)
    problems.append(problem)
  return problems, prompts


def solve(
  role: str,
  step: int,
  number: int,
  states: States,
  prompts: list[list[list[int]]],
  game: Game,
) -> responses.Responses | None:
  """Samples answers to every readable question, if there is one.

  The answers of a question are shared out among its prompts.
  """
  if not prompts:
    return None
  return responses.write(
    game.writers[role],
    params_of(role, states, game),
    [prompt for variants in prompts for prompt in variants],
    path=_path(role, step, number, game),
    num_rows=game.rules.questions * len(prompts[0]),
  )


def to_learn(rounds: Sequence[Round], rules: Rules) -> list[int]:
  """Which of the questions that were asked the solver learns from.

  All, if a step has one round. Else the first Q that tell their answers apart:
  DAPO's dynamic sampling (Yu et al., 2025, section 3.2).
  """
  asked = [v for one in rounds for v in one.verdicts if v.problem.ok]
  if rules.rounds == 1:
    return list(range(len(asked)))
  useful = [i for i, v in enumerate(asked) if _tells_apart(v)]
  return useful[: rules.questions]


def learn(
  step: int,
  states: States,
  rounds: Sequence[Round],
  learned: Sequence[int],
  game: Game,
) -> tuple[States, tuple[str, ...], dict[str, float]]:
  """Updates the solver, and in every k-th step the proposer.

  Both batches hold log-probabilities and values of the weights before any
  update, so the order of the two does not change what they learn from.
  """
  rules = game.rules
  pending = {'solver': _solver_scores(rounds, learned, rules)}
  if rules.train_every and (step + 1) % rules.train_every == 0:
    pending['proposer'] = _proposer_scores(rounds[0], rules)
  todo = {
    role: to_batches(role, scored, states, game)
    for role, scored in pending.items()
    if scored is not None
  }
  states, found, trained, changed = dict(states), {}, [], set()
  for role, (updates, kl) in todo.items():
    totals, critic_totals = [], []
    owner = game.owner[role]
    for batch in updates:
      batch = sharding.put_rows(batch, game.mesh)
      states[owner], one = game.train_step(
        states[owner], batch, game.reference_params, game.base_params
      )
      gap = one.pop('logprob_gap')
      if owner not in changed:
        # The weights that sampled: sampler and learner should agree on them.
        gap = jax.device_get([{'logprob_gap': gap}])
        found |= metrics.of_updates(gap, f'sample/{role}', step)
      changed.add(owner)
      totals.append(one)
      if game.critic:
        name = critic_of(owner)
        states[name], one = game.critic.update(
          states[name], batch, game.base_params
        )
        critic_totals.append(one)
    found[f'train/{role}/updates'] = float(len(updates))
    if kl is not None:
      found[f'train/{role}/kl'] = kl
    for prefix, these in (('train', totals), ('critic', critic_totals)):
      these = jax.device_get(these)
      found |= metrics.of_updates(these, f'{prefix}/{role}', step)
    trained += [role] if updates else []
  if rules.earlier_every and (step + 1) % rules.earlier_every == 0:
    states[game.owner['voter']] = earlier_solver(states, game.owner)
  return states, tuple(trained), found


def to_batches(
  role: str, scored: batches.Scored, states: States, game: Game
) -> tuple[list[groups.GroupBatch], float | None]:
  """A role's updates, and the mean KL where the rewards paid for it."""
  rules = game.rules
  rows = batches.pad_groups(scored)
  estimate = _estimate(rows, states, game.owner[role], game)
  updates = batches.make_batches(
    rows,
    estimate,
    updates=rules.updates[role],
    groups_per_microbatch=rules.groups_per_microbatch,
    average=rules.average,
    longest=game.writers[role].slots,
    keep_neutral=rules.keep_neutral,
  )
  return updates, estimate.kl


def _estimate(
  rows: batches.Rows, states: States, owner: str, game: Game
) -> batches.Estimate:
  critic = game.critic
  if critic is None:
    return estimates.of_responses(rows, game.rules.estimator)
  texts = batches.to_evaluate(
    rows, groups_per_microbatch=game.rules.groups_per_microbatch
  )
  texts = sharding.put_rows(texts, game.mesh)
  evaluate = lambda program, *params: jax.device_get(program(texts, *params))[
    : len(rows.rollout.tokens)
  ]
  params = states[critic_of(owner)].params
  reference_QGR = None
  if critic.reference_logprobs:
    reference_QGR = evaluate(critic.reference_logprobs, game.reference_params)
  return estimates.of_tokens(
    rows,
    evaluate(critic.values, params, game.base_params),
    gamma=critic.gamma,
    decay=critic.decay,
    reference_QGR=reference_QGR,
    kl=critic.kl,
  )


def earlier_solver(states: States, owner: dict[str, str]) -> learner.TrainState:
  """Today's solver, for votes in later steps."""
  solver = states[owner['solver']]._replace(opt_state=())
  # Copied: the next update donates the solver's own.
  return jax.tree.map(jnp.copy, solver)


def describe(rounds: Sequence[Round], task: base.Task) -> dict[str, float]:
  """The step in numbers."""
  verdicts = [v for one in rounds for v in one.verdicts]
  found = metrics.of_verdicts(verdicts, task)
  if len(rounds) > 1:
    found['sample/rounds'] = float(len(rounds))
  for role, written in (
    ('proposer', [one.proposals for one in rounds]),
    ('solver', [one.solutions for one in rounds]),
  ):
    found |= metrics.of_responses(role, responses.join(written))
  return found


def _path(
  role: str, step: int, number: int, game: Game
) -> tuple[int, int, int]:
  return (game.rules.seed, step, _KEYS[role] + number * _KEYS_A_ROUND)


def _answers(
  num_questions: int,
  solutions: responses.Responses | None,
  voters: responses.Responses | None,
) -> list[judging.Answers]:
  """What the solver and an earlier one said to each question."""
  texts, likelihoods = _by_question(solutions, num_questions)
  more_texts, more_likelihoods = _by_question(voters, num_questions)
  return [
    judging.Answers(*answers)
    for answers in zip(
      texts, likelihoods, more_texts, more_likelihoods, strict=True
    )
  ]


def _by_question(
  written: responses.Responses | None, num_questions: int
) -> tuple[list[list[str]], list[list[float]]]:
  """Texts and likelihoods, those of a question's prompts put together."""
  if written is None:
    return [[]] * num_questions, [[]] * num_questions
  likelihoods = [
    [
      vote.likelihood(float(logprobs[:length].sum()), length)
      for logprobs, length in zip(group, lengths.tolist(), strict=True)
    ]
    for group, lengths in zip(
      written.rollout.logprobs, written.rollout.lengths, strict=True
    )
  ]
  size = len(written.texts) // num_questions
  flat = lambda rows: [
    list(itertools.chain.from_iterable(rows[first : first + size]))
    for first in range(0, len(rows), size)
  ]
  return flat(written.texts), flat(likelihoods)


def _tells_apart(verdict: types.Verdict) -> bool:
  """Whether the answers were not all paid the same."""
  return len(set(verdict.solver_rewards)) > 1


def _solver_scores(
  rounds: Sequence[Round], learned: Sequence[int], rules: Rules
) -> batches.Scored | None:
  if not learned:
    return None
  written = responses.join([one.solutions for one in rounds])
  rewards = np.array(
    [v.solver_rewards for o in rounds for v in o.verdicts if v.problem.ok],
    np.float32,
  )
  # The prompts of a question stand in a row.
  prompts = np.arange(len(written.texts)).reshape(len(rewards), -1)
  written = responses.take(written, prompts[learned].reshape(-1))
  return batches.Scored(
    written.prompt_ids,
    written.rollout,
    rewards[learned],
    num_groups=rules.questions,
  )


def _proposer_scores(one: Round, rules: Rules) -> batches.Scored | None:
  """The first round's questions: later ones asked the same for more answers."""
  if one.proposals is None:
    return None
  rewards = np.array([v.proposer_reward for v in one.verdicts], np.float32)
  rewards = rewards.reshape(-1, rules.group_size)
  return batches.Scored(
    one.proposals.prompt_ids,
    one.proposals.rollout,
    rewards,
    num_groups=len(rewards),
  )


class _Clock:
  """Adds up seconds by name."""

  def __init__(self):
    self.seconds: dict[str, float] = {}

  @contextlib.contextmanager
  def __call__(self, name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    elapsed = time.perf_counter() - start
    self.seconds[name] = self.seconds.get(name, 0.0) + elapsed
