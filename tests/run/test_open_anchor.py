"""The anchor of a run: its prompts, its answers, and its effect."""

import re

import jax
import numpy as np
import pytest

from configs import smoke
from sqlm_jax.config import schema as config_lib
from sqlm_jax.game import repetition
from sqlm_jax.modes import train
from sqlm_jax.run import build, train_states
from sqlm_jax.selfplay import step as step_lib

QUESTIONS = ['9 9', '8 8', '7 7']
SMALL = {
  'mesh.data': 1,
  'random_model.num_layers': 1,
  'proposer.train_every': 1,
  'loss.kl_coef': 0.0,
  'optimizer.learning_rate': 0.01,
  'anchor.prompts_per_update': 2,
}


@pytest.fixture(scope='module')
def questions(tmp_path_factory):
  path = tmp_path_factory.mktemp('anchor') / 'questions.txt'
  path.write_text('\n'.join(QUESTIONS), encoding='utf-8')
  return str(path)


def make_config(**changes) -> config_lib.Config:
  c = smoke.get_config()
  c.update_from_flattened_dict(SMALL | changes)
  return config_lib.from_dict(c.to_dict())


@pytest.mark.parametrize(
  'changes, prompt',
  [
    ({}, 'Here is a question: 9 9\nA number: '),
    ({'anchor.template': '{question}'}, '9 9'),
    ({'anchor.template': 'Say {question}!'}, 'Say 9 9!'),
  ],
)
def test_prompts_are_those_of_the_solver_or_of_the_template(
  questions, changes, prompt
):
  parts = build.build(make_config(**{'anchor.questions': questions} | changes))
  assert len(parts.anchor_prompts) == 3
  assert parts.tokens.decode(parts.anchor_prompts[0]) == prompt


def test_without_questions_there_is_no_anchor():
  parts = build.build(make_config())
  assert 'anchor' not in parts.samplers
  assert build.make_game(parts).anchor is None


def test_answers_are_samples_of_the_initial_model(questions):
  """Answers are the same again after a restart, in parts as at once."""
  changes = {'anchor.questions': questions, 'anchor.answers': 512}
  changes |= {'solver.max_tokens': 1, 'solver.temperature': 0.1}
  parts = build.build(make_config(**changes))
  anchor = build.make_game(parts).anchor
  assert anchor.tokens.shape == (3, 512, 1)
  changes['evaluation.batch_questions'] = 2
  again = build.make_game(build.build(make_config(**changes))).anchor
  np.testing.assert_array_equal(again.tokens, anchor.tokens)
  # Their log-probabilities are those of a plain pass over the prompts.
  params = parts.load_params('float32')
  tokens = np.array(parts.anchor_prompts)
  hidden, _ = parts.policy.forward(
    params, tokens, np.full(len(tokens), tokens.shape[1])
  )
  logits = parts.policy.logits(params, hidden[:, -1])
  logps = np.asarray(jax.nn.log_softmax(logits))
  expected = np.take_along_axis(logps, anchor.tokens[..., 0], axis=1)
  np.testing.assert_allclose(anchor.logprobs[..., 0], expected, atol=1e-5)
  # At a temperature of 1, whatever that of the solver: the mean of -log p is
  # the entropy, 5.5 nats, up to five standard errors.
  entropy = -np.sum(np.exp(logps) * logps, axis=1).mean()
  error = anchor.logprobs.std() / np.sqrt(anchor.logprobs.size)
  assert -anchor.logprobs.mean() == pytest.approx(entropy, abs=5 * error)


@pytest.mark.parametrize(
  'changes',
  [
    {'model.lora.rank': 2},
    {
      'policy.shared': False,
      'advantage.estimator': 'gae',
      'optimizer.max_update_kl': 0.01,
    },
  ],
)
def test_the_anchor_holds_the_weights_of_the_solver(questions, changes):
  changes = {'anchor.questions': questions} | changes
  parts = build.build(make_config(**changes))
  game, states = build.make_game(parts), train_states.initial_states(parts)
  _, _, outcome = step_lib.self_play_step(0, states, repetition.Memory(), game)
  metrics = outcome.metrics
  assert game.initial_params is None
  assert metrics['train/solver/anchor_kl'] > 0
  assert metrics['train/solver/skipped_rate'] == 0
  shared = changes.get('policy.shared', True)
  assert ('train/proposer/anchor_kl' in metrics) == shared
  assert 'train/proposer/loss' in metrics


def test_a_file_that_cannot_be_used_is_named(tmp_path):
  missing = str(tmp_path / 'missing.txt')
  config = make_config(**{'anchor.questions': missing})
  message = re.escape(f'anchor.questions={missing!r}: no such file')
  with pytest.raises(FileNotFoundError, match=message):
    train.train(config, str(tmp_path / 'run'))
  assert not (tmp_path / 'run' / 'config.json').exists()
  path = tmp_path / 'questions.txt'
  path.write_text('1 + 1\n' + 'x' * 600, encoding='utf-8')
  config = make_config(**{'anchor.questions': str(path)})
  with pytest.raises(
    ValueError, match=r'anchor.questions=.*prompts of 1 to 512 tokens .*x{80}'
  ):
    build.build(config)
