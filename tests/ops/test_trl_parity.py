"""Agreement with TRL.

The tests call internal methods of the trainers of TRL 1.16.0, which no longer
has PPO. A trainer is created without `__init__`, with only the attributes that
one method reads, and its model is replaced by given log-probabilities.
"""

import collections
import contextlib
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sqlm_jax.ops import advantages as advantage_ops
from sqlm_jax.ops import logprobs as logprob_ops
from sqlm_jax.ops import losses, masked

pytestmark = pytest.mark.filterwarnings('ignore')  # theirs

trl = pytest.importorskip('trl')
torch = pytest.importorskip('torch')
accelerate = pytest.importorskip('accelerate')

Q, G, R = 6, 4, 7
CLOSE = {'rtol': 1e-5, 'atol': 1e-7}  # float32 on both sides


@contextlib.contextmanager
def internals():
  """Skips the test if another version of TRL lacks the internals."""
  try:
    yield
  except AttributeError as error:
    pytest.skip(f'TRL {trl.__version__} is not 1.16.0: {error}')


def make_trainer(kind, **attributes):
  """Returns a trainer of TRL with only the given attributes."""
  module = pytest.importorskip(f'trl.trainer.{kind}_trainer')
  with internals():
    trainer = object.__new__(getattr(module, f'{kind.upper()}Trainer'))
  model = types.SimpleNamespace(training=True, is_gradient_checkpointing=False)
  defaults = {
    '_metrics': {'train': collections.defaultdict(list)},
    'accelerator': accelerate.Accelerator(cpu=True),
    'aux_loss_enabled': False,
    'beta': 0.0,
    'model': model,
    'use_vllm': False,
  }
  for name, value in (defaults | attributes).items():
    setattr(trainer, name, value)
  return trainer


# Advantages: `_generate_and_score_completions`, from rewards to advantages.


def their_advantages(kind, rewards, counted, **attributes):
  """Returns TRL's advantages [Q, G]; rewards that do not count are nan."""
  rows = rewards.size
  table = torch.tensor(np.where(counted, rewards, np.nan)).reshape(rows, 1)
  tokens = [[1]] * rows
  generated = {
    'grpo': (tokens, tokens, None, [''] * rows, None, {}, None, None),
    'rloo': (tokens, tokens, [''] * rows),
  }[kind]
  no_logprobs = (torch.zeros(rows, 1), None, None)
  trainer = make_trainer(
    kind,
    _calculate_rewards=lambda *args: table,
    _generate=lambda prompts: generated,
    _get_per_token_logps_and_entropies=lambda *args, **kwargs: no_logprobs,
    _logs=collections.defaultdict(
      list, rewards=collections.defaultdict(list), extra={}
    ),
    _pending_extra_logs={},
    _pending_metrics={},
    _tokenizer=types.SimpleNamespace(pad_token_id=0),
    args=types.SimpleNamespace(
      gradient_accumulation_steps=1,
      gradient_checkpointing_kwargs=None,
      per_device_train_batch_size=rows,
      steps_per_generation=1,
    ),
    environment_factories=None,
    environments=None,
    log_multimodal=False,
    mask_truncated_completions=False,
    multi_objective_aggregation='sum_then_normalize',
    num_generations=rewards.shape[1],
    num_iterations=1,
    pad_to_multiple_of=None,
    reward_clip_range=None,
    reward_func_names=['reward'],
    reward_weights=torch.ones(1),
    tools=None,
    **attributes,
  )
  with internals():
    batch = trainer._generate_and_score_completions([{'prompt': ''}] * rows)
  return batch['advantages'].numpy().reshape(rewards.shape)


def groups_of_rewards(seed):
  """Returns random groups, with one tied, one of one reward and one empty."""
  random = np.random.default_rng(seed)
  rewards = random.normal(size=(Q, G)).astype(np.float32)
  counted = random.random((Q, G)) < 0.8
  rewards[0], counted[0] = 2.0, True
  counted[1] = [True, False, False, False]
  counted[2] = False
  return rewards, counted


GROUP_RELATIVE = {
  'group': lambda r, c: advantage_ops.group_relative(r, c, epsilon=1e-4),
  'none': lambda r, c: advantage_ops.group_relative(r, c, normalize=False),
  'batch': lambda r, c: advantage_ops.group_mean_batch_std(r, c, epsilon=1e-4),
}


@pytest.mark.parametrize('scale', GROUP_RELATIVE)
@pytest.mark.parametrize('seed', range(3))
def test_group_relative_advantages(scale, seed):
  rewards, counted = groups_of_rewards(seed)
  expected = their_advantages('grpo', rewards, counted, scale_rewards=scale)
  got = GROUP_RELATIVE[scale](rewards, counted)
  np.testing.assert_allclose(got, expected, **CLOSE)
  assert np.any(expected)


@pytest.mark.parametrize('seed', range(3))
def test_leave_one_out_advantages(seed):
  rewards, counted = groups_of_rewards(seed)

  def theirs(normalize):
    return their_advantages(
      'rloo', rewards, counted, normalize_advantages=normalize
    )

  got = advantage_ops.leave_one_out(rewards, counted)
  np.testing.assert_allclose(got, theirs(False), **CLOSE)
  # TRL excludes groups of one from the statistics of the batch.
  usable = counted & (counted.sum(axis=1, keepdims=True) > 1)
  got = advantage_ops.whiten(got, usable, epsilon=1e-4)
  np.testing.assert_allclose(got, theirs(True), **CLOSE)


# The loss: `_compute_loss`, from log-probabilities to loss and gradient.


def make_batch(seed):
  """Returns log-probabilities [Q * G, R] that differ enough to be clipped."""
  random = np.random.default_rng(seed)
  old = -random.exponential(size=(Q * G, R))

  def shift(scale):
    return scale * random.normal(size=old.shape)

  lengths = random.integers(1, R + 1, Q * G)
  return {
    'logprobs': old + shift(0.8),
    'old_logprobs': old,
    'reference_logprobs': old + shift(0.5),
    'entropy': random.exponential(size=old.shape),
    'advantages': random.normal(size=Q * G),
    'mask': np.arange(R) < lengths[:, None],
  }


def their_loss(
  batch, *, average, sequence, clip, clip_high, dual_clip, kl, bonus
):
  """Returns TRL's loss, its two gradients and its clip fraction."""
  rows = {k: torch.tensor(v, dtype=torch.float32) for k, v in batch.items()}
  logprobs = rows['logprobs'].requires_grad_()
  entropy = rows['entropy'].requires_grad_()
  trainer = make_trainer(
    'grpo',
    _entropy_bonus_enabled=bool(bonus),
    _get_per_token_logps_and_entropies=lambda *args, **kwargs: (
      logprobs,
      entropy,
      None,
    ),
    args=types.SimpleNamespace(
      delta=dual_clip, steps_per_generation=1, use_bias_correction_kl=False
    ),
    beta=kl,
    current_gradient_accumulation_steps=1,
    entropy_coef=bonus,
    epsilon_high=clip_high,
    epsilon_low=clip,
    importance_sampling_level='sequence' if sequence else 'token',
    loss_type=average,
    max_completion_length=R,
    off_policy_mask_threshold=None,
    top_entropy_quantile=1.0,
    use_adaptive_entropy=False,
  )
  inputs = {
    'advantages': rows['advantages'],
    'completion_ids': torch.zeros(Q * G, R, dtype=torch.int64),
    'completion_mask': rows['mask'],
    'num_items_in_batch': rows['mask'].sum(),
    'old_per_token_logps': rows['old_logprobs'],
    'prompt_ids': torch.zeros(Q * G, 1, dtype=torch.int64),
    'prompt_mask': torch.ones(Q * G, 1),
    'ref_per_token_logps': rows['reference_logprobs'],
  }
  with internals():
    loss = trainer._compute_loss(trainer.model, inputs)
  loss.backward()
  none = torch.zeros_like(entropy)
  return (
    loss.item(),
    logprobs.grad.numpy(),
    (none if entropy.grad is None else entropy.grad).numpy(),
    trainer._metrics['train']['clip_ratio/region_mean'][0],
  )


AVERAGES = {
  'grpo': 'sequence',
  'bnpo': 'token',
  'dapo': 'token',
  'dr_grpo': 'constant',
}


def our_loss(
  batch, *, average, sequence, clip, clip_high, dual_clip, kl, bonus
):
  """Computes the loss with this package's functions; padding is nan."""
  shape = (Q, G, R)
  mask = batch['mask'].reshape(shape)

  def take(name):
    return jnp.where(
      mask, jnp.array(batch[name], jnp.float32).reshape(shape), jnp.nan
    )

  old, reference = take('old_logprobs'), take('reference_logprobs')
  advantages = jnp.array(batch['advantages'], jnp.float32).reshape(Q, G, 1)
  counted, lengths = np.ones((Q, G), bool), mask.sum(axis=-1)

  def weigh(average):
    return losses.token_weights(
      lengths, counted, aggregation=average, max_tokens=R
    )[..., None]

  @jax.jit
  def loss_of(logprobs, entropy):
    pair = (logprobs, jnp.where(mask, old, logprobs))
    if sequence:
      log_ratio = losses.sequence_log_ratio(*pair, mask)
      pair = (log_ratio, jnp.zeros_like(log_ratio))
    loss, clipped = losses.clipped_surrogate(
      *pair,
      advantages,
      clip_ratio=clip,
      clip_ratio_high=clip_high,
      dual_clip=dual_clip,
    )
    loss += kl * losses.kl_k3(logprobs, jnp.where(mask, reference, logprobs))
    # TRL's bonus is a mean over all tokens, whatever the aggregation.
    loss = loss * weigh(AVERAGES[average])
    loss += losses.entropy_bonus(entropy, entropy_coef=bonus) * weigh('token')
    return masked.total(loss, mask), masked.mean(clipped, mask)

  grad = jax.value_and_grad(loss_of, argnums=(0, 1), has_aux=True)
  (value, clipped), grads = grad(
    jnp.where(mask, take('logprobs'), 0), take('entropy')
  )
  return value, *(grad.reshape(Q * G, R) for grad in grads), clipped


PLAIN = {
  'average': 'grpo',
  'sequence': False,
  'clip': 0.2,
  'clip_high': 0.2,
  'dual_clip': None,
  'kl': 0.0,
  'bonus': 0.0,
}


@pytest.mark.parametrize(
  'settings',
  [
    *(pytest.param({'average': name}, id=name) for name in AVERAGES),
    pytest.param({'clip_high': 0.28, 'average': 'dapo'}, id='clip-high'),
    pytest.param({'dual_clip': 1.5}, id='dual-clip'),
    pytest.param({'kl': 0.04}, id='kl'),
    pytest.param({'bonus': 0.01}, id='entropy'),
    *(
      pytest.param(
        {'sequence': True, 'clip': 0.1, 'clip_high': 0.15, 'average': name},
        id=f'gspo-{name}',
      )
      for name in AVERAGES
    ),
    pytest.param(
      {
        'average': 'dr_grpo',
        'sequence': True,
        'clip': 0.05,
        'clip_high': 0.1,
        'dual_clip': 1.2,
        'kl': 0.1,
        'bonus': 0.02,
      },
      id='all',
    ),
  ],
)
def test_loss_and_gradients(settings):
  batch, settings = make_batch(0), PLAIN | settings
  theirs, ours = their_loss(batch, **settings), our_loss(batch, **settings)
  for got, expected in zip(ours[:3], theirs[:3], strict=True):
    np.testing.assert_allclose(got, expected, **CLOSE)
  # TRL counts a sequence once, and ignores the dual clip.
  if not (settings['sequence'] or settings['dual_clip']):
    np.testing.assert_allclose(ours[3], theirs[3], **CLOSE)
  # Some tokens were clipped and have no gradient, but not all.
  if not settings['kl']:
    assert 0.1 < np.mean((theirs[1] == 0)[batch['mask']]) < 0.9


def test_log_probabilities_and_entropy():
  functions = pytest.importorskip('trl.trainer.utils')
  random = np.random.default_rng(0)
  logits = random.normal(scale=4, size=(20, 50)).astype(np.float32)
  tokens = random.integers(50, size=20)
  logprobs, entropy = logprob_ops.chosen(
    jnp.array(logits), jnp.array(tokens)[:, None]
  )
  with internals():
    theirs = (
      functions.selective_log_softmax(
        torch.tensor(logits), torch.tensor(tokens)
      ),
      functions.entropy_from_logits(torch.tensor(logits)),
    )
  np.testing.assert_allclose(logprobs[:, 0], theirs[0].numpy(), **CLOSE)
  np.testing.assert_allclose(entropy, theirs[1].numpy(), **CLOSE)
