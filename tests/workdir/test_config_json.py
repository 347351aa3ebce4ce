"""Tests of config.json: it is written once and then checked."""

import functools
import json

import pytest

from configs import smoke
from sqlm_jax.config import schema as config_lib
from sqlm_jax.workdir import config_json

CONFIG = {
  'seed': 0,
  'num_steps': 20,
  'task': {'topics': ('sums', 'products'), 'prompt': 'Q: ' * 50 + 'A: '},
  'checkpoint': {'every': 10},
}


def test_the_config_is_written_once_and_accepted_again(tmp_path):
  workdir = tmp_path / 'runs' / 'one'
  assert config_json.read(workdir) is None
  config_json.check(workdir, CONFIG)
  assert not workdir.exists()  # reading and checking create nothing
  config_json.write(workdir, CONFIG)
  first = (workdir / 'config.json').read_bytes()
  config_json.check(workdir, CONFIG)
  config_json.write(workdir, CONFIG)
  assert (workdir / 'config.json').read_bytes() == first
  # JSON turns tuples into lists.
  assert config_json.read(workdir) == json.loads(json.dumps(CONFIG))


def test_another_config_is_rejected_with_the_keys_and_values(tmp_path):
  config_json.write(tmp_path, CONFIG)
  other = CONFIG | {
    'seed': 1,
    'task': {'topics': ('sums',), 'prompt': 'Q: ' * 50 + 'Answer: '},
    'loss': {'kl_coef': None},
  }
  with pytest.raises(ValueError, match='another --workdir') as error:
    config_json.check(tmp_path, other, may_change={'num_steps'})
  assert str(error.value).splitlines()[1:] == [
    '  loss.kl_coef: no such key -> None',
    '  seed: 0 -> 1',
    # Long values start ten characters before their difference.
    "  task.prompt: …Q: Q: Q: A: ' -> …Q: Q: Q: Answer: '",
    "  task.topics: ['sums', 'products'] -> ['sums']",
  ]
  assert config_json.read(tmp_path)['seed'] == 0


def test_keys_that_may_change_are_accepted(tmp_path):
  config_json.write(tmp_path, CONFIG)
  longer = CONFIG | {'num_steps': 40, 'checkpoint': {'every': 5}}
  with pytest.raises(ValueError, match='num_steps: 20 -> 40'):
    config_json.check(tmp_path, longer, may_change={'checkpoint.every'})
  config_json.check(
    tmp_path, longer, may_change={'num_steps', 'checkpoint.every'}
  )
  config_json.write(tmp_path, longer)
  assert config_json.read(tmp_path)['num_steps'] == 40


def test_a_config_of_an_earlier_version_is_completed(tmp_path):
  """It lacks keys that were added later with a default."""
  config = config_lib.to_dict(
    config_lib.from_dict(smoke.get_config().to_dict())
  )
  old = json.loads(json.dumps(config))
  del old['sampler']['one_step_ahead'], old['sampler']['dtype']
  config_json.write(tmp_path, old)
  check = functools.partial(config_json.check, complete=config_lib.complete)
  check(tmp_path, config)
  config['sampler']['one_step_ahead'] = True
  with pytest.raises(ValueError, match=r'sampler\.one_step_ahead: False'):
    check(tmp_path, config)
  # A key of a later version is reported as it is stored.
  config_json.write(tmp_path, old | {'later': 1})
  with pytest.raises(ValueError, match='later: 1 -> no such key'):
    check(tmp_path, config)


def test_a_damaged_config_is_an_error_with_its_path(tmp_path):
  (tmp_path / 'config.json').write_text('{"seed": ')
  with pytest.raises(ValueError, match=r'config\.json: expected JSON'):
    config_json.check(tmp_path, CONFIG)
