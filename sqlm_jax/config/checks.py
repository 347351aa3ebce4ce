"""Checks the values of a config, once their types are known to be right.

The condition on the value of a single key is declared with the key. The rules
here are conditions on several keys, and limits that keep array sizes valid.
"""

import dataclasses
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from sqlm_jax.config import keys, parse

# The largest number of tokens of a batch, since indices have 32 bits.
MAX_TOKENS = 2**31 - 1
MAX_PARAMETERS = 2**40


class Rule(NamedTuple):
  """The result of a check.

  Attributes:
    key: Dotted key that the error is about.
    is_valid: True if the value is allowed.
    expected: Describes the allowed values.
  """

  key: str
  is_valid: bool
  expected: str


def check(config: Any, declared: Sequence[keys.Key]) -> None:
  """Checks every key of a `schema.Config`, and then the rules.

  Raises:
    ValueError: If a value is not allowed.
  """
  for key in declared:
    if key.check:
      is_valid = key.check.is_valid(lookup(config, key.name))
      _require(config, Rule(key.name, is_valid, key.check.expected))
  for rules in (
    _task,
    _roles,
    _code,
    _review,
    _learning,
    _evaluation,
    _run,
    _sizes,
  ):
    for rule in rules(config):
      _require(config, rule)


def lookup(config: Any, key: str) -> Any:
  """Returns the value of a dotted key."""
  value = config
  for name in key.split('.'):
    value = getattr(value, name)
  return value


def _require(config: Any, rule: Rule) -> None:
  if not rule.is_valid:
    value = parse.show(lookup(config, rule.key))
    raise ValueError(f'{rule.key}={value}: expected {rule.expected}')


def _task(c: Any) -> Iterator[Rule]:
  uses_topic = '{topic}' in c.task.proposer_prompt
  yield Rule(
    'task.topics',
    len(c.task.topics) == 1 or uses_topic or bool(c.task.questions),
    'one topic, or {topic} in task.proposer_prompt, because otherwise the '
    'prompts of all topics are the same',
  )
  prompts = len(c.task.solver_templates) * c.task.num_forms
  yield Rule(
    'solver.group_size',
    c.solver.group_size % prompts == 0,
    f'a multiple of the {prompts} prompts of task.solver_prompt, '
    'task.solver_variants and task.num_forms',
  )
  yield Rule(
    'task.num_forms',
    (c.task.num_forms > 1) == bool(c.task.equivalent_forms),
    'more than 1 with task.equivalent_forms, otherwise 1',
  )
  if c.task.shuffle_options:
    yield from _shuffled_options(c.task, c.solver.group_size)
  yield Rule(
    'vote.extra_answers',
    c.vote.extra_answers % c.num_prompts == 0,
    f'a multiple of the {c.num_prompts} prompts among which the answers of a '
    'group are divided',
  )
  # The temperatures start again with the first one for each prompt.
  answers = c.solver.group_size // c.num_prompts
  yield Rule(
    'solver.temperatures',
    len(c.solver.temperatures) <= answers,
    f'at most {answers} temperatures, one for each of the {answers} answers to '
    'a prompt',
  )


def _shuffled_options(task: Any, group_size: int) -> Iterator[Rule]:
  yield Rule(
    'task.shuffle_options',
    task.answer_kind == 'choice' and len(task.options) > 1,
    'False unless task.answer_kind is choice and task.options has at least two '
    'texts',
  )
  shown = [f'{{text_{letter}}}' for letter in task.letters]
  for key, templates in (
    ('task.solver_prompt', (task.solver_prompt,)),
    ('task.solver_variants', task.solver_variants),
  ):
    yield Rule(
      key,
      all(text in template for template in templates for text in shown),
      f'{" ".join(shown)} in each template, for task.shuffle_options',
    )
  yield Rule(
    'solver.group_size',
    len(task.option_orders(group_size)) > 1,
    'a number of answers that can be divided among several orders of the '
    f'{len(task.options)} options, for task.shuffle_options: '
    f'{2 * len(task.solver_templates)}, for example',
  )


def _roles(c: Any) -> Iterator[Rule]:
  questions, group_size = c.proposer.num_questions, c.proposer.group_size
  yield Rule(
    'proposer.num_questions',
    questions % group_size == 0,
    f'a multiple of proposer.group_size={group_size}',
  )
  yield Rule(
    'proposer.kinds',
    c.proposer.kinds != 'topics' or not c.task.questions,
    'words or module:function with task.questions, which have no topics',
  )
  for role, groups in (
    ('solver', c.max_solved),
    ('proposer', questions // group_size),
  ):
    key = f'optimizer.{role}_updates'
    yield Rule(
      key,
      groups % lookup(c, key) == 0,
      f'a divisor of the {groups} groups of a step'
      + (
        ' (with review.replay and solver.replay)'
        if groups == c.max_solved != questions
        else ''
      ),
    )
  yield Rule(
    'proposer.kinds',
    c.proposer.kinds != 'topics' or 'coverage' not in _used_rewards(c.proposer),
    'words or module:function with proposer.rewards.coverage, because the '
    'topics take turns anyway',
  )
  uses_history = 'coverage' in _used_rewards(c.proposer) or c.solver.replay > 0
  yield Rule(
    'proposer.history_size',
    not uses_history or c.proposer.history_size > 0,
    'at least 1 with proposer.rewards.coverage or solver.replay',
  )
  yield Rule(
    'solver.rewards.true',
    'true' not in _used_rewards(c.solver) or c.task.checker != 'none',
    'a task.checker that knows the true answer, for this control: add '
    '--config.task.checker=arithmetic, or module:function of yours',
  )


def _used_rewards(role: Any) -> set[str]:
  """Returns the names of the rewards that have a weight, at some time."""
  weights = dataclasses.asdict(role.rewards)
  used = {name for name, weight in weights.items() if weight}
  return used | {name for name, _, _ in role.reward_schedule}


def _code(c: Any) -> Iterator[Rule]:
  yield Rule(
    'tests.max_count',
    c.tests.max_count >= c.tests.min_count,
    f'at least tests.min_count={c.tests.min_count}',
  )
  is_code, used = c.task.answer_kind == 'code', _used_rewards(c.solver)
  yield Rule(
    'solver.rewards.tests',
    is_code or 'tests' not in used,
    '0 unless task.answer_kind is code: add --config.task.answer_kind=code',
  )
  for name in ('majority', 'agreement', 'true'):
    yield Rule(
      f'solver.rewards.{name}',
      not is_code or name not in used,
      '0 for task.answer_kind=code, whose answers are not put to a vote; '
      '--config.solver.rewards.tests=1.0 rewards the tests that pass',
    )
  for key, off in (
    ('solver.replay', 0),
    ('vote.extra_answers', 0),
    ('vote.earlier_answers', 0),
    ('gate.not_stating_answer', False),
    ('gate.majority', False),
    ('gate.max_agreement', 1),
    ('probe.every', 0),
  ):
    yield Rule(
      key,
      not is_code or lookup(c, key) == off,
      f'{off} for task.answer_kind=code, whose answers are not put to a vote',
    )


def _review(c: Any) -> Iterator[Rule]:
  is_code, is_simulated = c.task.answer_kind == 'code', c.review.by == 'checker'
  for name, off in (('replay', 0), ('by', 'people')):
    key = f'review.{name}'
    yield Rule(
      key,
      not is_code or lookup(c, key) == off,
      f'{off} for task.answer_kind=code, whose answers are not put to a vote',
    )
  yield Rule(
    'review.by',
    not is_simulated or c.task.checker != 'none',
    'people, or a task.checker that gives the verdicts: add '
    '--config.task.checker=arithmetic, or module:function of yours',
  )
  yield Rule(
    'review.budget',
    is_simulated == (c.review.budget > 0),
    'at least 1 with review.by=checker, and 0 otherwise',
  )
  yield Rule(
    'review.wait',
    not is_simulated or not c.review.wait,
    '0 with review.by=checker, which gives its verdicts within a step',
  )


def _learning(c: Any) -> Iterator[Rule]:
  clipped = 1 + (c.loss.clip_ratio_high or c.loss.clip_ratio)
  yield Rule(
    'loss.dual_clip',
    c.loss.dual_clip == 0 or c.loss.dual_clip > clipped,
    f'0, or more than {clipped}, where the ratio is clipped anyway',
  )
  yield Rule(
    'loss.kl_placement',
    c.loss.kl_placement == 'loss' or c.advantage.uses_critic,
    'loss, unless advantage.estimator is gae, because other estimators have '
    'no rewards of tokens: add --config.advantage.estimator=gae',
  )
  for name in ('kl', 'entropy'):
    coefficient = lookup(c, f'loss.{name}_coef')
    yield Rule(
      f'loss.{name}_target',
      not lookup(c, f'loss.{name}_target') or coefficient > 0,
      f'0 without a coefficient to start from: add --config.loss.{name}_coef='
      '0.01, for example',
    )
  yield Rule(
    'loss.kl_reference',
    c.loss.kl_reference == 'initial' or c.policy.average_decay > 0,
    'initial, unless there is a moving average: add '
    '--config.policy.average_decay=0.9',
  )
  yield Rule(
    'solver.max_rounds',
    c.solver.max_rounds == 1 or not c.advantage.uses_critic,
    '1 for advantage.estimator=gae, which learns from every group: add '
    '--config.solver.max_rounds=1',
  )
  decays = c.optimizer.schedule != 'constant'
  yield Rule(
    'optimizer.decay_steps',
    decays == (c.optimizer.decay_steps > 0),
    'at least 1 with optimizer.schedule=linear or cosine, and 0 with constant',
  )
  rounds_weights = (c.model.dtype, c.model.param_dtype) == (
    'bfloat16',
    'float32',
  ) and not c.model.lora.rank
  yield Rule(
    'optimizer.small_updates',
    c.optimizer.small_updates != 'hold' or rounds_weights,
    'follow; hold needs --config.model.dtype=bfloat16 '
    '--config.model.param_dtype=float32 --config.model.lora.rank=0',
  )


def _evaluation(c: Any) -> Iterator[Rule]:
  for purpose in ('test', 'validation'):
    key = f'evaluation.{purpose}'
    has_both = lookup(c, key) and lookup(c, f'task.{purpose}')
    yield Rule(
      key,
      not has_both,
      f"'', or no task.{purpose} as well: add --config.task.{purpose}='()'",
    )
  yield Rule(
    'evaluation.validation',
    not c.evaluation.validation or c.evaluation.validation != c.evaluation.test,
    'other questions than those of evaluation.test, such as another split; '
    "--config.evaluation.validation='' drops the validation set",
  )
  yield Rule(
    'evaluation.best_by',
    c.evaluation.best_by != 'probe' or c.probe.every > 0,
    'mean or greedy, unless there is a probe: add --config.probe.every=1, for '
    'example',
  )
  test = {question for question, _ in c.task.test}
  yield Rule(
    'task.validation',
    not any(question in test for question, _ in c.task.validation),
    'no question of task.test; '
    "--config.task.validation='()' drops the validation set",
  )


def _run(c: Any) -> Iterator[Rule]:
  yield Rule(
    'checkpoint.every',
    not c.sampler.one_step_ahead or c.checkpoint.every != 1,
    'a number other than 1, because sampler.one_step_ahead pauses at every '
    'checkpoint: add --config.checkpoint.every=10, for example, or '
    '--config.sampler.one_step_ahead=False',
  )
  uses_kl = any(
    re.search(r'train/[^/]+/kl\b', condition)
    for _, condition, *_ in c.alarms.rules
  )
  yield Rule(
    'alarms.rules',
    not uses_kl or c.loss.kl_coef > 0,
    'no rule on the KL if loss.kl_coef is 0, because the KL is then not '
    'measured: add --config.loss.kl_coef=0.001, for example',
  )


def _sizes(c: Any) -> Iterator[Rule]:
  questions, limit = 'proposer.num_questions', 'solver.max_tokens'
  # `evaluation.batch_questions` may be larger than the number of questions.
  for factors in (
    (questions, 'proposer.max_tokens'),
    (questions, 'solver.group_size', limit),
    (questions, 'vote.extra_answers', limit),
    (questions, 'vote.earlier_answers', limit),
    ('evaluation.samples', 'evaluation.seeds', limit),
    ('probe.answers', limit),
  ):
    sizes = {key: lookup(c, key) for key in factors}
    tokens = math.prod(sizes.values())
    yield Rule(
      max(sizes, key=sizes.__getitem__),
      tokens <= MAX_TOKENS,
      f'{" * ".join(factors)} to be at most {MAX_TOKENS} tokens of a batch, '
      f'not {tokens}',
    )
  m = c.random_model
  attention = 2 * (m.num_heads + m.num_kv_heads) * m.head_width
  parameters = m.num_layers * m.width * (attention + 3 * m.mlp_width)
  sizes = dataclasses.asdict(m)
  yield Rule(
    f'random_model.{max(sizes, key=sizes.__getitem__)}',
    parameters <= MAX_PARAMETERS,
    f'sizes of a model with at most {MAX_PARAMETERS} parameters, not '
    f'{parameters}',
  )
