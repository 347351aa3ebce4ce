"""Updates both roles with the rounds of a step."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from sqlm_jax.config import game_schema, schema
from sqlm_jax.distributed import sharding, transfers
from sqlm_jax.engine import groups
from sqlm_jax.game import types
from sqlm_jax.selfplay import (
  adaptive,
  anchor,
  batches,
  estimates,
  packing_plan,
  responses,
  solver_copies,
  step_metrics,
  step_types,
)


class RoleBatches(NamedTuple):
  """The batches of a role in a step."""

  batches: list[groups.GroupBatch[np.ndarray]]  # one per update
  mean_kl: float | None  # per token, if the reward includes a KL penalty
  advantages: np.ndarray  # [Q, G], see `estimates.per_response`


class Learned(NamedTuple):
  """The result of the updates of a step.

  Attributes:
    trained: roles that were updated.
    trained_on: indices of the questions that the solver was trained on, among
      the readable questions of all rounds.
    metrics: metrics of the updates.
    advantages: as in `step_types.Outcome`.
  """

  trained: tuple[str, ...]
  trained_on: frozenset[int]
  metrics: dict[str, float]
  advantages: dict[str, np.ndarray]


def rewards_differ(question: types.ScoredQuestion) -> bool:
  """Returns True if the answers to a question have different rewards."""
  return len(set(question.solver_rewards) - {None}) > 1


def has_rewards(question: types.ScoredQuestion) -> bool:
  """Returns True if the solver is trained on an answer to a question."""
  return any(reward is not None for reward in question.solver_rewards)


def select_questions(
  rounds: Sequence[step_types.Round], config: schema.Config
) -> list[int]:
  """Selects the readable questions that the solver is trained on.

  If `solver.max_rounds` is 1, these are all questions with rewards. Otherwise
  they are the first Q questions whose answers have different rewards, which is
  the dynamic sampling of DAPO (Yu et al., 2025, section 3.2).

  Args:
    rounds: the rounds of the step.
    config: config of the run.

  Returns:
    Indices into the readable questions of all rounds.
  """
  readable = step_types.readable_questions(rounds)
  if config.solver.max_rounds == 1:
    return [i for i, q in enumerate(readable) if has_rewards(q)]
  useful = [i for i, q in enumerate(readable) if rewards_differ(q)]
  return useful[: config.max_solved]


def learn(
  step: int,
  states: step_types.States,
  rounds: Sequence[step_types.Round],
  game: step_types.GameSetup,
) -> tuple[step_types.States, Learned]:
  """Updates the solver and, if due, the proposer and the earlier solver.

  The batches of both roles hold the log-probabilities and values of the weights
  before any update, so they do not depend on the order of the updates.

  Args:
    step: self-play step, counted from 0.
    states: the `TrainState` of each policy; trained states are donated.
    rounds: the rounds of the step.
    game: the constant parts of self-play.

  Returns:
    The new states, and the result of the updates.
  """
  proposer, vote = game.config.proposer, game.config.vote
  selected = select_questions(rounds, game.config)
  scored = {'solver': _solver_responses(rounds, selected, game.config)}
  if _is_due(step, proposer.train_every):
    scored['proposer'] = _proposer_responses(rounds[0], proposer)
  role_batches = {
    role: make_batches(role, role_scored, states, game)
    for role, role_scored in scored.items()
    if role_scored is not None
  }
  metrics: dict[str, float] = {}
  trained: list[str] = []
  for role, batches_of_role in role_batches.items():
    updated = {game.state_names[name] for name in trained}
    states, role_metrics = update_role(
      role,
      batches_of_role,
      states,
      game,
      step=step,
      is_on_policy=game.state_names[role] not in updated,
      kl_batch=_kl_batch(role, role_batches, game),
    )
    metrics |= role_metrics
    if batches_of_role.batches:
      trained.append(role)
  names = game.state_names
  if decay := game.config.policy.average_decay:
    solver, average = states[names['solver']], states[step_types.AVERAGE]
    states = states | {
      step_types.AVERAGE: solver_copies.move_average(average, solver, decay)
    }
  elif 'voter' in names and _is_due(step, vote.earlier_every):
    states = states | {
      names['voter']: solver_copies.earlier_solver(states, names)
    }
  trained_on = frozenset(selected if 'solver' in trained else ())
  by_role = {role: role_batches[role].advantages for role in trained}
  if 'solver' in by_role:
    by_role['solver'] = _of_all_answers(by_role['solver'], game.config)
  return states, Learned(tuple(trained), trained_on, metrics, by_role)


def _kl_batch(
  role: str,
  role_batches: Mapping[str, RoleBatches],
  game: step_types.GameSetup,
) -> groups.GroupBatch | None:
  """Returns groups of another role that is trained with the role's weights.

  An update of one role also moves the other role. Without these groups, the
  proposer's updates could move the solver by any distance. Only a role that is
  trained in this step is measured.
  """
  if not game.config.optimizer.max_update_kl:
    return None
  names = game.state_names
  for other, other_batches in role_batches.items():
    shares_weights = other != role and names[other] == names[role]
    if shares_weights and other_batches.batches:
      return transfers.put_rows(other_batches.batches[0], game.mesh)
  return None


def _layout(game: step_types.GameSetup) -> packing_plan.Layout:
  """Returns the layout of the batches of an update."""
  return packing_plan.Layout(
    game.config.optimizer.groups_per_microbatch,
    sharding.row_shards(game.mesh),
  )


def _is_due(step: int, every: int) -> bool:
  """Returns True in every `every`-th step; never if `every` is 0."""
  return every > 0 and (step + 1) % every == 0


def make_batches(
  role: str,
  scored: batches.ScoredResponses,
  states: step_types.States,
  game: step_types.GameSetup,
) -> RoleBatches:
  """Computes the advantages of a role's responses and makes its batches."""
  config = game.config
  layout = _layout(game)
  if game.critic is None:
    advantages = estimates.of_responses(scored, config.advantage.estimator)
  else:
    advantages = _estimate_with_critic(
      role, scored, layout, states=states, critic=game.critic, game=game
    )
  if role == 'solver' and config.advantage.positive_weight != 1:
    advantages = estimates.weigh_positive(
      advantages, config.advantage.positive_weight
    )
  updates = {
    'solver': config.optimizer.solver_updates,
    'proposer': config.optimizer.proposer_updates,
  }
  role_batches = batches.make_batches(
    scored,
    advantages,
    layout,
    updates=updates[role],
    aggregation=config.loss.aggregation,
    max_tokens=game.samplers[role].slots,
    keep_neutral=game.keep_neutral,
  )
  return RoleBatches(
    role_batches,
    advantages.mean_kl,
    estimates.per_response(scored, advantages),
  )


def _estimate_with_critic(
  role: str,
  scored: batches.ScoredResponses,
  layout: packing_plan.Layout,
  *,
  states: step_types.States,
  critic: step_types.Critic,
  game: step_types.GameSetup,
) -> batches.Advantages:
  """Computes advantages of tokens from the values of a role's critic."""
  critic_params = states[step_types.critic_of(game.state_names[role])].params
  texts = batches.texts_to_evaluate(scored, layout)
  texts = transfers.put_rows(texts, game.mesh)

  def fetch(numbers_QGR: jax.Array) -> np.ndarray:
    """Copies the numbers of the groups, without padding, to the host."""
    return transfers.fetch(numbers_QGR)[: len(scored.rollout.tokens)]

  reference_QGR = None
  if critic.reference_logprobs is not None:
    reference_params = step_types.reference_params(states, game)
    reference_QGR = fetch(critic.reference_logprobs(texts, reference_params))
  return estimates.of_tokens(
    scored,
    fetch(critic.values(texts, critic_params, game.base_params)),
    gamma=game.config.critic.gamma,
    gae_lambda=game.config.critic.gae_lambda,
    reference_QGR=reference_QGR,
    kl_coef=adaptive.kl_coef(role, states, game.config.loss),
  )


def update_role(
  role: str,
  role_batches: RoleBatches,
  states: step_types.States,
  game: step_types.GameSetup,
  *,
  step: int,
  is_on_policy: bool,
  kl_batch: groups.GroupBatch | None = None,
) -> tuple[step_types.States, dict[str, float]]:
  """Updates the policy of a role, and its critic, with all of its batches.

  Args:
    role: 'solver' or 'proposer'.
    role_batches: the batches of the role.
    states: the `TrainState` of each policy; the role's states are donated.
    game: the constant parts of self-play.
    step: self-play step, counted from 0.
    is_on_policy: True if the policy has not been updated in this step. Only
      then its log-probabilities are compared with those of the sampler.
    kl_batch: groups of the other role, see `learner.TrainStep`.

  Returns:
    The new states, and metrics.
  """
  policy_name = game.state_names[role]
  critic_name = step_types.critic_of(policy_name)
  states = dict(states)
  policy_totals: list[groups.Metrics] = []
  critic_totals: list[groups.Metrics] = []
  gaps: list[groups.Metrics] = []
  reference_params = step_types.reference_params(states, game)
  for number, host_batch in enumerate(role_batches.batches):
    batch = transfers.put_rows(host_batch, game.mesh)
    states[policy_name], totals = game.train_step(
      states[policy_name],
      batch,
      reference_params,
      game.base_params,
      kl_batch,
      _anchor_batch(step, role, number, game),
      adaptive.coefficients(role, states),
    )
    gaps.append({'logprob_gap': totals.pop('logprob_gap')})
    policy_totals.append(totals)
    if game.critic is not None:
      states[critic_name], totals = game.critic.update(
        states[critic_name], batch, game.base_params
      )
      critic_totals.append(totals)
  first_gap = gaps[:1] if is_on_policy else []
  metrics = step_metrics.of_updates(first_gap, f'sample/{role}')
  metrics[f'train/{role}/updates'] = float(len(role_batches.batches))
  if role_batches.mean_kl is not None:
    metrics[f'train/{role}/kl'] = role_batches.mean_kl
  metrics |= step_metrics.of_updates(policy_totals, f'train/{role}')
  metrics |= step_metrics.of_updates(critic_totals, f'critic/{role}')
  states, adapted = adaptive.after_updates(role, states, metrics, game)
  return states, metrics | adapted


def _anchor_batch(
  step: int, role: str, number: int, game: step_types.GameSetup
) -> groups.GroupBatch | None:
  """Returns the groups of the anchor for an update.

  Args:
    step: self-play step, counted from 0.
    role: the role that is updated.
    number: index of the update among the role's updates in this step.
    game: the constant parts of self-play.

  Returns:
    The groups, on the mesh; None without an anchor, or if these weights are not
    those of the solver.
  """
  names, c = game.state_names, game.config
  if game.anchor is None or names[role] != names['solver']:
    return None
  number = anchor.update_number(step, role, number, c.optimizer)
  host_batch = anchor.batch(
    game.anchor, number, c.anchor.prompts_per_update, _layout(game)
  )
  return transfers.put_rows(host_batch, game.mesh)


def _solver_responses(
  rounds: Sequence[step_types.Round],
  selected: Sequence[int],
  config: schema.Config,
) -> batches.ScoredResponses | None:
  """Returns the answers to the selected questions, with their rewards."""
  solutions = responses.join([r.solutions for r in rounds])
  if not selected or solutions is None:
    return None
  # Converting to float32 turns None into NaN.
  rewards = np.array(
    [q.solver_rewards for q in step_types.readable_questions(rounds)],
    np.float32,
  )
  rows = [row for i in selected for row in solutions.rows_of(i, len(rewards))]
  solutions = responses.take(solutions, rows)
  # The last answers to each prompt only vote.
  per_prompt = config.solver.group_size // config.num_prompts
  return batches.pad_groups(
    solutions.prompt_ids,
    jax.tree.map(lambda x: x[:, :per_prompt], solutions.rollout),
    rewards[selected][:, np.array(config.trains_answer)],
    num_groups=config.max_solved,
  )


def _of_all_answers(
  advantages_QG: np.ndarray, config: schema.Config
) -> np.ndarray:
  """Adds NaN for each answer that only votes."""
  shape = len(advantages_QG), config.num_answers
  advantages = np.full(shape, np.nan, advantages_QG.dtype)
  advantages[:, np.array(config.trains_answer)] = advantages_QG
  return advantages


def _proposer_responses(
  first_round: step_types.Round, proposer: game_schema.Proposer
) -> batches.ScoredResponses | None:
  """Returns the proposals of a round with their rewards.

  Only the first round is used. Later rounds repeat its prompts to give the
  solver more questions.
  """
  if first_round.proposals is None:
    return None
  # Converting to float32 turns None into NaN.
  rewards = np.array(
    [q.proposer_reward for q in step_types.proposed(first_round.questions)],
    np.float32,
  ).reshape(-1, proposer.group_size)
  return batches.pad_groups(
    first_round.proposals.prompt_ids,
    first_round.proposals.rollout,
    rewards,
    num_groups=len(rewards),
  )
