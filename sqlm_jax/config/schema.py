"""Frozen dataclasses of a config, built from a ConfigDict and validated.

No module of lower layers uses a ConfigDict. Every error names the key, its
value and the allowed values. The keys are documented in `configs/default.py`.
"""

import dataclasses
from collections.abc import Iterator, Mapping

from ml_collections import config_dict

from sqlm_jax.config import checks, limits, parse


@dataclasses.dataclass(frozen=True)
class Lora:
  rank: int
  alpha: float


@dataclasses.dataclass(frozen=True)
class Model:
  path: str
  dtype: str
  param_dtype: str
  remat: str
  lora: Lora
  kernels: bool = True


@dataclasses.dataclass(frozen=True)
class RandomModel:
  num_layers: int
  width: int
  mlp_width: int
  num_heads: int
  num_kv_heads: int
  head_width: int


@dataclasses.dataclass(frozen=True)
class Policy:
  shared: bool


@dataclasses.dataclass(frozen=True)
class Task:
  name: str
  style: str
  topics: tuple[str, ...]
  proposer_prompt: str
  proposer_stop: tuple[str, ...]
  question_pattern: str
  solver_prompt: str
  solver_variants: tuple[str, ...]
  solver_stop: tuple[str, ...]
  answer_pattern: str
  answer_kind: str
  options: tuple[str, ...]
  checker: str
  test: tuple[tuple[str, str], ...]
  validation: tuple[tuple[str, str], ...]
  questions: str
  date: str = ''


@dataclasses.dataclass(frozen=True)
class Tests:
  pattern: str
  min_count: int
  max_count: int
  program: str
  unsolved: str


@dataclasses.dataclass(frozen=True)
class Sandbox:
  backend: str
  workers: int
  cpu_seconds: float
  wall_seconds: float
  memory_mib: int


@dataclasses.dataclass(frozen=True)
class ProposerRewards:
  sqlm: float
  r_zero: float
  band: float
  batch_repeats: float
  history_repeats: float


@dataclasses.dataclass(frozen=True)
class Proposer:
  num_questions: int
  group_size: int
  train_every: int
  rewards: ProposerRewards
  reward_schedule: tuple[tuple[str, int, float], ...]
  band: tuple[float, float]
  reward_over: str
  min_similarity: float
  history_size: int
  unreadable_reward: float
  temperature: float
  top_p: float
  max_tokens: int


@dataclasses.dataclass(frozen=True)
class SolverRewards:
  majority: float
  tests: float
  format: float
  random: float
  true: float


@dataclasses.dataclass(frozen=True)
class Solver:
  group_size: int
  rewards: SolverRewards
  reward_schedule: tuple[tuple[str, int, float], ...]
  max_rounds: int
  temperature: float
  temperatures: tuple[float, ...]
  top_p: float
  max_tokens: int


@dataclasses.dataclass(frozen=True)
class Vote:
  weights: str
  ties: str
  min_agreement: float
  earlier_answers: int
  earlier_every: int


@dataclasses.dataclass(frozen=True)
class Sampler:
  max_prompt_tokens: int
  max_rows: int
  chunk: int
  gather_weights: bool = False
  dtype: str = ''
  one_step_ahead: bool = False


@dataclasses.dataclass(frozen=True)
class Advantage:
  estimator: str


@dataclasses.dataclass(frozen=True)
class Critic:
  learning_rate: float
  value_clip: float
  gamma: float
  gae_lambda: float


@dataclasses.dataclass(frozen=True)
class Loss:
  clip_ratio: float
  clip_ratio_high: float
  dual_clip: float
  ratio_level: str
  kl_coef: float
  kl_estimator: str
  kl_placement: str
  entropy_coef: float
  aggregation: str
  logits_chunk: int


@dataclasses.dataclass(frozen=True)
class Optimizer:
  learning_rate: float
  warmup_steps: int
  b1: float
  b2: float
  moment_dtype: str
  weight_decay: float
  clip_norm: float
  solver_updates: int
  proposer_updates: int
  groups_per_microbatch: int
  max_update_kl: float = 0.0
  small_updates: str = 'follow'


@dataclasses.dataclass(frozen=True)
class Evaluation:
  test: str
  validation: str
  question_template: str
  every: int
  best_by: str
  samples: int
  seeds: int
  temperature: float
  top_p: float
  batch_questions: int
  contaminated: str
  vote_precision: float


@dataclasses.dataclass(frozen=True)
class Checkpoint:
  every: int
  keep: int


@dataclasses.dataclass(frozen=True)
class Divergence:
  max_skipped_updates: int
  max_kl: float
  min_entropy: float
  action: str
  max_rollbacks: int
  max_unreadable_steps: int = 0


@dataclasses.dataclass(frozen=True)
class Mesh:
  data: int
  fsdp: int
  tensor: int


@dataclasses.dataclass(frozen=True)
class Config:
  """The validated config of a run."""

  seed: int
  num_steps: int
  model: Model
  random_model: RandomModel
  policy: Policy
  task: Task
  tests: Tests
  sandbox: Sandbox
  proposer: Proposer
  solver: Solver
  vote: Vote
  sampler: Sampler
  advantage: Advantage
  critic: Critic
  loss: Loss
  optimizer: Optimizer
  evaluation: Evaluation
  checkpoint: Checkpoint
  divergence: Divergence
  mesh: Mesh


# Keys that may change when a run is resumed. They determine how long it runs,
# how often it saves and evaluates, and on which devices, not what it computes.
MAY_CHANGE = frozenset(
  {
    'num_steps',
    'checkpoint.every',
    'checkpoint.keep',
    'evaluation.every',
    # These keys change the results only by rounding.
    'mesh.data',
    'mesh.fsdp',
    'mesh.tensor',
    'model.remat',
    'model.kernels',
    'loss.logits_chunk',
    'optimizer.groups_per_microbatch',
    'sampler.chunk',
    'sampler.gather_weights',
    'sampler.max_rows',
  }
  | {f'divergence.{x.name}' for x in dataclasses.fields(Divergence)}
)

# Prefixes of keys that may differ between an evaluation and the training: those
# of the solver's prompts, of grading and of devices.
_OF_EVALUATION = (
  'evaluation.',
  'sandbox.',
  'mesh.',
  'task.test',
  'task.validation',
  'task.date',
  'task.solver_prompt',
  'task.solver_stop',
  'task.answer_pattern',
  'tests.program',
  'solver.max_tokens',
  'sampler.',
  'model.dtype',
)


def from_dict(tree: Mapping) -> Config:
  """Builds and validates a config.

  Configs stored by earlier versions lack keys that were added later. Such keys
  have defaults that preserve the earlier behavior.

  Args:
    tree: A ConfigDict, or nested mappings with the keys of
      `configs/default.py`.

  Raises:
    ValueError: If a key is missing or unknown, or a value has the wrong type or
      is not allowed. The message has the key, its value and what is expected.
  """
  if isinstance(tree, config_dict.ConfigDict):
    tree = tree.to_dict()
  config = parse.build(Config, tree)
  for rules in (checks.rules, limits.rules):
    for key, good, expected in rules(config):
      if not good:
        value = parse.show(checks.lookup(config, key))
        raise ValueError(f'{key}={value}: expected {expected}')
  return config


def of(config: Config | Mapping) -> Config:
  """Returns a `Config`, converting a `ConfigDict` or a dict.

  Raises:
    ValueError: If `config` has another type or is not valid.
  """
  if isinstance(config, Config):
    return config
  if isinstance(config, Mapping | config_dict.ConfigDict):
    return from_dict(config)
  raise ValueError(
    f'config={parse.show(config)}: expected a config.Config, or the '
    'ConfigDict that get_config() of a config file returns'
  )


def complete(tree: Mapping) -> Mapping:
  """Adds the defaults of missing keys to a config of an earlier version."""
  try:
    return to_dict(parse.build(Config, tree))
  except ValueError:
    return tree


def to_dict(config: Config) -> dict:
  """Converts a config to nested dicts, as they are stored in config.json."""
  return dataclasses.asdict(config)


def may_change_to_evaluate(config: Config) -> frozenset[str]:
  """Returns the keys whose values may differ in an evaluation of the run."""
  keys = _keys(to_dict(config), '')
  return MAY_CHANGE | {key for key in keys if key.startswith(_OF_EVALUATION)}


def _keys(tree: Mapping, prefix: str) -> Iterator[str]:
  for name, value in tree.items():
    if isinstance(value, Mapping):
      yield from _keys(value, f'{prefix}{name}.')
    else:
      yield prefix + name
