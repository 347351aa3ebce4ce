"""Types of a self-play step: its constant parts, its stages and its result."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from sqlm_jax.config import schema
from sqlm_jax.engine import critic as critic_lib
from sqlm_jax.engine import learner, policy_loss
from sqlm_jax.game import gate, rewards, types
from sqlm_jax.models import lora
from sqlm_jax.models import policy as policy_lib
from sqlm_jax.selfplay import anchor as anchor_lib
from sqlm_jax.selfplay import (
  background_grading,
  exchange,
  kinds,
  responses,
)
from sqlm_jax.tasks import base

ROLES = ('proposer', 'solver')

# Name of the `TrainState` of the solver's moving average; it has no optimizer
# state.
AVERAGE = 'average'
# Name of the `TrainState` of the coefficients that adapt to a target.
COEFFICIENTS = 'coefficients'

States = dict[str, learner.TrainState]


class Critic(NamedTuple):
  """Compiled programs of a value function, for PPO.

  Attributes:
    values: computes values from the critic's parameters and `base_params`.
    update: the compiled update.
    reference_logprobs: computes log-probabilities from the parameters of the
      reference policy; None unless the reward includes a penalty on the KL to
      it.
  """

  values: critic_lib.Values
  update: critic_lib.CriticStep
  reference_logprobs: policy_loss.Logprobs | None


class GameSetup(NamedTuple):
  """The parts of self-play that do not change from step to step.

  Attributes:
    config: config of the run.
    keep_neutral: True to also train on groups in which every advantage is 0.
    task: builds prompts, parses questions and answers, and checks answers.
    questions: questions that replace those of a proposer; () if the proposer
      generates them.
    gate: decides which questions enter training.
    skill: function of the user from a question to the name of its kind, None
      without one, see `proposer.kinds`.
    samplers: one sampler per role, and one for 'voter' if earlier solvers vote.
    state_names: name of the `TrainState` that each role samples with and
      trains. Roles that share weights have the same `TrainState`.
    train_step: the compiled update.
    critic: None without a value function.
    initial_params: frozen initial weights; None unless the KL penalty refers to
      them.
    base_params: frozen base weights of the adapters, {} without adapters.
    mesh: mesh that the batches are placed on.
    reward_functions: functions of the user that add to the rewards.
    anchor: answers of the initial model to prompts that are not trained on,
      None without an anchor.
    kinds_of: returns the kinds of questions, for the reward of the coverage.
  """

  config: schema.Config
  keep_neutral: bool
  task: base.Task
  questions: tuple[str, ...]
  gate: gate.Gate
  skill: Callable[[str], str | None] | None
  samplers: dict[str, responses.TextSampler]
  state_names: dict[str, str]
  train_step: learner.TrainStep
  critic: Critic | None
  initial_params: policy_lib.Params | None
  base_params: policy_lib.Params
  mesh: jax.sharding.Mesh
  reward_functions: rewards.Functions = rewards.NO_FUNCTIONS
  anchor: anchor_lib.Anchor | None = None
  kinds_of: kinds.KindsOf | None = None


class ProposedQuestions(NamedTuple):
  """The questions of a round, from all processes.

  Attributes:
    proposals: responses of the proposer, None if `GameSetup.questions` replace
      them.
    problems: the problem parsed from each response.
    prompts: the solver's prompts for each readable problem.
    local: range of the readable problems whose answers this process grades.
  """

  proposals: responses.Responses | None
  problems: list[types.Problem]
  prompts: list[exchange.Prompts]
  local: range


class SampledRound(NamedTuple):
  """A round whose questions and answers are sampled, but not yet scored.

  Attributes:
    proposals: responses of the proposer, None if `GameSetup.questions` replace
      them.
    problems: the problem parsed from each response.
    solutions: responses of the solver, None if no question is readable.
    voters: responses of an earlier solver, None without earlier solvers.
    grader: grades the answers in a thread.
    policy_steps: number of optimizer steps of the weights that sampled the
      round, by role.
    seconds: seconds of each stage, if the round was sampled ahead.
  """

  proposals: responses.Responses | None
  problems: list[types.Problem]
  solutions: responses.Responses | None
  voters: responses.Responses | None
  grader: background_grading.BackgroundGrader[background_grading.GradedAnswers]
  policy_steps: dict[str, int]
  seconds: Mapping[str, float] = {}


class Round(NamedTuple):
  """A scored round.

  Attributes:
    proposals: as in `SampledRound`.
    solutions: as in `SampledRound`.
    voters: as in `SampledRound`.
    questions: one per problem, readable or not.
    policy_steps: as in `SampledRound`.
  """

  proposals: responses.Responses | None
  solutions: responses.Responses | None
  voters: responses.Responses | None
  questions: list[types.ScoredQuestion]
  policy_steps: dict[str, int]


class Outcome(NamedTuple):
  """The result of a step, for logging.

  Attributes:
    rounds: the rounds of the step.
    trained: roles that were updated.
    trained_on: indices of the questions that the solver was trained on, among
      the readable questions of all rounds.
    metrics: metrics of the step by name.
    advantages: advantage of each response by role, NaN without one. 'solver' is
      [Q, answers], with the questions of `trained_on` in order; 'proposer' is
      [groups, G].
  """

  rounds: list[Round]
  trained: tuple[str, ...]
  trained_on: frozenset[int]
  metrics: dict[str, float]
  advantages: Mapping[str, np.ndarray] = {}


def readable_questions(
  rounds: Sequence[Round],
) -> list[types.ScoredQuestion]:
  """Returns the readable questions of all rounds."""
  return [
    question
    for game_round in rounds
    for question in game_round.questions
    if question.problem.ok
  ]


def proposed(
  questions: Sequence[types.ScoredQuestion],
) -> list[types.ScoredQuestion]:
  """Returns the questions of a round that are not asked again."""
  return [q for q in questions if not q.problem.replayed]


def params_of(role: str, states: States, game: GameSetup) -> Any:
  """Returns all parameters that a role samples with."""
  return whole_params(states[game.state_names[role]], game)


def whole_params(state: learner.TrainState, game: GameSetup) -> Any:
  """Returns the parameters of a state, joined with a frozen base model."""
  if not game.base_params:
    return state.params
  return lora.join(game.base_params, state.params)


def reference_params(
  states: States, game: GameSetup
) -> policy_lib.Params | None:
  """Returns the parameters that the KL penalty refers to, None without one."""
  loss = game.config.loss
  if loss.kl_coef and loss.kl_reference == 'average':
    return whole_params(states[AVERAGE], game)
  return game.initial_params


def evaluated_state(
  role: str, state_names: dict[str, str], decay: float
) -> str:
  """Returns the name of the state of a role that is evaluated and exported.

  Args:
    role: 'solver' or 'proposer'.
    state_names: name of the state that each role trains.
    decay: `policy.average_decay`.
  """
  is_solver = state_names[role] == state_names['solver']
  return AVERAGE if decay and is_solver else state_names[role]


def critic_of(state_name: str) -> str:
  """Returns the name of the `TrainState` of a policy's critic.

  Every policy has its own value function. Roles that share weights are one
  policy, and its critic learns from both roles, which it can distinguish by
  their prompts.
  """
  return f'{state_name}_critic'
