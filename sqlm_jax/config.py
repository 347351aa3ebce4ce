"""From a ConfigDict to frozen dataclasses, with all the validation.

Below this module nobody sees a ConfigDict. Every error names the key, its
value and what is allowed. Meanings of keys stand in `configs/default.py`.
"""

import dataclasses
import math
import re
import types
import typing
from collections.abc import Mapping

from sqlm_jax.game import rewards, vote
from sqlm_jax.models import config as model_config
from sqlm_jax.ops import advantages, losses
from sqlm_jax.tasks import prompted
from sqlm_jax.verify import readers


@dataclasses.dataclass(frozen=True)
class Lora:
  rank: int
  alpha: float


@dataclasses.dataclass(frozen=True)
class Model:
  path: str
  dtype: str
  param_dtype: str
  remat: bool
  lora: Lora


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
  solver_stop: tuple[str, ...]
  answer_pattern: str
  answer_kind: str
  options: tuple[str, ...]
  checker: str
  evaluation: tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True)
class Proposer:
  questions: int
  group_size: int
  train_every: int
  reward: str
  band: tuple[float, float]
  unreadable_reward: float
  temperature: float
  top_p: float
  max_tokens: int


@dataclasses.dataclass(frozen=True)
class Solver:
  group_size: int
  reward: str
  temperature: float
  temperatures: tuple[float, ...]
  top_p: float
  max_tokens: int


@dataclasses.dataclass(frozen=True)
class Vote:
  weights: str
  ties: str
  min_agreement: float


@dataclasses.dataclass(frozen=True)
class Sampler:
  max_prompt_tokens: int


@dataclasses.dataclass(frozen=True)
class Advantage:
  estimator: str


@dataclasses.dataclass(frozen=True)
class Loss:
  clip: float
  clip_high: float
  dual_clip: float
  ratio: str
  kl: float
  kl_estimator: str
  entropy: float
  average: str
  logits_chunk: int


@dataclasses.dataclass(frozen=True)
class Optimizer:
  learning_rate: float
  warmup_steps: int
  b1: float
  b2: float
  weight_decay: float
  clip_norm: float
  solver_updates: int
  proposer_updates: int
  groups_per_microbatch: int


@dataclasses.dataclass(frozen=True)
class Evaluation:
  every: int
  samples: int
  batch_questions: int


@dataclasses.dataclass(frozen=True)
class Checkpoint:
  every: int
  keep: int


@dataclasses.dataclass(frozen=True)
class Mesh:
  data: int
  fsdp: int
  tensor: int


@dataclasses.dataclass(frozen=True)
class Config:
  """A whole run, valid."""

  seed: int
  num_steps: int
  model: Model
  random_model: RandomModel
  policy: Policy
  task: Task
  proposer: Proposer
  solver: Solver
  vote: Vote
  sampler: Sampler
  advantage: Advantage
  loss: Loss
  optimizer: Optimizer
  evaluation: Evaluation
  checkpoint: Checkpoint
  mesh: Mesh


DTYPES = ('float32', 'bfloat16')

# Keys that a later start of the same workdir may change: they say how long
# and how often, not what is computed.
MAY_CHANGE = frozenset(
  {'num_steps', 'checkpoint.every', 'checkpoint.keep', 'evaluation.every'}
)


def from_dict(tree: Mapping) -> Config:
  """Builds and validates a config.

  Args:
    tree: nested mappings with the keys of `configs/default.py`.

  Raises:
    ValueError: for a missing or unknown key, a value of the wrong type, or
      one that makes no sense, by key, value and what is expected.
  """
  config = _build(Config, tree, '')
  for key, good, expected in _rules(config):
    if not good:
      raise ValueError(f'{key}={_lookup(config, key)!r}: expected {expected}')
  return config


def to_dict(config: Config) -> dict:
  """Plain nested dicts, as they are stored in config.json."""
  return dataclasses.asdict(config)


def _lookup(config: Config, key: str):
  value = config
  for name in key.split('.'):
    value = getattr(value, name)
  return value


def _build(cls, tree, prefix: str):
  if not isinstance(tree, Mapping):
    raise ValueError(f'{prefix[:-1]}={tree!r}: expected a group of keys')
  fields = {field.name: field.type for field in dataclasses.fields(cls)}
  for name in tree:
    if name not in fields:
      raise ValueError(
        f'{prefix}{name}={tree[name]!r}: unknown key, expected one of '
        f'{", ".join(fields)}'
      )
  values = {}
  for name, kind in fields.items():
    key = prefix + name
    if name not in tree:
      raise ValueError(f'{key}: missing')
    if dataclasses.is_dataclass(kind):
      values[name] = _build(kind, tree[name], key + '.')
    else:
      values[name] = _convert(kind, tree[name], key)
  return cls(**values)


def _convert(kind, value, key: str):
  """Checks a leaf's type; lists of a file or a flag become tuples."""
  if isinstance(kind, types.GenericAlias):
    *parts, last = typing.get_args(kind)
    if isinstance(value, list | tuple):
      if last is Ellipsis:
        return tuple(_convert(parts[0], v, key) for v in value)
      if len(value) == len(parts) + 1:
        kinds = (*parts, last)
        pairs = zip(kinds, value, strict=True)
        return tuple(_convert(k, v, key) for k, v in pairs)
    raise ValueError(f'{key}={value!r}: expected {_describe(kind)}')
  if kind is float and isinstance(value, int) and not isinstance(value, bool):
    return float(value)
  # Nothing infinite or NaN: it would reach every weight.
  if type(value) is not kind or (kind is float and not math.isfinite(value)):
    raise ValueError(f'{key}={value!r}: expected {_describe(kind)}')
  return value


def _describe(kind) -> str:
  names = {int: 'a whole number', float: 'a finite number', str: 'text'}
  names[bool] = 'True or False'
  if kind in names:
    return names[kind]
  first, last = typing.get_args(kind)
  if last is Ellipsis:
    return f'a tuple, each element {_describe(first)}'
  return f'a pair of {_describe(first)} and {_describe(last)}'


def _one_of(choices) -> str:
  return 'one of ' + ', '.join(choices)


def _is_regex(pattern: str) -> bool:
  try:
    re.compile(pattern)
  except re.error:
    return False
  return True


def _rules(c: Config):
  """Yields (key, whether its value makes sense, what is allowed)."""
  at_least = lambda key, least: (
    key,
    _lookup(c, key) >= least,
    f'at least {least}',
  )
  choice = lambda key, choices: (
    key,
    _lookup(c, key) in choices,
    _one_of(choices),
  )
  within = lambda key, low, high: (
    key,
    low <= _lookup(c, key) <= high,
    f'a number from {low} to {high}',
  )
  regex = lambda key: (
    key,
    _is_regex(_lookup(c, key)),
    'a regular expression',
  )
  yield within('seed', 0, 2**31 - 1)
  yield at_least('num_steps', 0)
  yield choice('model.dtype', DTYPES)
  yield choice('model.param_dtype', DTYPES)
  yield at_least('model.lora.rank', 0)
  yield (
    'model.lora.alpha',
    _lookup(c, 'model.lora.alpha') > 0,
    'a number above 0',
  )
  for name in dataclasses.asdict(c.random_model):
    yield at_least(f'random_model.{name}', 1)
  yield from _task_rules(c, choice, regex)
  for role in ('proposer', 'solver'):
    yield within(f'{role}.temperature', 0.0, 100.0)
    yield within(f'{role}.top_p', 0.0, 1.0)
    yield at_least(f'{role}.max_tokens', 1)
    # A group of one has nobody to agree with or to be compared with.
    yield at_least(f'{role}.group_size', 2)
  yield (
    'proposer.questions',
    c.proposer.questions > 0
    and c.proposer.questions % c.proposer.group_size == 0,
    f'a multiple of proposer.group_size={c.proposer.group_size}',
  )
  yield at_least('proposer.train_every', 0)
  yield (
    'proposer.unreadable_reward',
    c.proposer.unreadable_reward <= 0,
    'at most 0, so that it is the lowest of all rewards',
  )
  yield choice('proposer.reward', rewards.PROPOSER_REWARDS)
  low, high = c.proposer.band
  yield (
    'proposer.band',
    0 <= low <= high <= 1,
    'two shares from 0 to 1, the lower one first',
  )
  yield choice('solver.reward', rewards.SOLVER_REWARDS)
  yield (
    'solver.reward',
    c.solver.reward != 'true' or c.task.checker != 'none',
    'a task.checker that knows the true answer, for this control',
  )
  yield (
    'solver.temperatures',
    all(0 <= t <= 100 for t in c.solver.temperatures),
    'numbers from 0 to 100',
  )
  yield choice('vote.weights', vote.WEIGHTS)
  yield choice('vote.ties', vote.TIES)
  yield within('vote.min_agreement', 0.0, 1.0)
  yield at_least('sampler.max_prompt_tokens', 1)
  yield choice('advantage.estimator', advantages.ESTIMATORS)
  yield from _loss_rules(c.loss, at_least, choice, within)
  yield from _optimizer_rules(c, at_least)
  yield at_least('evaluation.every', 0)
  yield at_least('evaluation.samples', 1)
  yield at_least('evaluation.batch_questions', 1)
  yield at_least('checkpoint.every', 0)
  yield at_least('checkpoint.keep', 1)
  for axis in dataclasses.asdict(c.mesh):
    size = _lookup(c, f'mesh.{axis}')
    yield (
      f'mesh.{axis}',
      size == -1 or size > 0,
      'at least 1, or -1 for the rest',
    )


def _loss_rules(loss: Loss, at_least, choice, within):
  yield within('loss.clip', 0.0, 1.0)
  yield at_least('loss.clip_high', 0.0)
  high = loss.clip_high or loss.clip
  yield (
    'loss.dual_clip',
    loss.dual_clip == 0 or loss.dual_clip > 1 + high,
    f'0, or more than {1 + high}, where the ratio is clipped anyway',
  )
  yield choice('loss.ratio', ('token', 'sequence'))
  yield at_least('loss.kl', 0.0)
  yield choice('loss.kl_estimator', losses.KL_ESTIMATORS)
  yield at_least('loss.entropy', 0.0)
  yield choice('loss.average', losses.AVERAGES)
  yield at_least('loss.logits_chunk', 1)


def _task_rules(c: Config, choice, regex):
  yield (
    'task.name',
    re.fullmatch(r'[\w-]+', c.task.name),
    'a name of letters, digits, _ and -',
  )
  yield choice('task.style', ('plain', 'chat'))
  yield 'task.topics', c.task.topics, 'at least one topic'
  yield 'task.proposer_prompt', c.task.proposer_prompt.strip(), 'a template'
  yield (
    'task.solver_prompt',
    '{question}' in c.task.solver_prompt,
    'a template with {question}',
  )
  yield regex('task.question_pattern')
  yield regex('task.answer_pattern')
  yield choice('task.answer_kind', readers.KINDS)
  yield 'task.options', len(c.task.options) <= 26, 'at most 26, A to Z'
  yield choice('task.checker', tuple(prompted.CHECKERS))
  for name in ('proposer_stop', 'solver_stop'):
    yield f'task.{name}', all(_lookup(c, f'task.{name}')), 'no empty string'


def _optimizer_rules(c: Config, at_least):
  for name in ('b1', 'b2'):
    yield (
      f'optimizer.{name}',
      0 <= _lookup(c, f'optimizer.{name}') < 1,
      'a number from 0 to below 1',
    )
  for name in ('learning_rate', 'warmup_steps', 'weight_decay', 'clip_norm'):
    yield at_least(f'optimizer.{name}', 0)
  yield at_least('optimizer.groups_per_microbatch', 1)
  proposer_groups = c.proposer.questions // c.proposer.group_size
  for role, groups in (
    ('solver', c.proposer.questions),
    ('proposer', proposer_groups),
  ):
    key = f'optimizer.{role}_updates'
    updates = _lookup(c, key)
    yield (
      key,
      updates >= 1 and groups % updates == 0,
      f'at least 1, and a divisor of the {groups} groups of a step',
    )


def random_model(config: RandomModel, vocab_size: int):
  """The `ModelConfig` of a randomly initialised model.

  Raises:
    ValueError: with the key, where the sizes do not fit together.
  """
  try:
    return model_config.ModelConfig(
      vocab_size=vocab_size, **dataclasses.asdict(config)
    )
  except ValueError as error:
    raise ValueError(f'random_model.{error}') from None
