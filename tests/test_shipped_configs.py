"""Tests of `sqlm_jax.configs`: configs by name, and their overrides."""

import pytest

from configs import quickstart
from sqlm_jax import configs


def test_a_config_by_name_is_that_of_the_file():
  assert configs.quickstart() == quickstart.get_config()
  assert configs.load('quickstart') == quickstart.get_config()
  assert configs.load('configs/quickstart.py') == quickstart.get_config()


def test_overrides():
  c = configs.quickstart(
    {'solver.group_size': 4, 'vote': {'min_agreement': 0.5}},
    num_steps=3,
    proposer={'max_tokens': 9},
  )
  assert (c.solver.group_size, c.vote.min_agreement) == (4, 0.5)
  assert (c.num_steps, c.proposer.max_tokens) == (3, 9)
  assert c.solver.max_tokens == quickstart.get_config().solver.max_tokens
  assert c.is_locked


@pytest.mark.parametrize(
  'overrides, message',
  [
    ({'steps': 3}, 'steps=3: unknown key, expected one of seed'),
    ({'solver.size': 3}, 'solver.size=3: unknown key, expected one of group'),
    ({'solvers.size': 3}, 'solvers=.*: unknown key'),
    ({'num_steps.x': 3}, 'num_steps=.*: expected a whole number'),
    ({'num_steps': 'many'}, "num_steps='many': expected a whole number"),
    ({'solver': 3}, 'solver=3: expected a group of keys'),
  ],
)
def test_wrong_overrides(overrides, message):
  with pytest.raises(ValueError, match=message):
    configs.quickstart(overrides)


@pytest.mark.parametrize('name', ['nosuch', 'nosuch.py', 'README.md', ''])
def test_a_config_that_there_is_not(name):
  with pytest.raises(ValueError, match=r'expected one of algebra, .*, or a fi'):
    configs.load(name)


def test_an_argument_follows_a_colon():
  c = configs.load('controls:quickstart,random', num_steps=1)
  assert c.solver.rewards.random == 1.0
  assert configs.find('controls:quickstart,random').endswith(
    'controls.py:quickstart,random'
  )
  assert configs.find('my/file.py:a:b') == 'my/file.py:a:b'


def test_a_split_hides_what_the_prompt_shows():
  questions = [(f'{n} + 1', str(n + 1)) for n in range(9)]
  validation, test = configs.split(questions, '2 + 1 = 3', size=3)
  assert len(validation) == 3
  assert sorted(validation + test) == [q for q in questions if q[0][0] != '2']
