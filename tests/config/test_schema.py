"""Tests of valid configs, and of the messages about invalid ones."""

import dataclasses
import importlib
import json
import pathlib
import re
import typing

import pytest
from ml_collections import config_dict

from configs import default, quickstart
from sqlm_jax.config import checks, parse
from sqlm_jax.config import schema as config_lib
from sqlm_jax.game import rewards
from sqlm_jax.grading import answers
from sqlm_jax.models import decoder
from sqlm_jax.ops import advantages, losses

ROOT = pathlib.Path(__file__).parents[2]
# default.py holds every key, but no task.
RUNNABLE = sorted(
  path.stem
  for path in (ROOT / 'configs').glob('*.py')
  if path.stem not in ('__init__', 'default')
)


def changed(**changes) -> dict:
  """Returns the quickstart's config with changed keys, as nested dicts."""
  tree = quickstart.get_config().to_dict()
  for key, value in changes.items():
    *parents, name = key.split('.')
    place = tree
    for parent in parents:
      place = place[parent]
    place[name] = value
  return tree


def test_a_missing_key_has_its_default():
  """Stored configs of earlier versions lack the keys that were added later."""
  tree = changed(**{'sampler.chunk': 7})
  expected = config_lib.from_dict(tree)
  del tree['sampler']['gather_weights']
  del tree['vote']
  assert config_lib.from_dict(tree) == expected
  assert config_lib.complete(tree) == config_lib.to_dict(expected)
  tree['sampler']['gather_weights'] = True
  assert config_lib.from_dict(tree).sampler.gather_weights
  assert not config_lib.Config().sampler.gather_weights


@pytest.mark.parametrize('name', RUNNABLE)
def test_every_file_of_configs_is_valid(name):
  module = importlib.import_module(f'configs.{name}')
  config = config_lib.from_dict(module.get_config().to_dict())
  assert config.task.topics


def test_there_are_configs_to_check():
  assert {'quickstart', 'quickstart_multiplication', 'smoke'} <= set(RUNNABLE)


def test_default_has_no_task_and_says_so():
  with pytest.raises(ValueError, match=r"^task\.name='': expected a name"):
    config_lib.from_dict(default.get_config().to_dict())


def test_default_is_a_locked_config_dict_of_all_keys():
  c = default.get_config()
  assert isinstance(c, config_dict.ConfigDict)
  assert c.is_locked
  assert c.to_dict() == config_lib.to_dict(config_lib.Config())
  for key in config_lib.KEYS:
    value = checks.lookup(c, key.name)
    assert type(value) is type(key.default)
    assert value == key.default
  with pytest.raises(AttributeError):
    c.solver.groupsize = 4


def test_every_key_has_a_documented_default_of_its_type():
  assert len(config_lib.KEYS) > 100
  assert len({key.name for key in config_lib.KEYS}) == len(config_lib.KEYS)
  for key in config_lib.KEYS:
    assert key.doc.endswith('.'), key.name
    assert '\n' not in key.doc, key.name
  # An empty task is not valid, but its types are.
  default_config = config_lib.to_dict(config_lib.Config())
  assert parse.build(config_lib.Config, default_config) == config_lib.Config()


@pytest.mark.parametrize(
  'key, names',
  [
    ('advantage.estimator', (*advantages.ESTIMATORS, 'gae')),
    ('loss.kl_estimator', losses.KL_ESTIMATORS),
    ('model.remat', decoder.REMAT),
    ('task.answer_kind', (*answers.KINDS, 'choice', 'expression', 'code')),
  ],
)
def test_choices_are_those_of_the_code(key, names):
  (declared,) = (k for k in config_lib.KEYS if k.name == key)
  assert set(typing.get_args(declared.type)) == set(names)


def test_rewards_are_those_of_the_code():
  solver = dataclasses.asdict(config_lib.Config().solver.rewards)
  assert tuple(solver) == rewards.SOLVER_TERMS
  proposer = dataclasses.asdict(config_lib.Config().proposer.rewards)
  assert tuple(proposer) == (
    *rewards.PROPOSER_TERMS,
    *rewards.BONUSES,
    *rewards.PENALTIES,
  )


def test_keys_that_may_change():
  resume = config_lib.MAY_CHANGE_TO_RESUME
  evaluate = config_lib.MAY_CHANGE_TO_EVALUATE
  assert resume < evaluate
  assert {'num_steps', 'mesh.fsdp', 'sampler.chunk'} <= resume
  assert {
    'sampler.dtype',
    'evaluation.samples',
    'task.date',
  } <= evaluate - resume
  assert not {'seed', 'solver.group_size', 'model.path'} & evaluate


# A key, a wrong value, and the allowed values that the message must name.
TYPES = [
  ('seed', 0.0, 'a whole number'),
  ('seed', True, 'a whole number'),
  ('num_steps', '12', 'a whole number'),
  ('num_steps', None, 'a whole number'),
  ('solver.group_size', 8.0, 'a whole number'),
  ('loss.kl_coef', False, 'a finite number'),
  ('loss.kl_coef', '0.1', 'a finite number'),
  ('policy.shared', 1, 'True or False'),
  ('policy.shared', 'false', 'True or False'),
  ('task.name', 3, 'text'),
  ('task.solver_prompt', ('{question}',), 'text'),
  ('task.topics', 'sums', 'a tuple, each element text'),
  ('task.topics', (1,), 'text'),
  ('task.solver_stop', '\n', 'a tuple, each element text'),
  ('task.test', (('1 + 1',),), 'a pair of text and text'),
  ('task.test', (('1 + 1', 2),), 'text'),
  ('task.test', (('1 + 1', '2', '3'),), 'a pair of text and text'),
  ('solver', 4, 'a group of keys'),
  ('loss.kl_coef', float('nan'), 'a finite number'),
  ('loss.kl_coef', float('inf'), 'a finite number'),
  ('optimizer.learning_rate', float('nan'), 'a finite number'),
  ('optimizer.weight_decay', float('inf'), 'a finite number'),
  ('proposer.unreadable_reward', float('-inf'), 'a finite number'),
  ('proposer.unreadable_reward', float('nan'), 'a finite number'),
  ('vote.min_agreement', float('nan'), 'a finite number'),
]
VALUES = [
  ('seed', -1, '0 to 2147483647'),
  ('seed', 2**31, 'to 2147483647'),
  ('num_steps', -1, 'at least 0'),
  ('model.dtype', 'float16', 'one of float32, bfloat16'),
  ('advantage.estimator', 'ppo', 'one of grpo, dr_grpo, rloo'),
  ('critic.learning_rate', -1.0, 'at least 0'),
  ('critic.value_clip', 0.0, 'a number above 0'),
  ('critic.gamma', 1.1, 'a number from 0 to 1'),
  ('critic.gae_lambda', -0.1, 'a number from 0 to 1'),
  ('loss.kl_reference', 'average', 'initial, unless there is a moving'),
  ('policy.average_decay', 1.0, 'at least 0 and below 1'),
  ('loss.kl_target', -0.1, 'at least 0'),
  ('loss.entropy_target', 1.0, '0 without a coefficient to start from'),
  ('loss.adapt_rate', 1.0, 'at most 0.9'),
  ('advantage.positive_weight', -0.1, 'at least 0'),
  ('solver.rewards.agreement', -1.0, 'at least 0'),
  ('anchor.kl_coef', 0.0, 'above 0'),
  ('anchor.template', 'Say it!', 'a template with {question}'),
  ('anchor.answers', 0, 'from 1 to 1024'),
  ('anchor.prompts_per_update', 0, 'from 1 to'),
  ('loss.kl_placement', 'answers', 'one of loss, reward'),
  ('loss.kl_placement', 'reward', 'loss, unless advantage.estimator is gae'),
  ('loss.clip_ratio_high', -0.1, 'at least 0'),
  ('loss.dual_clip', 1.1, '0, or more than 1.2'),
  ('loss.ratio_level', 'word', 'one of token, sequence'),
  ('loss.kl_estimator', 'k1', 'one of k2, k3'),
  ('loss.entropy_coef', -1.0, 'at least 0'),
  ('loss.aggregation', 'mean', 'one of token, sequence, constant'),
  ('proposer.rewards.sqlm', -1.0, 'at least 0'),
  (
    'proposer.reward_schedule',
    (('best', 0, 1.0),),
    'the reward one of sqlm, r_zero',
  ),
  ('proposer.reward_schedule', (('sqlm', -1, 1.0),), 'at least 0'),
  ('proposer.reward_schedule', (('sqlm', 0.5, 1.0),), 'a whole number'),
  (
    'proposer.reward_schedule',
    (('sqlm', 1),),
    'a group of text and a whole number',
  ),
  ('proposer.reward_over', 'all', 'one of group, sample'),
  ('proposer.min_similarity', 1.1, 'from 0 to 1'),
  ('proposer.history_size', -1, 'at least 0'),
  (
    'proposer.band',
    (0.8, 0.3),
    'two fractions from 0 to 1, the lower one first',
  ),
  (
    'proposer.band',
    (0.3, 1.3),
    'two fractions from 0 to 1, the lower one first',
  ),
  ('solver.temperatures', (1.0, -1.0), 'numbers from 0 to 100'),
  ('vote.weights', 'loud', 'one of equal, likelihood'),
  ('random_model.num_layers', 0, 'from 1 to 1048576'),
  ('probe.every', -1, 'at least 0'),
  ('probe.questions', 0, 'at least 1'),
  ('probe.answers', 1, 'at least 2'),
  ('probe.steps', 0, 'at least 1'),
  ('alarms.max_rollbacks', -1, 'at least 0'),
  ('alarms.webhook', 'ftp://host/', 'a URL http'),
  ('alarms.rules', (('a b', 'c > 1', 1, 'warn'),), 'rules (name'),
  ('alarms.rules', (('a', 'c', 1, 'warn'),), 'rules (name'),
  ('alarms.rules', (('a', 'c > 1', 0, 'warn'),), 'rules (name'),
  ('alarms.rules', (('a', 'c > 1', 1, 'wait'),), 'rules (name'),
  ('alarms.rules', (('a', 'c > 1', 1, 'warn'),) * 2, 'rules (name'),
  ('task.name', 'two words', 'letters, digits, _ and -'),
  ('task.name', 'a/b', 'letters, digits, _ and -'),
  ('task.style', 'Chat', 'one of plain, chat'),
  ('task.topics', (), 'at least one topic'),
  ('task.proposer_prompt', '', 'a template'),
  ('task.proposer_prompt', ' \n', 'a template'),
  ('task.solver_prompt', '{topic} = ', 'a template with {question}'),
  ('task.question_pattern', '(', 'a regular expression'),
  ('task.answer_pattern', '[0-9', 'a regular expression'),
  ('task.answer_kind', 'set', 'one of number, text, choice, expression'),
  ('task.solver_variants', ('{topic} = ',), 'a template with {question}'),
  ('tests.pattern', '(', 'a regular expression with 2 groups'),
  ('tests.pattern', '(.*)', 'a regular expression with 2 groups'),
  ('tests.min_count', 0, 'at least 1'),
  ('tests.max_count', 4, 'at least tests.min_count=5'),
  ('tests.program', 'print(1)', 'a template with {answer}'),
  ('tests.unsolved', 'drop', 'one of count, leave_out'),
  ('sandbox.backend', 'docker', 'one of bubblewrap, unsafe_subprocess'),
  ('sandbox.workers', -1, 'from 0 to 1024'),
  ('sandbox.cpu_seconds', 0.0, 'a number above 0'),
  ('sandbox.wall_seconds', -1.0, 'a number above 0'),
  ('sandbox.memory_mib', 0, 'at least 1'),
  ('task.checker', 'sympy', 'one of none, arithmetic'),
  ('task.proposer_stop', ('\n', ''), 'no empty string'),
  ('task.solver_stop', ('',), 'no empty string'),
  ('task.options', ('same',) * 27, 'at most 26, A to Z'),
  ('proposer.group_size', 1, 'at least 2'),
  ('proposer.group_size', 0, 'at least 2'),
  ('proposer.num_questions', 33, 'a multiple of proposer.group_size=32'),
  ('proposer.num_questions', 0, 'at least 1'),
  ('proposer.num_questions', -32, 'at least 1'),
  ('proposer.train_every', -1, 'at least 0'),
  ('proposer.unreadable_reward', 0.5, 'at most 0'),
  ('proposer.temperature', -0.1, 'from 0 to 100'),
  ('proposer.top_p', 1.1, 'above 0, at most 1'),
  ('proposer.max_tokens', 0, 'at least 1'),
  ('solver.group_size', 1, 'at least 2'),
  ('solver.rewards.random', -0.1, 'at least 0'),
  ('solver.rewards.tests', 1.0, '0 unless task.answer_kind is code'),
  (
    'solver.reward_schedule',
    (('truth', 0, 1.0),),
    'the reward one of majority',
  ),
  ('solver.max_rounds', 0, 'from 1 to 1000'),
  ('solver.temperature', 101.0, 'from 0 to 100'),
  ('solver.top_p', 0.0, 'above 0, at most 1'),
  ('solver.max_tokens', 0, 'at least 1'),
  ('vote.ties', 'last', 'one of none, first'),
  ('vote.min_agreement', 1.5, 'from 0 to 1'),
  ('vote.earlier_answers', -1, 'at least 0'),
  ('vote.extra_answers', -1, 'at least 0'),
  ('vote.earlier_every', 0, 'at least 1'),
  ('sampler.max_prompt_tokens', 0, 'at least 1'),
  ('sampler.max_rows', -1, 'at least 0'),
  ('sampler.chunk', 0, 'at least 1'),
  ('loss.clip_ratio', -0.1, 'from 0 to 1'),
  ('loss.kl_coef', -0.001, 'at least 0'),
  ('loss.aggregation', 'batch', 'one of token, sequence'),
  ('loss.logits_chunk', 0, 'at least 1'),
  ('optimizer.learning_rate', -1e-5, 'at least 0'),
  ('optimizer.warmup_steps', -1, 'at least 0'),
  ('optimizer.schedule', 'exponential', 'one of constant, linear, cosine'),
  ('optimizer.decay_steps', 8, 'and 0 with constant'),
  ('optimizer.min_lr_ratio', 1.5, 'from 0 to 1'),
  ('optimizer.b1', 1.0, 'at least 0 and below 1'),
  ('optimizer.b2', -0.1, 'at least 0 and below 1'),
  ('optimizer.moment_dtype', 'int8', 'one of float32, bfloat16'),
  ('optimizer.small_updates', 'round', 'one of follow, hold'),
  ('optimizer.small_updates', 'hold', 'hold needs --config.model.dtype='),
  ('optimizer.max_update_kl', -0.1, 'at least 0'),
  ('sampler.dtype', 'int8', "one of float32, bfloat16, or ''"),
  ('model.remat', 'half', 'one of none, dots, full'),
  ('optimizer.clip_norm', -1.0, 'at least 0'),
  ('optimizer.solver_updates', 3, 'a divisor of the 32 groups'),
  ('optimizer.solver_updates', 0, 'at least 1'),
  ('optimizer.proposer_updates', 2, 'a divisor of the 1 groups'),
  ('optimizer.groups_per_microbatch', 0, 'at least 1'),
  ('evaluation.every', -1, 'at least 0'),
  ('evaluation.samples', -1, 'from 0 to 1048576'),
  ('evaluation.seeds', 0, 'from 1 to 1048576'),
  ('evaluation.temperature', -1.0, 'a number from 0'),
  ('evaluation.top_p', 1.5, 'above 0, at most 1'),
  ('evaluation.best_by', 'luck', 'one of mean, greedy, probe'),
  ('evaluation.contaminated', 'ignore', 'one of count, exclude'),
  ('evaluation.vote_precision', 2.0, 'a number from 0'),
  ('evaluation.question_template', 'What?', 'a template with {question}'),
  ('evaluation.test', 'multiplication/test', 'no task.test as well'),
  ('evaluation.validation', 'a.jsonl', 'no task.validation as well'),
  ('task.validation', (('1 + 8', '9'),), 'no question of task.test'),
  ('evaluation.batch_questions', 0, 'at least 1'),
  ('checkpoint.every', -1, 'at least 0'),
  ('checkpoint.keep', 0, 'at least 1'),
  ('mesh.data', 0, 'from 1 to 1048576, or -1'),
  ('mesh.tensor', -2, 'from 1 to 1048576, or -1'),
]


def test_topics_that_no_prompt_names_are_refused():
  """With a misspelled {topic}, all topics would have the same prompt."""
  topics = {'task.topics': ('sums', 'products')}
  config_lib.from_dict(changed(**topics))
  with pytest.raises(
    ValueError, match=r'or \{topic\} in task\.proposer_prompt'
  ):
    config_lib.from_dict(
      changed(**topics | {'task.proposer_prompt': 'About {topc}: '})
    )


@pytest.mark.parametrize('key, value, allowed', TYPES + VALUES)
def test_a_bad_value_is_refused(key, value, allowed):
  # The values of the table are wrong for these sizes.
  sizes = {
    'proposer.num_questions': 32,
    'proposer.group_size': 32,
    'optimizer.solver_updates': 1,
    'optimizer.proposer_updates': 1,
  }
  with pytest.raises(ValueError, match=r'.') as caught:
    config_lib.from_dict(changed(**sizes | {key: value}))
  told, _, expected = str(caught.value).partition(': expected ')
  assert told.startswith(f'{key}=')
  # For a tuple, the message may show only the invalid element.
  assert told.removeprefix(f'{key}=') in repr(value)
  assert allowed in expected


BILLION = 10**9
TOKENS = 'tokens of a batch, not'


@pytest.mark.parametrize(
  'key, value, allowed',
  [
    ('evaluation.samples', BILLION, 'to 1048576'),
    ('evaluation.seeds', BILLION, 'to 1048576'),
    ('evaluation.batch_questions', 2**31, 'to 2147483647'),
    ('proposer.max_tokens', 2**31, 'to 2147483647'),
    ('proposer.max_tokens', 2**31 - 1, TOKENS),
    ('solver.max_tokens', 2**30, TOKENS),
    ('proposer.num_questions', 32 * BILLION, 'to 2147483647'),
    ('proposer.num_questions', 2**30, TOKENS),
    ('solver.group_size', BILLION, TOKENS),
    ('vote.earlier_answers', BILLION, TOKENS),
    ('vote.extra_answers', BILLION, TOKENS),
    ('solver.max_rounds', BILLION, 'to 1000'),
    ('sandbox.workers', BILLION, 'to 1024'),
    ('sandbox.memory_mib', 2**40, 'to 2147483647'),
    ('sandbox.wall_seconds', 1e30, 'at most 86400'),
    ('model.lora.rank', BILLION, 'to 65536'),
    ('random_model.width', BILLION, 'to 1048576'),
    ('random_model.num_layers', 2**31, 'to 2147483647'),
    ('mesh.data', BILLION, 'to 1048576'),
    ('mesh.tensor', 2**63, 'to 2147483647'),
    ('checkpoint.keep', 2**31, 'to 2147483647'),
    ('num_steps', 2**31, 'to 2147483647'),
    ('optimizer.warmup_steps', 2**31, 'to 2147483647'),
    ('optimizer.learning_rate', 1e39, 'a finite number'),
    ('loss.kl_coef', 10**400, 'a finite number'),
    ('loss.kl_coef', float('nan'), 'a finite number'),
    ('solver.temperatures', (1.0, float('inf')), 'a finite number'),
    ('proposer.reward_schedule', (('sqlm', 2**31, 1.0),), 'to 2147483647'),
  ],
)
def test_what_no_array_can_have_is_refused(key, value, allowed):
  sizes = {
    'proposer.num_questions': 32,
    'proposer.group_size': 32,
    'optimizer.solver_updates': 1,
    'optimizer.proposer_updates': 1,
  }
  config_lib.from_dict(changed(**sizes))
  with pytest.raises(ValueError, match=r'.') as caught:
    config_lib.from_dict(changed(**sizes | {key: value}))
  told, _, expected = str(caught.value).partition(': expected ')
  assert told.startswith(f'{key}=')
  assert allowed in expected


def test_two_numbers_that_no_array_can_have_together():
  each = {'evaluation.samples': 2**18, 'evaluation.seeds': 2**18}
  for key, value in each.items():
    config_lib.from_dict(changed(**{key: value}))
  with pytest.raises(
    ValueError, match=r'^evaluation\.samples=.* \* evaluation'
  ):
    config_lib.from_dict(changed(**each))
  sizes = ('num_layers', 'width', 'mlp_width')
  with pytest.raises(
    ValueError, match=r'^random_model\.num_layers=.*parameter'
  ):
    config_lib.from_dict(
      changed(**{f'random_model.{name}': 2**20 for name in sizes})
    )


def test_a_limit_that_is_above_all_there_is_may_be_large():
  keys = (
    'sampler.chunk',
    'sampler.max_rows',
    'sampler.max_prompt_tokens',
    'loss.logits_chunk',
    'optimizer.groups_per_microbatch',
    'evaluation.batch_questions',
    'proposer.history_size',
    'checkpoint.keep',
  )
  config_lib.from_dict(changed(**dict.fromkeys(keys, 2**31 - 1)))


def test_two_sets_of_test_questions_name_the_way_out():
  """The flag that the error names makes the config valid."""
  both = {'evaluation.test': 'multiplication/test'}
  with pytest.raises(ValueError, match=r'^evaluation\.test=') as caught:
    config_lib.from_dict(changed(**both))
  assert "add --config.task.test='()'" in str(caught.value)
  config_lib.from_dict(changed(**both, **{'task.test': ()}))


def test_a_config_dict_is_built_and_a_config_is_left_alone():
  c = quickstart.get_config()
  config = config_lib.of(c)
  assert config == config_lib.from_dict(c) == config_lib.of(c.to_dict())
  assert config_lib.of(config) is config
  with pytest.raises(ValueError, match=r"^config='x': expected a config.Con"):
    config_lib.of('x')


def test_a_critic_learns_from_every_group():
  with pytest.raises(
    ValueError, match=r'^solver\.max_rounds=2: expected 1 for'
  ):
    config_lib.from_dict(
      changed(**{'advantage.estimator': 'gae', 'solver.max_rounds': 2})
    )
  config_lib.from_dict(
    changed(**{'advantage.estimator': 'gae', 'loss.kl_placement': 'reward'})
  )


def test_no_step_is_sampled_ahead_where_every_one_is_saved():
  ahead = {'sampler.one_step_ahead': True}
  with pytest.raises(
    ValueError, match=r'^checkpoint\.every=1: expected a number'
  ):
    config_lib.from_dict(changed(**ahead | {'checkpoint.every': 1}))
  config_lib.from_dict(changed(**ahead | {'checkpoint.every': 2}))


def test_an_unknown_key_is_refused_with_those_there_are():
  tree = changed(**{'solver.groupsize': 4})
  with pytest.raises(ValueError, match=r'^solver\.groupsize=4: unknown key'):
    config_lib.from_dict(tree)
  with pytest.raises(ValueError, match=r'expected one of group_size, rewards'):
    config_lib.from_dict(tree)


def test_extremes_that_make_sense_are_accepted():
  config_lib.from_dict(
    changed(
      **{
        'seed': 2**31 - 1,
        'num_steps': 0,
        'task.test': (),
        'task.validation': (),
        'solver.temperature': 0.0,
        'solver.group_size': 2,
        'proposer.unreadable_reward': 0.0,
        'proposer.train_every': 0,
        'vote.min_agreement': 1.0,
        'optimizer.learning_rate': 0.0,
        'optimizer.clip_norm': 0.0,
        'mesh.data': 1,
        'mesh.fsdp': -1,
      }
    )
  )


def test_a_config_survives_json():
  config = config_lib.from_dict(changed(**{'task.topics': ('a', 'b')}))
  stored = json.loads(json.dumps(config_lib.to_dict(config)))
  assert stored['task']['topics'] == ['a', 'b']
  assert config_lib.from_dict(stored) == config
  assert config_lib.from_dict(stored).task.test[0] == ('1 + 8', '9')


def test_a_whole_number_stands_for_a_float():
  config = config_lib.from_dict(changed(**{'loss.kl_coef': 1}))
  assert type(config.loss.kl_coef) is float


def test_a_config_dict_and_its_dict_are_the_same():
  c = quickstart.get_config()
  assert isinstance(c, config_dict.ConfigDict)
  assert config_lib.from_dict(c.to_dict()) == config_lib.from_dict(
    json.loads(json.dumps(c.to_dict()))
  )


@pytest.mark.parametrize(
  'changes, told',
  [
    ({'solver.rewards.tests': 1.0}, 'solver.rewards.majority=1.0: expected 0'),
    ({'vote.earlier_answers': 2}, 'vote.earlier_answers=2: expected 0'),
    ({'vote.extra_answers': 2}, 'vote.extra_answers=2: expected 0'),
    ({'solver.replay': 2}, 'solver.replay=2: expected 0'),
  ],
)
def test_programs_are_not_put_to_a_vote(changes, told):
  code = {'task.answer_kind': 'code'} | changes
  if 'solver.rewards.tests' not in changes:
    code |= {'solver.rewards.majority': 0.0, 'solver.rewards.tests': 1.0}
  with pytest.raises(ValueError, match=re.escape(told)):
    config_lib.from_dict(changed(**code))


def test_answers_are_shared_out_evenly_among_prompts():
  tree = changed(**{'task.solver_variants': ('{question}?', '{question}!')})
  told = 'solver.group_size=8: expected a multiple of the 3 prompts'
  with pytest.raises(ValueError, match=re.escape(told)):
    config_lib.from_dict(tree)


@pytest.mark.parametrize(
  'changes, told',
  [
    ({'task.options': ('a',)}, 'task.shuffle_options=True: expected False'),
    ({'task.answer_kind': 'text'}, 'task.shuffle_options=True: expected False'),
    (
      {'task.solver_variants': ('{text_A} {question}',)},
      "task.solver_variants=('{text_A} {question}',): expected {text_A}",
    ),
    ({'solver.group_size': 7}, 'solver.group_size=7: expected a number'),
  ],
)
def test_shuffled_options(changes, told):
  shuffled = {
    'task.answer_kind': 'choice',
    'task.options': ('x', 'y'),
    'task.solver_prompt': '{text_A} {text_B} {question}',
    'task.shuffle_options': True,
  }
  config = config_lib.from_dict(changed(**shuffled))
  assert config.task.num_prompts(8) == 2
  assert config.prompt_of_answers == (0, 0, 0, 0, 1, 1, 1, 1)
  with pytest.raises(ValueError, match=re.escape(told)):
    config_lib.from_dict(changed(**shuffled | changes))


def test_extra_answers_are_divided_among_prompts():
  extra = {'task.solver_variants': ('{question}?',), 'vote.extra_answers': 2}
  config = config_lib.from_dict(changed(**extra | {'solver.group_size': 4}))
  assert config.num_answers == 6
  assert config.trains_answer == (True, True, False, True, True, False)
  assert config.prompt_of_answers == (0, 0, 0, 1, 1, 1)
  with pytest.raises(
    ValueError, match=r'vote\.extra_answers=3: expected a multiple of the 2 '
  ):
    config_lib.from_dict(changed(**extra | {'vote.extra_answers': 3}))


@pytest.mark.parametrize(
  'changes, told',
  [
    (
      {'proposer.rewards.coverage': 1.0, 'proposer.kinds': 'topics'},
      "proposer.kinds='topics': expected words or module:function with "
      'proposer.rewards.coverage',
    ),
    (
      {'proposer.rewards.coverage': 1.0, 'proposer.history_size': 0},
      'proposer.history_size=0: expected at least 1',
    ),
    (
      {'solver.replay': 8, 'proposer.history_size': 0},
      'proposer.history_size=0: expected at least 1',
    ),
  ],
)
def test_earlier_questions_must_be_remembered(changes, told):
  with pytest.raises(ValueError, match=re.escape(told)):
    config_lib.from_dict(changed(**changes))


def test_a_probe_is_required_to_choose_by_it():
  tree = changed(**{'evaluation.best_by': 'probe'})
  with pytest.raises(
    ValueError, match=r"evaluation\.best_by='probe': expected mean or greedy"
  ):
    config_lib.from_dict(tree)


def test_fixed_questions_have_no_topics():
  tree = changed(**{'task.questions': 'a.txt', 'proposer.kinds': 'topics'})
  with pytest.raises(
    ValueError, match=r"proposer\.kinds='topics': expected words"
  ):
    config_lib.from_dict(tree)


def test_each_temperature_is_used_with_several_prompts():
  tree = changed(
    **{
      'task.solver_variants': ('{question}?',) * 3,
      'solver.group_size': 8,
      'solver.temperatures': (1.0, 0.7, 0.5),
    }
  )
  message = 'solver.temperatures=(1.0, 0.7, 0.5): expected at most 2'
  with pytest.raises(ValueError, match=re.escape(message)):
    config_lib.from_dict(tree)
