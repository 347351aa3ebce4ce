"""Trains the topics of the docs, which consist of a config file only."""

import dataclasses
import importlib.util
import pathlib
import re

import jax
import numpy as np
import pytest

from sqlm_jax.config import schema as config_lib
from sqlm_jax.game import repetition
from sqlm_jax.run import build, train_states
from sqlm_jax.selfplay import step as step_lib
from tests.selfplay import test_step

ROOT = pathlib.Path(__file__).parent.parent
BLOCKS = re.findall(
  r'^```python\n(.*?)^```',
  (ROOT / 'docs' / 'add_a_topic.md').read_text(),
  re.DOTALL | re.MULTILINE,
)
# By task of a code block: a question, a response, the parsed answer, and True
# if the checker knows the answer.
EXAMPLES = {
  'subtraction': ('7 - 4\n', '3\n', 3, True),
  'dates': (
    'How many days lie between 1 March 2024 and 5 April 2024?',
    'March has 31 days, so 31 + 4. <answer> 35 </answer>',
    35,
    False,
  ),
  'defects': (
    'The cut edge shows burrs on every third part.\n',
    ' (A) worn tool.\nReport:',
    'A',
    False,
  ),
}


@pytest.fixture(scope='module', params=BLOCKS, ids=lambda x: x[3:25])
def parts(request, tmp_path_factory):
  """Builds a config of the docs with a tiny model and few tokens."""
  path = tmp_path_factory.mktemp('configs') / 'topic.py'
  path.write_text(request.param)
  spec = importlib.util.spec_from_file_location('topic', path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  c = module.get_config()
  config_lib.from_dict(c.to_dict())  # as it stands, before it is made small
  c.update_from_flattened_dict(
    {
      'model.path': 'random',
      'random_model.num_layers': 1,
      'mesh.data': 1,
      'proposer.num_questions': 2 * len(c.task.topics),
      'proposer.group_size': 2,
      'proposer.max_tokens': 4,
      'solver.group_size': 4,
      'solver.max_tokens': 4,
      'sampler.max_prompt_tokens': 1024,
      'optimizer.solver_updates': 1,
      'optimizer.proposer_updates': 1,
    }
  )
  return build.build(config_lib.from_dict(c.to_dict()))


def test_there_are_topics_to_check():
  assert len(BLOCKS) == len(EXAMPLES)


def test_a_checker_of_the_users_own(parts, tmp_path, monkeypatch):
  """The checker of the docs works for the topic of the docs."""
  if parts.task.name != 'defects':
    return
  text = (ROOT / 'docs' / 'add_a_topic.md').read_text()
  blocks = re.findall(r'^```py\n(.*?)^```', text, re.DOTALL | re.MULTILINE)
  (function,) = (block for block in blocks if 'def cause' in block)
  (tmp_path / 'defect_rules.py').write_text(function)
  monkeypatch.syspath_prepend(tmp_path)
  task = dataclasses.replace(parts.config.task, checker='defect_rules:cause')
  config = dataclasses.replace(parts.config, task=task)
  true_answer = build.build(config).task.true_answer
  assert true_answer('Burrs again.') == 'A'  # read like an answer
  assert true_answer('No idea.') is None
  for wrong in ('defect_rules:effect', 'no_such_rules:cause'):
    task = dataclasses.replace(parts.config.task, checker=wrong)
    with pytest.raises(ValueError, match=f"task.checker='{wrong}': expected"):
      build.build(dataclasses.replace(parts.config, task=task))


def test_a_topic_is_parsed_and_graded(parts):
  question, response, answer, checked = EXAMPLES[parts.task.name]
  problem = parts.task.read_question(question)
  assert (problem.ok, problem.text) == (True, question.strip())
  assert not parts.task.read_question('Hello!').ok
  assert parts.task.read_answers([response, 'no idea']) == (answer, None)
  expected = answer if checked else None
  assert parts.task.true_answer(problem.text) == expected
  for question, true in parts.config.task.test:
    assert parts.task.read_question(question).ok
    (known,) = parts.task.read_answers([true])
    assert known is not None
    assert parts.task.true_answer(question) == (known if checked else None)


def test_a_step_of_a_topic(parts):
  """Questions are scripted, because a random model would never write one."""
  question, *_ = EXAMPLES[parts.task.name]
  topics = parts.task.topics(0)
  script = [[question + '\n', 'Hello!\n'] for _ in topics]
  seen = []
  game = build.make_game(parts)
  roomy = game.samplers['proposer']._replace(slots=len(question) + 1)
  samplers = game.samplers | {
    'proposer': test_step.scripted_sampler(roomy, script, seen)
  }
  states, _, outcome = step_lib.self_play_step(
    0,
    train_states.initial_states(parts),
    repetition.Memory(),
    game._replace(samplers=samplers),
  )
  (played,) = outcome.rounds
  assert len(seen) == 1
  assert outcome.metrics['proposer/valid_rate'] == 1 / 2
  assert len(played.solutions.texts) == len(topics)
  assert all(np.isfinite(list(outcome.metrics.values())))
  # The prompts are those of the docs, with question and topic filled in.
  prompt = parts.tokens.decode(played.solutions.prompt_ids[0])
  assert question.strip() in prompt
  assert '{question}' not in prompt
  shown = parts.tokens.decode(played.proposals.prompt_ids[0])
  assert topics[0] in shown
  for leaf in jax.tree.leaves(states['policy'].params):
    assert np.isfinite(leaf).all()
