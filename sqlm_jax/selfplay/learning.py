"""From the rounds of a step to updates of both roles."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from sqlm_jax.distributed import sharding
from sqlm_jax.engine import groups, learner
from sqlm_jax.game import types
from sqlm_jax.selfplay import batches, estimates, metrics, packing, responses
from sqlm_jax.selfplay import game as game_lib


def tells_apart(verdict: types.Verdict) -> bool:
  """Whether the answers were not all paid the same."""
  return len(set(verdict.solver_rewards)) > 1


def to_learn(
  rounds: Sequence[game_lib.Round], rules: game_lib.Rules
) -> list[int]:
  """Which of the questions that were asked the solver learns from.

  All, if a step has one round. Else the first Q that tell their answers apart:
  DAPO's dynamic sampling (Yu et al., 2025, section 3.2).
  """
  asked = [v for one in rounds for v in one.verdicts if v.problem.ok]
  if rules.rounds == 1:
    return list(range(len(asked)))
  useful = [i for i, v in enumerate(asked) if tells_apart(v)]
  return useful[: rules.questions]


def learn(
  step: int,
  states: game_lib.States,
  rounds: Sequence[game_lib.Round],
  learned: Sequence[int],
  game: game_lib.Game,
) -> tuple[game_lib.States, tuple[str, ...], dict[str, float]]:
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
        found |= metrics.of_updates(gap, f'sample/{role}')
      changed.add(owner)
      totals.append(one)
      if game.critic:
        name = game_lib.critic_of(owner)
        states[name], one = game.critic.update(
          states[name], batch, game.base_params
        )
        critic_totals.append(one)
    found[f'train/{role}/updates'] = float(len(updates))
    if kl is not None:
      found[f'train/{role}/kl'] = kl
    for prefix, these in (('train', totals), ('critic', critic_totals)):
      these = jax.device_get(these)
      found |= metrics.of_updates(these, f'{prefix}/{role}')
    trained += [role] if updates else []
  if rules.earlier_every and (step + 1) % rules.earlier_every == 0:
    states[game.owner['voter']] = earlier_solver(states, game.owner)
  return states, tuple(trained), found


def to_batches(
  role: str,
  scored: batches.Scored,
  states: game_lib.States,
  game: game_lib.Game,
) -> tuple[list[groups.GroupBatch], float | None]:
  """A role's updates, and the mean KL where the rewards paid for it."""
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


def _layout(game: game_lib.Game) -> packing.Layout:
  shards = sharding.row_shards(game.mesh)
  return packing.Layout(game.rules.groups_per_microbatch, shards)


def _estimate(
  rows: batches.Rows, states: game_lib.States, owner: str, game: game_lib.Game
) -> batches.Estimate:
  critic = game.critic
  if critic is None:
    return estimates.of_responses(rows, game.rules.estimator)
  texts = batches.to_evaluate(rows, _layout(game))
  texts = sharding.put_rows(texts, game.mesh)
  num_rows = len(rows.rollout.tokens)
  evaluate = lambda program, *params: sharding.fetch(program(texts, *params))[
    :num_rows
  ]
  params = states[game_lib.critic_of(owner)].params
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


def earlier_solver(
  states: game_lib.States, owner: dict[str, str]
) -> learner.TrainState:
  """Today's solver, for votes in later steps."""
  solver = states[owner['solver']]._replace(opt_state=())
  # Copied: the next update donates the solver's own.
  return jax.tree.map(jnp.copy, solver)


def _solver_scores(
  rounds: Sequence[game_lib.Round],
  learned: Sequence[int],
  rules: game_lib.Rules,
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


def _proposer_scores(
  one: game_lib.Round, rules: game_lib.Rules
) -> batches.Scored | None:
  """The first round's questions: later ones asked the same for more answers."""
  if one.proposals is None:
    return None
  # float32 makes NaN of None.
  rewards = np.array([v.proposer_reward for v in one.verdicts], np.float32)
  rewards = rewards.reshape(-1, rules.group_size)
  return batches.Scored(
    one.proposals.prompt_ids,
    one.proposals.rollout,
    rewards,
    num_groups=len(rewards),
  )
