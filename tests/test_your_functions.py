"""Functions of the user: the examples of docs/your_functions.md, and a step."""

import pathlib
import re

import pytest

from configs import smoke
from sqlm_jax.config import schema as config_lib
from sqlm_jax.grading import user_functions
from sqlm_jax.run import build, train_states
from sqlm_jax.selfplay import step as step_lib
from tests.selfplay import test_step

PAGE = pathlib.Path(__file__).parent.parent / 'docs' / 'your_functions.md'
BLOCKS = re.findall(r'^```python\n(.*?)^```', PAGE.read_text(), re.S | re.M)
# Key and name of each example, with arguments and the expected value.
CALLS = [
  ('solver.reward_functions', 'brevity', ('7 + 4', 'It is 11', '11'), 1 / 4),
  ('solver.reward_functions', 'brevity', ('7 + 4', 'No idea', None), 0.0),
  ('proposer.reward_functions', 'variety', ('7 + 4', ['11', '9', None]), 1.0),
  ('proposer.reward_functions', 'variety', ('7 + 4', [None]), 0.0),
  ('gate.functions', 'trivial', ('0 + 4',), 'trivial'),
  ('gate.functions', 'trivial', ('7 + 4',), None),
  ('exclude.functions', 'names_a_person', ('Ask Dr. Sato.',), 'person'),
  ('exclude.functions', 'names_a_person', ('7 + 4',), None),
  ('task.checker', 'total', ('7 + 4',), '11'),
  ('task.checker', 'total', ('Why?',), None),
  ('task.equivalent_forms', 'swapped', ('7 + 4',), ['4 + 7']),
  ('task.equivalent_forms', 'swapped', ('Why?',), []),
]


@pytest.fixture(autouse=True, scope='module')
def my_functions(tmp_path_factory):
  directory = tmp_path_factory.mktemp('functions')
  (directory / 'my_functions.py').write_text('\n'.join(BLOCKS))
  with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(directory))
    yield


def test_every_key_has_an_example_that_is_called():
  page = PAGE.read_text()
  shown = set(re.findall(r'--config\.([\w.]+)=\S*my_functions', page))
  assert shown == {key for key, *_ in CALLS} == set(user_functions.KINDS)
  defined = set(re.findall(r'^def (\w+)', '\n'.join(BLOCKS), re.M))
  assert defined == {name for _, name, *_ in CALLS}


@pytest.mark.parametrize('key, name, arguments, value', CALLS)
def test_an_example(key, name, arguments, value):
  function = user_functions.Function(key, f'my_functions:{name}')
  assert function(*arguments) == value


def test_a_step_with_functions_of_all_kinds():
  """Questions and answers are scripted, so that rewards are known."""
  c = smoke.get_config()
  c.update_from_flattened_dict(
    {
      'mesh.data': 1,
      'random_model.num_layers': 1,
      'task.test': (),
      'task.validation': (),
      'task.checker': 'my_functions:total',
      'task.equivalent_forms': 'my_functions:swapped',
      'task.num_forms': 2,
      'task.proposer_stop': ('\n',),
      'task.solver_stop': ('\n',),
      'task.question_pattern': '',
      'task.answer_pattern': '',
      'gate.functions': ('my_functions:trivial',),
      'exclude.functions': ('my_functions:names_a_person',),
      'proposer.num_questions': 4,
      'proposer.group_size': 4,
      'proposer.reward_functions': (('my_functions:variety', 0.5),),
      'solver.group_size': 4,
      'solver.reward_functions': (('my_functions:brevity', 0.5),),
    }
  )
  parts = build.build(config_lib.from_dict(c.to_dict()))
  game = build.make_game(parts)
  questions = [['7 + 4\n', '0 + 4\n', 'Dr. Sato?\n', '1 + 2\n']]
  # Two answers to 7 + 4, two to 4 + 7, and the same for 1 + 2.
  answers = [
    ['11\n', '11\n'],
    ['11\n', '9\n'],
    ['3\n', 'Mr. X\n'],
    ['3\n', 'x\n'],
  ]
  seen = []
  samplers = game.samplers | {
    'proposer': test_step.scripted_sampler(
      game.samplers['proposer']._replace(slots=12), questions, seen
    ),
    'solver': test_step.scripted_sampler(
      game.samplers['solver']._replace(slots=12), answers, seen
    ),
  }
  _, _, outcome = step_lib.self_play_step(
    0,
    train_states.initial_states(parts),
    build.make_memory(parts.config),
    game._replace(samplers=samplers),
  )
  (game_round,) = outcome.rounds
  prompts = map(parts.tokens.decode, game_round.solutions.prompt_ids)
  asked = [re.search(r'\d \+ \d(?!.*\d \+ \d)', p, re.S)[0] for p in prompts]
  assert asked == ['7 + 4', '4 + 7', '1 + 2', '2 + 1']
  first, trivial, person, last = game_round.questions
  assert trivial.problem.reason == 'trivial'
  assert person.problem.reason == 'person'
  # One word is worth 0.5 / 2 more than the vote.
  assert first.solver_rewards == (1.25, 1.25, 1.25, 0.25)
  assert last.solver_rewards == (1.25, None, 1.25, 0.0)
  # 1 because some agree, and half of the share of different answers.
  assert first.proposer_reward == 1 + 0.5 * 2 / 4
  assert last.proposer_reward == 1 + 0.5 * 1 / 2
  assert outcome.metrics['vote/accuracy'] == 1.0
