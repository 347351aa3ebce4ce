"""Types of self-play: its fixed parts, its rounds and the result of a step."""

from typing import Any, NamedTuple

import jax

from sqlm_jax.engine import critic, learner, policy_loss
from sqlm_jax.game import contamination, types
from sqlm_jax.models import lora
from sqlm_jax.selfplay import background_grading, responses, scoring
from sqlm_jax.tasks import base

ROLES = ('proposer', 'solver')

States = dict[str, learner.TrainState]


class Rules(NamedTuple):
  """Settings of the game; `configs/default.py` explains each of them."""

  seed: int
  questions: int  # Q
  group_size: int  # group size of the proposer
  rounds: int
  train_every: int
  earlier_every: int
  estimator: str
  average: str
  keep_neutral: bool
  updates: dict[str, int]
  groups_per_microbatch: int
  scoring: scoring.Rules


class Critic(NamedTuple):
  """Compiled programs and settings of a value function, for PPO.

  Attributes:
    values: `(texts, params, base_params) -> [Q, G, R]`.
    update: the compiled update.
    reference_logprobs: `(texts, params) -> [Q, G, R]`, None unless the reward
      includes a penalty on the KL to the reference policy.
    kl: coefficient of that penalty, in reward per nat.
    gamma: discount per token.
    decay: lambda of GAE.
  """

  values: critic.Values
  update: critic.CriticStep
  reference_logprobs: policy_loss.Logprobs | None
  kl: float
  gamma: float
  decay: float


class Game(NamedTuple):
  """The parts of self-play that do not change from step to step.

  Attributes:
    rules: the settings.
    task: builds prompts, reads questions and answers, and checks answers.
    questions: questions that replace those of a proposer; () if the proposer
      writes them.
    guard: recognizes the questions of the evaluation sets.
    writers: one writer per role, and one for 'voter' if earlier solvers vote.
    owner: role -> name of the `TrainState` that the role samples with and
      trains. Roles that share weights have the same `TrainState`.
    train_step: the compiled update.
    critic: None without a value function.
    reference_params: frozen initial weights, None without a KL penalty.
    base_params: frozen base weights of the adapters, {} without adapters.
    mesh: mesh that the batches are placed on.
  """

  rules: Rules
  task: base.Task
  questions: tuple[str, ...]
  guard: contamination.Guard
  writers: dict[str, responses.Writer]
  owner: dict[str, str]
  train_step: learner.TrainStep
  critic: Critic | None
  reference_params: Any
  base_params: Any
  mesh: jax.sharding.Mesh


class Asked(NamedTuple):
  """A sampled round that has not been judged yet."""

  proposals: responses.Responses | None
  problems: list[types.Problem]  # read from the proposals
  solutions: responses.Responses | None
  voters: responses.Responses | None
  # Grades the answers in a thread.
  grading: background_grading.Ahead[background_grading.Read]


class Round(NamedTuple):
  """A judged round: its responses and its verdicts."""

  proposals: responses.Responses | None  # None if `Game.questions` is used
  solutions: responses.Responses | None  # None if no question was readable
  voters: responses.Responses | None  # earlier solvers' answers
  verdicts: list[types.Verdict]  # one per question, readable or not


class Outcome(NamedTuple):
  """The result of a step, for logging and for the next step.

  The indices in `learned` refer to the readable questions of all rounds.
  """

  rounds: list[Round]
  trained: tuple[str, ...]  # roles that were updated
  learned: frozenset[int]  # indices of questions that the solver trained on
  metrics: dict[str, float]
  coming: Asked | None = None  # first round of the next step


def params_of(role: str, states: States, game: Game) -> Any:
  """Returns all parameters that a role samples with."""
  trained = states[game.owner[role]].params
  return lora.join(game.base_params, trained) if game.base_params else trained


def critic_of(owner: str) -> str:
  """Returns the name of the critic of an owner's policy.

  Every policy has its own value function. Roles that share weights are one
  policy, and its critic learns from both roles, which it can distinguish by
  their prompts.
  """
  return f'{owner}_critic'
