"""Updates both roles with the rounds of a step."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from sqlm_jax.distributed import sharding, transfers
from sqlm_jax.engine import groups, learner
from sqlm_jax.game import types
from sqlm_jax.selfplay import (
  batches,
  estimates,
  packing_plan,
  responses,
  step_metrics,
)
from sqlm_jax.selfplay import rounds as rounds_lib


def tells_apart(verdict: types.Verdict) -> bool:
  """Returns whether the rewards of the answers differ."""
  return len(set(verdict.solver_rewards)) > 1


def to_learn(
  rounds: Sequence[rounds_lib.Round], rules: rounds_lib.Rules
) -> list[int]:
  """Selects the readable questions that the solver is trained on.

  If a step has one round, these are all questions. Otherwise they are the first
  Q questions whose answers have different rewards, which is the dynamic
  sampling of DAPO (Yu et al., 2025, section 3.2).

  Args:
    rounds: the rounds of the step.
    rules: settings of the game.

  Returns:
    Indices into the readable questions of all rounds.
  """
  asked = [v for one in rounds for v in one.verdicts if v.problem.ok]
  if rules.rounds == 1:
    return list(range(len(asked)))
  useful = [i for i, v in enumerate(asked) if tells_apart(v)]
  return useful[: rules.questions]


def learn(
  step: int,
  states: rounds_lib.States,
  rounds: Sequence[rounds_lib.Round],
  learned: Sequence[int],
  game: rounds_lib.Game,
) -> tuple[rounds_lib.States, tuple[str, ...], dict[str, float]]:
  """Updates the solver and, in every k-th step, the proposer.

  The batches of both roles hold the log-probabilities and values of the weights
  before any update, so they do not depend on the order of the updates.

  Args:
    step: self-play step, counted from 0.
    states: the `TrainState` of each policy; trained states are donated.
    rounds: the rounds of the step.
    learned: questions that the solver is trained on, see `to_learn`.
    game: the fixed parts of self-play.

  Returns:
    The new states, the roles that were updated, and metrics.
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
      batch = transfers.put_rows(batch, game.mesh)
      states[owner], one = game.train_step(
        states[owner], batch, game.reference_params, game.base_params
      )
      gap = one.pop('logprob_gap')
      if owner not in changed:
        # Measured only before the first update, with the weights that sampled.
        gap = jax.device_get([{'logprob_gap': gap}])
        found |= step_metrics.of_updates(gap, f'sample/{role}')
      changed.add(owner)
      totals.append(one)
      if game.critic:
        name = rounds_lib.critic_of(owner)
        states[name], one = game.critic.update(
          states[name], batch, game.base_params
        )
        critic_totals.append(one)
    found[f'train/{role}/updates'] = float(len(updates))
    if kl is not None:
      found[f'train/{role}/kl'] = kl
    for prefix, these in (('train', totals), ('critic', critic_totals)):
      these = jax.device_get(these)
      found |= step_metrics.of_updates(these, f'{prefix}/{role}')
    trained += [role] if updates else []
  if rules.earlier_every and (step + 1) % rules.earlier_every == 0:
    states[game.owner['voter']] = earlier_solver(states, game.owner)
  return states, tuple(trained), found


def to_batches(
  role: str,
  scored: batches.Scored,
  states: rounds_lib.States,
  game: rounds_lib.Game,
) -> tuple[list[groups.GroupBatch], float | None]:
  """Returns a role's batches, and the mean KL if the reward includes it."""
  rules = game.rules
  rows = batches.pad_groups(scored)
  estimate = _estimate(rows, states, game.owner[role], game)
  updates = batches.make_batches(
    rows,
    estimate,
    _layout(game),
    updates=rules.updates[role],
    average=rules.average,
    longest=game.writers[role].slots,
    keep_neutral=rules.keep_neutral,
  )
  return updates, estimate.kl


def _layout(game: rounds_lib.Game) -> packing_plan.Layout:
  shards = sharding.row_shards(game.mesh)
  return packing_plan.Layout(game.rules.groups_per_microbatch, shards)


def _estimate(
  rows: batches.Rows,
  states: rounds_lib.States,
  owner: str,
  game: rounds_lib.Game,
) -> batches.Estimate:
  critic = game.critic
  if critic is None:
    return estimates.of_responses(rows, game.rules.estimator)
  texts = batches.to_evaluate(rows, _layout(game))
  texts = transfers.put_rows(texts, game.mesh)
  num_rows = len(rows.rollout.tokens)
  evaluate = lambda program, *params: transfers.fetch(program(texts, *params))[
    :num_rows
  ]
  params = states[rounds_lib.critic_of(owner)].params
  reference_QGR = None
  if critic.reference_logprobs:
    reference_QGR = evaluate(critic.reference_logprobs, game.reference_params)
  return estimates.of_tokens(
    rows,
    evaluate(critic.values, params, game.base_params),
    gamma=critic.gamma,
    decay=critic.gae_lambda,
    reference_QGR=reference_QGR,
    kl=critic.kl,
  )


def earlier_solver(
  states: rounds_lib.States, owner: dict[str, str]
) -> learner.TrainState:
  """Returns a copy of the current solver, for votes in later steps."""
  solver = states[owner['solver']]._replace(opt_state=())
  # Copied because the next update donates the solver's buffers.
  return jax.tree.map(jnp.copy, solver)


def _solver_scores(
  rounds: Sequence[rounds_lib.Round],
  learned: Sequence[int],
  rules: rounds_lib.Rules,
) -> batches.Scored | None:
  if not learned:
    return None
  written = responses.join([one.solutions for one in rounds])
  rewards = np.array(
    [v.solver_rewards for o in rounds for v in o.verdicts if v.problem.ok],
    np.float32,
  )
  # The prompts of a question are consecutive.
  prompts = np.arange(len(written.texts)).reshape(len(rewards), -1)
  written = responses.take(written, prompts[learned].reshape(-1))
  return batches.Scored(
    written.prompt_ids,
    written.rollout,
    rewards[learned],
    num_groups=rules.questions,
  )


def _proposer_scores(
  one: rounds_lib.Round, rules: rounds_lib.Rules
) -> batches.Scored | None:
  """Returns the proposals of a round with their rewards.

  Only the first round is used. Later rounds repeat its prompts to give the
  solver more questions.
  """
  if one.proposals is None:
    return None
  # Converting to float32 turns None into NaN.
  rewards = np.array([v.proposer_reward for v in one.verdicts], np.float32)
  rewards = rewards.reshape(-1, rules.group_size)
  return batches.Scored(
    one.proposals.prompt_ids,
    one.proposals.rollout,
    rewards,
    num_groups=len(rewards),
  )
