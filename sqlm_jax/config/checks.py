"""Rules for the values of a config, one function per group of keys.

A rule is a tuple of a key, True if its value is allowed, and a description of
the allowed values. Types are checked before the rules, by `config_build`.
"""

import dataclasses
import re
from collections.abc import Collection, Iterator
from typing import Any

from sqlm_jax.game import contamination, rewards, vote
from sqlm_jax.grading import answer_kinds
from sqlm_jax.models import decoder
from sqlm_jax.ops import advantages, losses
from sqlm_jax.pretrained import chat
from sqlm_jax.sandbox import sandbox, unit_tests
from sqlm_jax.tasks import prompted

ACTIONS = STOP, ROLL_BACK = ('stop', 'roll_back')
DTYPES = ('float32', 'bfloat16')
SMALL_UPDATES = FOLLOW, HOLD = ('follow', 'hold')
BEST_BY = ('mean', 'greedy')

Rule = tuple[str, bool, str]


def lookup(config: Any, key: str) -> Any:
  """Returns the value of a dotted key."""
  value = config
  for name in key.split('.'):
    value = getattr(value, name)
  return value


def rules(c: Any) -> Iterator[Rule]:
  """Yields the rules of a `schema.Config`."""
  yield _within(c, 'seed', 0, 2**31 - 1)
  yield _at_least(c, 'num_steps', 0)
  groups = (_model, _task, _tests, _roles, _rewards, _votes)
  for group in (*groups, _loss, _critic, _optimizer, _evaluation, _schedule):
    yield from group(c)


def _at_least(c, key: str, least: float) -> Rule:
  return key, lookup(c, key) >= least, f'at least {least}'


def _share(c, key: str) -> Rule:
  return key, 0 < lookup(c, key) <= 1, 'a number above 0, at most 1'


def _within(c, key: str, low: float, high: float) -> Rule:
  good = low <= lookup(c, key) <= high
  return key, good, f'a number from {low} to {high}'


def _choice(c, key: str, choices: Collection[str]) -> Rule:
  return key, lookup(c, key) in choices, 'one of ' + ', '.join(choices)


def _regex(c, key: str, *, groups: int = 0) -> Rule:
  expected = 'a regular expression' + f' with {groups} groups' * bool(groups)
  try:
    return key, re.compile(lookup(c, key)).groups >= groups, expected
  except re.error:
    return key, False, expected


def _model(c) -> Iterator[Rule]:
  yield 'model.path', bool(c.model.path), 'a file, a directory or a hub id'
  yield _choice(c, 'model.dtype', DTYPES)
  yield _choice(c, 'model.param_dtype', DTYPES)
  yield (
    'sampler.dtype',
    c.sampler.dtype in ('', *DTYPES),
    f"one of {', '.join(DTYPES)}, or '' for that of model.dtype",
  )
  yield _choice(c, 'model.remat', tuple(decoder.REMAT))
  yield _at_least(c, 'model.lora.rank', 0)
  yield 'model.lora.alpha', c.model.lora.alpha > 0, 'a number above 0'
  for name in dataclasses.asdict(c.random_model):
    yield _at_least(c, f'random_model.{name}', 1)


def _task(c) -> Iterator[Rule]:
  yield (
    'task.name',
    re.fullmatch(r'[\w-]+', c.task.name) is not None,
    'a name of letters, digits, _ and -',
  )
  yield _choice(c, 'task.style', ('plain', 'chat'))
  good = not c.task.date or chat.is_date(c.task.date)
  yield 'task.date', good, "a date as YYYY-MM-DD, or ''"
  yield 'task.topics', bool(c.task.topics), 'at least one topic'
  takes_turns = '{topic}' in c.task.proposer_prompt
  yield (
    'task.topics',
    len(c.task.topics) == 1 or takes_turns or bool(c.task.questions),
    'one topic, or {topic} in task.proposer_prompt: without it all topics ask '
    'the same',
  )
  has_text = bool(c.task.proposer_prompt.strip())
  yield 'task.proposer_prompt', has_text, 'a template'
  for key, templates in (
    ('task.solver_prompt', [c.task.solver_prompt]),
    ('task.solver_variants', c.task.solver_variants),
  ):
    good = all('{question}' in template for template in templates)
    yield key, good, 'a template with {question}'
  yield _regex(c, 'task.question_pattern')
  yield _regex(c, 'task.answer_pattern')
  yield _choice(c, 'task.answer_kind', answer_kinds.KINDS)
  yield 'task.options', len(c.task.options) <= 26, 'at most 26, A to Z'
  checker = c.task.checker
  yield (
    'task.checker',
    checker in prompted.CHECKERS or re.fullmatch(r'[\w.]+:\w+', checker),
    f'one of {", ".join(prompted.CHECKERS)}, or module:function of yours',
  )
  for key in ('task.proposer_stop', 'task.solver_stop'):
    yield key, all(lookup(c, key)), 'no empty string'


def _roles(c) -> Iterator[Rule]:
  for role in ('proposer', 'solver'):
    yield _within(c, f'{role}.temperature', 0.0, 100.0)
    yield _share(c, f'{role}.top_p')
    yield _at_least(c, f'{role}.max_tokens', 1)
    # Votes and group-relative advantages need at least two responses.
    yield _at_least(c, f'{role}.group_size', 2)
  p = c.proposer
  yield (
    'proposer.num_questions',
    p.num_questions > 0 and p.num_questions % p.group_size == 0,
    f'a multiple of proposer.group_size={p.group_size}',
  )
  yield _at_least(c, 'proposer.train_every', 0)
  yield (
    'proposer.unreadable_reward',
    p.unreadable_reward <= 0,
    'at most 0, so that it is the lowest of all rewards',
  )
  yield (
    'proposer.band',
    0 <= p.band[0] <= p.band[1] <= 1,
    'two shares from 0 to 1, the lower one first',
  )
  yield (
    'solver.temperatures',
    all(0 <= t <= 100 for t in c.solver.temperatures),
    'numbers from 0 to 100',
  )
  yield _at_least(c, 'solver.max_rounds', 1)
  prompts = 1 + len(c.task.solver_variants)
  yield (
    'solver.group_size',
    c.solver.group_size % prompts == 0,
    f'a multiple of the {prompts} prompts of task.solver_prompt and '
    'task.solver_variants',
  )


def _rewards(c) -> Iterator[Rule]:
  for role in ('proposer', 'solver'):
    names = dataclasses.asdict(lookup(c, f'{role}.rewards'))
    for name in names:
      yield _at_least(c, f'{role}.rewards.{name}', 0.0)
    key = f'{role}.reward_schedule'
    yield (
      key,
      all(
        name in names and step >= 0 and weight >= 0
        for name, step, weight in lookup(c, key)
      ),
      f'points (reward, step, weight), the reward one of {", ".join(names)}, '
      'step and weight at least 0',
    )
  used = {
    name
    for name, value in dataclasses.asdict(c.solver.rewards).items()
    if value
  }
  used |= {name for name, _, _ in c.solver.reward_schedule}
  yield (
    'solver.rewards.true',
    'true' not in used or c.task.checker != 'none',
    'a task.checker that knows the true answer, for this control: add '
    '--config.task.checker=arithmetic, or module:function of yours',
  )
  is_code = c.task.answer_kind == 'code'
  yield (
    'solver.rewards.tests',
    is_code or 'tests' not in used,
    '0 unless task.answer_kind is code: add --config.task.answer_kind=code',
  )
  for name in ('majority', 'true'):
    yield (
      f'solver.rewards.{name}',
      not is_code or name not in used,
      '0 for task.answer_kind=code, whose answers are not put to a vote; '
      '--config.solver.rewards.tests=1.0 rewards the tests that pass',
    )
  yield _choice(c, 'proposer.reward_over', rewards.OVER)
  yield _within(c, 'proposer.min_similarity', 0.0, 1.0)
  yield _at_least(c, 'proposer.history_size', 0)


def _tests(c) -> Iterator[Rule]:
  yield _regex(c, 'tests.pattern', groups=2)
  yield _at_least(c, 'tests.min_count', 1)
  yield _at_least(c, 'tests.max_count', c.tests.min_count)
  yield (
    'tests.program',
    '{answer}' in c.tests.program,
    'a template with {answer}',
  )
  yield _choice(c, 'tests.unsolved', unit_tests.UNSOLVED)
  yield _choice(c, 'sandbox.backend', sandbox.BACKENDS)
  yield _at_least(c, 'sandbox.workers', 0)
  for name in ('cpu_seconds', 'wall_seconds', 'memory_mib'):
    key = f'sandbox.{name}'
    yield key, lookup(c, key) > 0, 'a number above 0'


def _votes(c) -> Iterator[Rule]:
  yield _choice(c, 'vote.weights', vote.WEIGHTS)
  yield _choice(c, 'vote.ties', vote.TIES)
  yield _within(c, 'vote.min_agreement', 0.0, 1.0)
  yield _at_least(c, 'vote.earlier_answers', 0)
  yield (
    'vote.earlier_answers',
    not c.vote.earlier_answers or c.task.answer_kind != 'code',
    '0 for task.answer_kind=code, whose answers are not put to a vote',
  )
  yield _at_least(c, 'vote.earlier_every', 1)
  yield _at_least(c, 'sampler.max_prompt_tokens', 1)
  yield _at_least(c, 'sampler.max_rows', 0)
  yield _at_least(c, 'sampler.chunk', 1)


def _loss(c) -> Iterator[Rule]:
  yield _choice(c, 'advantage.estimator', (*advantages.ESTIMATORS, 'gae'))
  yield _within(c, 'loss.clip_ratio', 0.0, 1.0)
  yield _at_least(c, 'loss.clip_ratio_high', 0.0)
  above = 1 + (c.loss.clip_ratio_high or c.loss.clip_ratio)
  yield (
    'loss.dual_clip',
    c.loss.dual_clip == 0 or c.loss.dual_clip > above,
    f'0, or more than {above}, where the ratio is clipped anyway',
  )
  yield _choice(c, 'loss.ratio_level', ('token', 'sequence'))
  yield _at_least(c, 'loss.kl_coef', 0.0)
  yield _choice(c, 'loss.kl_estimator', losses.KL_ESTIMATORS)
  yield _choice(c, 'loss.kl_placement', ('loss', 'reward'))
  yield (
    'loss.kl_placement',
    c.loss.kl_placement == 'loss' or c.advantage.estimator == 'gae',
    'loss, unless advantage.estimator is gae, since others have no rewards '
    'of tokens: add --config.advantage.estimator=gae',
  )
  yield _at_least(c, 'loss.entropy_coef', 0.0)
  yield _choice(c, 'loss.aggregation', losses.AGGREGATIONS)
  yield _at_least(c, 'loss.logits_chunk', 1)


def _critic(c) -> Iterator[Rule]:
  yield _at_least(c, 'critic.learning_rate', 0)
  yield 'critic.value_clip', c.critic.value_clip > 0, 'a number above 0'
  yield _within(c, 'critic.gamma', 0.0, 1.0)
  yield _within(c, 'critic.gae_lambda', 0.0, 1.0)
  yield (
    'solver.max_rounds',
    c.solver.max_rounds == 1 or c.advantage.estimator != 'gae',
    '1 for advantage.estimator=gae, which learns from every group: add '
    '--config.solver.max_rounds=1',
  )


def _optimizer(c) -> Iterator[Rule]:
  yield _choice(c, 'optimizer.moment_dtype', DTYPES)
  yield _at_least(c, 'optimizer.max_update_kl', 0.0)
  small_updates = c.optimizer.small_updates
  yield _choice(c, 'optimizer.small_updates', SMALL_UPDATES)
  yield (
    'optimizer.small_updates',
    small_updates != HOLD
    or (
      (c.model.dtype, c.model.param_dtype) == ('bfloat16', 'float32')
      and not c.model.lora.rank
    ),
    f'{FOLLOW}; {HOLD} needs --config.model.dtype=bfloat16 '
    '--config.model.param_dtype=float32 --config.model.lora.rank=0',
  )
  for key in ('optimizer.b1', 'optimizer.b2'):
    yield key, 0 <= lookup(c, key) < 1, 'a number from 0 to below 1'
  for name in ('learning_rate', 'warmup_steps', 'weight_decay', 'clip_norm'):
    yield _at_least(c, f'optimizer.{name}', 0)
  yield _at_least(c, 'optimizer.groups_per_microbatch', 1)
  for role, groups in (
    ('solver', c.proposer.num_questions),
    ('proposer', c.proposer.num_questions // c.proposer.group_size),
  ):
    key = f'optimizer.{role}_updates'
    updates = lookup(c, key)
    yield (
      key,
      updates >= 1 and groups % updates == 0,
      f'at least 1, and a divisor of the {groups} groups of a step',
    )


def _evaluation(c) -> Iterator[Rule]:
  for purpose in ('test', 'validation'):
    key = f'evaluation.{purpose}'
    both = lookup(c, key) and lookup(c, f'task.{purpose}')
    yield (
      key,
      not both,
      f"'', or no task.{purpose} as well: add --config.task.{purpose}='()'",
    )
  yield (
    'evaluation.validation',
    not c.evaluation.validation or c.evaluation.validation != c.evaluation.test,
    'other questions than those of evaluation.test, such as another split; '
    "--config.evaluation.validation='' drops the validation set",
  )
  tested = {question for question, _ in c.task.test}
  yield (
    'task.validation',
    not any(question in tested for question, _ in c.task.validation),
    'no question of task.test; '
    "--config.task.validation='()' drops the validation set",
  )
  yield (
    'evaluation.question_template',
    '{question}' in c.evaluation.question_template,
    'a template with {question}',
  )
  yield _at_least(c, 'evaluation.every', 0)
  yield _choice(c, 'evaluation.best_by', BEST_BY)
  yield _at_least(c, 'evaluation.samples', 0)
  yield _at_least(c, 'evaluation.seeds', 1)
  yield _within(c, 'evaluation.temperature', 0.0, 100.0)
  yield _share(c, 'evaluation.top_p')
  yield _at_least(c, 'evaluation.batch_questions', 1)
  yield _choice(c, 'evaluation.contaminated', contamination.CHOICES)
  yield _within(c, 'evaluation.vote_precision', 0.0, 1.0)


def _schedule(c) -> Iterator[Rule]:
  yield _at_least(c, 'checkpoint.every', 0)
  yield (
    'checkpoint.every',
    not c.sampler.one_step_ahead or c.checkpoint.every != 1,
    'another than 1, as sampler.one_step_ahead stops at every checkpoint: add '
    '--config.checkpoint.every=10, say, or '
    '--config.sampler.one_step_ahead=False',
  )
  yield _at_least(c, 'checkpoint.keep', 1)
  for name in (
    *('max_skipped_updates', 'max_kl', 'min_entropy', 'max_rollbacks'),
    'max_unreadable_steps',
  ):
    yield _at_least(c, f'divergence.{name}', 0)
  yield _choice(c, 'divergence.action', ACTIONS)
  yield (
    'divergence.max_kl',
    not c.divergence.max_kl or c.loss.kl_coef > 0,
    '0 where loss.kl_coef is 0, and the KL is not known: add '
    '--config.loss.kl_coef=0.001, say',
  )
  for axis in dataclasses.asdict(c.mesh):
    key = f'mesh.{axis}'
    size = lookup(c, key)
    yield key, size == -1 or size > 0, 'at least 1, or -1 for the rest'
