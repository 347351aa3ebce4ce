"""What a game of self-play is made of, and what a step of it leaves."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from sqlm_jax.engine import learner
from sqlm_jax.game import contamination, types
from sqlm_jax.models import lora
from sqlm_jax.selfplay import judging, reading, responses
from sqlm_jax.tasks import base

ROLES = ('proposer', 'solver')

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
    guard: knows the questions of the evaluation sets.
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
  guard: contamination.Guard
  writers: dict[str, responses.Writer]
  owner: dict[str, str]
  train_step: Callable[..., tuple[learner.TrainState, learner.Metrics]]
  critic: Critic | None
  reference_params: Any
  base_params: Any
  mesh: jax.sharding.Mesh


class Asked(NamedTuple):
  """A round that is not judged yet."""

  proposals: responses.Responses | None
  problems: list[types.Problem]  # read from them
  solutions: responses.Responses | None
  voters: responses.Responses | None
  reading: reading.Ahead[reading.Read]  # of what solver and voter said


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
  coming: Asked | None = None  # the next step's first round


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
