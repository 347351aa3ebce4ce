"""The config of a run: frozen dataclasses, built from a ConfigDict and checked.

Every key is declared once, with its type, default, meaning and check: the keys
of the task in `task_schema`, those of the rewards and votes in `game_schema`,
those of what enters training in `gate_schema`, those of programs in
`program_schema`, those of the model and of learning in `training_schema`, those
of alarms and of the probe in `alarms_schema`, and all others here.
`configs/default.py` and the page docs/config.md are generated from these
declarations. No module of lower layers uses a ConfigDict.
"""

import dataclasses
import operator
import typing
from collections.abc import Mapping
from typing import Literal

from ml_collections import config_dict

from sqlm_jax.config import (
  alarms_schema,
  checks,
  game_schema,
  gate_schema,
  keys,
  parse,
  program_schema,
  task_schema,
  training_schema,
)


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """The test set, the validation set, and how they are evaluated."""

  test: str = keys.key(
    '',
    'Test set, evaluated before and after training and by `--mode=eval`: a '
    "dataset of [evaluate.md](evaluate.md) or a file. `''` uses `task.test`.",
  )
  validation: str = keys.key(
    '',
    'Validation set, also evaluated during training, which selects the best '
    "checkpoint: a dataset or a file. `''` uses `task.validation`.",
  )
  question_template: str = keys.key(
    '{question}',
    'Template that each question of a dataset is inserted into.',
    keys.template('{question}'),
  )
  every: int = keys.key(
    5,
    'n: the validation set is evaluated after every n-th step; 0 for no '
    'evaluation during training.',
    keys.at_least(0),
    may_change=keys.TO_RESUME,
  )
  best_by: Literal['mean', 'greedy', 'probe'] = keys.key(
    'mean',
    'Score that selects the best checkpoint: `mean`, the accuracy of the '
    'sampled answers (mean@k), `greedy`, that of the greedy answers, or, '
    'without labels, `probe`, the metric `probe/information`.',
  )
  samples: int = keys.key(
    4,
    'k, number of sampled answers per question, in addition to the greedy '
    'answer.',
    keys.within(0, 2**20),
  )
  seeds: int = keys.key(
    1, 'Number of seeds, each with k sampled answers.', keys.within(1, 2**20)
  )
  temperature: float = keys.key(
    1.0, 'Temperature of the sampled answers.', keys.within(0, 100)
  )
  top_p: float = keys.key(
    1.0,
    'Cumulative probability of nucleus sampling.',
    keys.above(0, high=1),
  )
  batch_questions: int = keys.key(
    100, 'Number of questions in memory at once.', keys.at_least(1)
  )
  contaminated: Literal['count', 'exclude'] = keys.key(
    'count',
    "What happens to the proposer's questions that are in an evaluation set: "
    '`count` only counts them, `exclude` also excludes them from training.',
  )
  vote_precision: float = keys.key(
    0.8,
    'Target fraction of right votes, for the suggestion of '
    '`vote.min_agreement`.',
    keys.within(0, 1),
  )


@dataclasses.dataclass(frozen=True)
class Checkpoint:
  """When checkpoints are saved.

  A run also saves a checkpoint at its end, when it is stopped, and after a new
  best validation score.
  """

  every: int = keys.key(
    10,
    'n: a checkpoint is saved after every n-th step; 0 for no regular '
    'checkpoints.',
    keys.at_least(0),
  )
  keep: int = keys.key(
    2, 'Number of newest checkpoints to keep.', keys.at_least(1)
  )


WRITERS = ('tensorboard', 'wandb', 'trackio')


@dataclasses.dataclass(frozen=True)
class Tracking:
  """Services that metrics are written to, in addition to `metrics.jsonl`."""

  writers: tuple[str, ...] = keys.key(
    ('tensorboard',),
    'Services: any of `tensorboard`, `wandb` and `trackio`, see '
    '[watch.md](watch.md#weights--biases-and-trackio).',
    keys.Check(
      lambda names: set(names) <= set(WRITERS), f'any of {", ".join(WRITERS)}'
    ),
  )
  project: str = keys.key('sqlm_jax', 'Name of the project in W&B and trackio.')


@dataclasses.dataclass(frozen=True)
class Config:
  """The config of a run."""

  seed: int = keys.key(
    0, 'Seed of all randomness in a run.', keys.within(0, 2**31 - 1)
  )
  num_steps: int = keys.key(
    100,
    'Number of self-play steps.',
    keys.at_least(0),
    may_change=keys.TO_RESUME,
  )
  model: training_schema.Model = keys.group(training_schema.Model)
  random_model: training_schema.RandomModel = keys.group(
    training_schema.RandomModel
  )
  policy: training_schema.Policy = keys.group(training_schema.Policy)
  task: task_schema.Task = keys.group(task_schema.Task)
  tests: program_schema.Tests = keys.group(program_schema.Tests)
  sandbox: program_schema.Sandbox = keys.group(
    program_schema.Sandbox, may_change=keys.TO_EVALUATE
  )
  proposer: game_schema.Proposer = keys.group(game_schema.Proposer)
  solver: game_schema.Solver = keys.group(game_schema.Solver)
  vote: game_schema.Vote = keys.group(game_schema.Vote)
  gate: gate_schema.Gate = keys.group(gate_schema.Gate)
  exclude: gate_schema.Exclude = keys.group(gate_schema.Exclude)
  review: gate_schema.Review = keys.group(gate_schema.Review)
  sampler: training_schema.Sampler = keys.group(
    training_schema.Sampler, may_change=keys.TO_EVALUATE
  )
  advantage: training_schema.Advantage = keys.group(training_schema.Advantage)
  critic: training_schema.Critic = keys.group(training_schema.Critic)
  loss: training_schema.Loss = keys.group(training_schema.Loss)
  anchor: training_schema.Anchor = keys.group(training_schema.Anchor)
  optimizer: training_schema.Optimizer = keys.group(training_schema.Optimizer)
  evaluation: Evaluation = keys.group(Evaluation, may_change=keys.TO_EVALUATE)
  checkpoint: Checkpoint = keys.group(Checkpoint, may_change=keys.TO_RESUME)
  alarms: alarms_schema.Alarms = keys.group(
    alarms_schema.Alarms, may_change=keys.TO_RESUME
  )
  probe: alarms_schema.Probe = keys.group(
    alarms_schema.Probe, may_change=keys.TO_RESUME
  )
  tracking: Tracking = keys.group(Tracking, may_change=keys.TO_RESUME)
  mesh: training_schema.Mesh = keys.group(
    training_schema.Mesh, may_change=keys.TO_RESUME
  )

  @property
  def max_solved(self) -> int:
    """Maximum number of questions that the solver answers in a round."""
    replayed = self.review.replay + self.solver.replay
    return self.proposer.num_questions + replayed

  @property
  def num_prompts(self) -> int:
    """Number of prompts among which the answers to a question are divided."""
    return self.task.num_prompts(self.solver.group_size)

  @property
  def num_answers(self) -> int:
    """Number of answers that the solver samples for each question."""
    return self.solver.group_size + self.vote.extra_answers

  @property
  def trains_answer(self) -> tuple[bool, ...]:
    """True for each answer of the solver that is trained on.

    These are the first answers to each prompt. The others only vote.
    """
    per_prompt = self.num_answers // self.num_prompts
    trained = self.solver.group_size // self.num_prompts
    return tuple(i % per_prompt < trained for i in range(self.num_answers))

  @property
  def prompt_of_answers(self) -> tuple[int, ...]:
    """The index of the prompt of each answer to a question.

    The answers of a group are divided equally among the prompts. Earlier
    solvers answer the first prompt only.
    """
    per_prompt = self.num_answers // self.num_prompts
    return (
      *(answer // per_prompt for answer in range(self.num_answers)),
      *[0] * self.vote.earlier_answers,
    )


# A config, or the nested mappings that `of` converts to one.
ConfigLike = Config | Mapping | config_dict.ConfigDict

KEYS = tuple(keys.declared(Config))

# Keys that may change when a run is resumed. They determine how long it runs,
# how often it saves and evaluates, its alarms, and its devices. They change the
# results of a step by rounding at most.
MAY_CHANGE_TO_RESUME = frozenset(
  key.name for key in KEYS if key.may_change == keys.TO_RESUME
)

# Keys that may change when a run is evaluated: in addition, those of the
# evaluation, of the solver's prompts and of grading.
MAY_CHANGE_TO_EVALUATE = frozenset(
  key.name for key in KEYS if key.may_change != keys.NO
)


def from_dict(tree: Mapping | config_dict.ConfigDict) -> Config:
  """Builds and validates a config.

  Args:
    tree: A ConfigDict, or nested mappings. A missing key has its default.

  Raises:
    ValueError: If a key is unknown, or a value has the wrong type or is not
      allowed. The message names the key, its value and what is allowed.
  """
  if isinstance(tree, config_dict.ConfigDict):
    tree = tree.to_dict()
  config = parse.build(Config, tree)
  checks.check(config, KEYS)
  return config


def of(config: ConfigLike) -> Config:
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


def without_texts(config: Config) -> dict[str, float | str]:
  """Returns the keys whose values are numbers, booleans or choices."""
  values = {
    key.name: (operator.attrgetter(key.name)(config), key.type) for key in KEYS
  }
  return {
    name: value
    for name, (value, kind) in values.items()
    if isinstance(value, int | float) or typing.get_origin(kind) is Literal
  }


def stored_num_prompts(tree: Mapping) -> int:
  """Returns `Config.num_prompts` of a stored config.

  Unlike `from_dict`, it also accepts the config of another version.
  """
  declared = {field.name for field in dataclasses.fields(task_schema.Task)}
  stored = {k: v for k, v in tree['task'].items() if k in declared}
  group_size = tree['solver']['group_size']
  return task_schema.Task(**stored).num_prompts(group_size)


def to_dict(config: Config) -> dict:
  """Converts a config to nested dicts, as they are stored in config.json."""
  return dataclasses.asdict(config)
