"""The critic against forward passes with one unshared sequence per row."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sqlm_jax.distributed import sharding, transfers
from sqlm_jax.engine import critic, groups, learner
from sqlm_jax.models import layers, lora, policy
from sqlm_jax.selfplay import batches, estimates, packing_plan
from tests import tiny

COMMON = list(range(20, 32))
PROMPTS = [
  [*COMMON, 5, 6, 7],
  [*COMMON, 9],
  [*COMMON, 5, 250, 3, 2, 1],
  [*COMMON, 8, 8],
]
Q, G, R = 4, 3, 5
CLIP = 0.5
LEFT_OUT = (1, 2)


@functools.cache
def value_params():
  """Returns a tiny critic whose values are about as large as rewards."""
  params = critic.init_params(tiny.tiny_params(), tiny.CONFIG.width)
  kernel = np.random.default_rng(3).normal(0, 0.2, tiny.CONFIG.width)
  return params | {'value_head': {'kernel': jnp.float32(kernel)}}


def make_batch(**changes) -> groups.GroupBatch:
  rng = np.random.default_rng(0)

  def normal():
    return rng.normal(size=(Q, G, R)).astype(np.float32)

  lengths = rng.integers(1, R + 1, (Q, G)).astype(np.int32)
  lengths[0] = [R, 1, 3]
  weights = np.ones((Q, G), np.float32) / lengths.sum()
  weights[LEFT_OUT] = 0
  batch = groups.GroupBatch(
    prompts=batches.pack_prompts(PROMPTS),
    tokens=rng.integers(0, 300, (Q, G, R)).astype(np.int32),
    lengths=lengths,
    old_logprobs=normal(),
    advantages=normal(),
    weights=weights,
    num_groups=np.int32(Q),
    old_values=normal(),
    value_targets=normal(),
  )
  return batch._replace(**changes)


def texts_of(batch, num_groups=Q) -> groups.Texts:
  return groups.Texts(batch.prompts, batch.tokens, np.int32(num_groups))


def plain_values(params, batch):
  """Computes V [Q, G, R] with one unshared sequence per response."""
  texts = np.zeros((Q, G, tiny.WIDTH), np.int32)
  for q, g in np.ndindex(Q, G):
    text = [*PROMPTS[q], *batch.tokens[q, g].tolist()]
    texts[q, g, : len(text)] = text
  lengths_B = jnp.full((Q * G,), tiny.WIDTH)
  rows_BT = texts.reshape(Q * G, -1)
  hidden_BTD, _ = tiny.tiny_policy().forward(params, rows_BT, lengths_B)
  values_QGT = (hidden_BTD @ params['value_head']['kernel']).reshape(Q, G, -1)
  starts = [len(prompt) - 1 for prompt in PROMPTS]
  return jnp.stack([values_QGT[q, :, s : s + R] for q, s in enumerate(starts)])


def plain_loss(params, batch):
  """Computes the loss directly, over unshared rows."""
  values = plain_values(params, batch)
  total = 0.0
  for q, g in np.ndindex(Q, G):
    for t in range(batch.lengths[q, g]):
      value, old = values[q, g, t], batch.old_values[q, g, t]
      target = batch.value_targets[q, g, t]
      near = jnp.minimum(jnp.maximum(value, old - CLIP), old + CLIP)
      loss = jnp.maximum((value - target) ** 2, (near - target) ** 2) / 2
      total = total + batch.weights[q, g] * loss
  return total


@jax.jit
def shared_loss_and_grad(params, batch):
  def loss(p):
    return critic.value_loss(
      p, batch, policy=tiny.tiny_policy(), value_clip=CLIP
    )

  return jax.value_and_grad(loss, has_aux=True)(params)


@functools.cache
def expected_loss_and_grad():
  batch = make_batch()
  loss = jax.jit(jax.value_and_grad(lambda p: plain_loss(p, batch)))
  return jax.device_get(loss(value_params()))


@functools.cache
def values_of(size: int):
  return critic.make_values(
    tiny.tiny_policy(), make_mesh(1, 1, 1), groups_per_microbatch=size
  )


def make_mesh(*shape):
  return sharding.make_mesh(
    dict(zip(sharding.AXES, shape, strict=True)),
    jax.devices()[: int(np.prod(shape))],
  )


def make_step(mesh, size, optimizer=None, model=None):
  return critic.make_critic_step(
    model or tiny.tiny_policy(),
    optimizer or optax.sgd(1.0),
    mesh,
    value_clip=CLIP,
    groups_per_microbatch=size,
  )


def copied_state(optimizer=None, params=None):
  params = jax.tree.map(jnp.copy, params or value_params())  # it is donated
  return learner.init_state(params, optimizer or optax.sgd(1.0))


def assert_close(actual, expected):
  """Compares up to float32 rounding, 1e-4 of the largest entry."""
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(
      a, b, rtol=0, atol=1e-4 * float(np.abs(b).max()) + 1e-9
    ),
    jax.device_get(actual),
    jax.device_get(expected),
  )


def test_a_critic_starts_as_the_model_with_values_of_zero():
  params = critic.init_params(tiny.tiny_params(tied=False), tiny.CONFIG.width)
  assert 'unembed' not in params
  np.testing.assert_array_equal(
    params['embedding'], tiny.tiny_params(tied=False)['embedding']
  )
  assert params['value_head']['kernel'].dtype == jnp.float32
  untied = tiny.tiny_policy(tied=False)
  values = jax.jit(functools.partial(critic.response_values, untied))(
    params, make_batch()
  )
  np.testing.assert_array_equal(values, np.zeros((Q, G, R)))


@pytest.mark.parametrize('size, num_groups', [(1, 4), (2, 3), (4, 0)])
def test_values_equal_a_plain_unshared_pass(size, num_groups):
  batch = make_batch()
  found = values_of(size)(texts_of(batch, num_groups), value_params())
  expected = np.array(plain_values(value_params(), batch))
  expected[num_groups:] = 0  # not evaluated
  assert_close(found, expected)


def test_a_value_does_not_see_its_own_token():
  """V_t depends on tokens before t only; else GAE's baseline is biased."""
  batch = make_batch()
  other = batch.tokens.copy()
  other[:, :, 2:] = 299
  before = values_of(4)(texts_of(batch), value_params())
  after = values_of(4)(texts_of(batch._replace(tokens=other)), value_params())
  np.testing.assert_array_equal(before[..., :3], after[..., :3])
  assert np.abs(before - after)[..., 3:].min() > 0


@pytest.mark.parametrize('packed', [False, True])
def test_loss_and_gradient_equal_the_plain_ones(packed):
  batch = make_batch()
  if packed:
    inputs = np.where(batch.weights != 0, batch.lengths - 1, 0).reshape(1, -1)
    own = packing_plan.make_packing(inputs, R - 1, int(inputs.sum()) + 1)
    batch = batch._replace(packing=own)
  (loss, _), grads = shared_loss_and_grad(value_params(), batch)
  expected, expected_grads = expected_loss_and_grad()
  assert float(loss) == pytest.approx(float(expected), rel=1e-4)
  assert_close(grads, expected_grads)
  assert np.abs(grads['layers']['attention']['query']['kernel']).max() > 0


def test_padding_does_not_reach_loss_or_gradient():
  """Absurd numbers in padding and in rows of weight 0 have no effect."""
  absurd = make_batch()
  behind = np.arange(R) >= absurd.lengths[..., None]
  absurd.tokens[behind] = 299
  absurd.old_values[behind] = np.nan
  absurd.value_targets[behind] = np.inf
  absurd.value_targets[LEFT_OUT] = np.nan
  jax.tree.map(
    np.testing.assert_array_equal,
    shared_loss_and_grad(value_params(), make_batch()),
    shared_loss_and_grad(value_params(), absurd),
  )


def test_where_nothing_counts_there_is_no_gradient():
  nothing = make_batch(weights=np.zeros((Q, G), np.float32))
  (loss, metrics), grads = shared_loss_and_grad(value_params(), nothing)
  assert loss == metrics['value'][1] == metrics['clip_fraction'][1] == 0
  assert not any(np.any(x) for x in jax.tree.leaves(grads))


@functools.cache
def whole_step():
  """Parameters and metrics after one step of plain SGD on one device."""
  state, metrics = make_step(make_mesh(1, 1, 1), Q)(
    copied_state(), make_batch()
  )
  assert state.step == 1
  return jax.device_get((state.params, metrics))


def test_a_step_goes_down_the_gradient_of_the_plain_loss():
  loss, grads = expected_loss_and_grad()
  params, metrics = whole_step()
  assert_close(params, jax.tree.map(lambda p, g: p - g, value_params(), grads))
  assert metrics['loss'][0] == pytest.approx(float(loss), rel=1e-4)
  norm = np.sqrt(sum(np.square(g).sum() for g in jax.tree.leaves(grads)))
  assert metrics['grad_norm'][0] == pytest.approx(norm, rel=1e-4)


def test_metrics_are_over_what_is_learned_from():
  batch = make_batch()
  _, metrics = whole_step()
  mask = np.arange(R) < batch.lengths[..., None]
  mask[LEFT_OUT] = False
  values = np.asarray(plain_values(value_params(), batch))[mask]
  old, targets = batch.old_values[mask], batch.value_targets[mask]
  near = np.clip(values, old - CLIP, old + CLIP)
  clipped = (near - targets) ** 2 > (values - targets) ** 2
  assert 0 < clipped.sum() < clipped.size  # otherwise the test is too weak
  assert metrics['clip_fraction'] == (clipped.sum(), mask.sum())
  assert metrics['value'][1] == mask.sum()
  assert metrics['value'][0] == pytest.approx(values.sum(), rel=1e-4)
  explained, total = metrics['explained_variance']
  expected = 1 - np.var(targets - old) / np.var(targets)
  assert explained / total == pytest.approx(expected, rel=1e-4)


def test_microbatches_do_not_change_the_update():
  state, metrics = make_step(make_mesh(1, 1, 1), 1)(
    copied_state(), make_batch()
  )
  assert_close((state.params, metrics), whole_step())


@pytest.mark.parametrize('shape', [(8, 1, 1), (1, 2, 2), (2, 2, 2)])
def test_every_mesh_gives_values_and_step_of_one_device(shape):
  mesh = make_mesh(*shape)

  def place():
    return jax.tree.map(
      jax.device_put,
      jax.device_get(value_params()),
      sharding.shard_parameters(value_params(), mesh),
    )

  batch = transfers.put_rows(make_batch(), mesh)
  values = critic.make_values(tiny.tiny_policy(), mesh, groups_per_microbatch=Q)
  texts = transfers.put_rows(texts_of(make_batch()), mesh)
  assert_close(
    values(texts, place()), plain_values(value_params(), make_batch())
  )
  state = learner.init_state(place(), optax.sgd(1.0))
  state, metrics = make_step(mesh, Q)(state, batch)
  assert_close((state.params, metrics), whole_step())


def test_adapters_and_head_train_on_a_frozen_base():
  model = policy.make_policy(tiny.CONFIG, lora=layers.Lora(rank=2, alpha=4.0))
  whole = jax.jit(model.init)(jax.random.key(1))
  trained = critic.init_params(lora.adapters(whole), tiny.CONFIG.width)
  kernel = value_params()['value_head']['kernel']
  trained |= {'value_head': {'kernel': kernel}}
  step = make_step(make_mesh(1, 1, 1), Q, model=model)
  base, batch = lora.base(whole), make_batch()
  state, metrics = step(copied_state(params=trained), batch, base)
  loss_of = functools.partial(critic.value_loss, policy=model, value_clip=CLIP)
  loss, _ = jax.jit(loss_of)(lora.join(base, trained), batch)
  assert metrics['loss'][0] == pytest.approx(float(loss), rel=1e-4)
  changed = jax.tree.map(
    lambda a, b: bool(np.any(a != b)), state.params, trained
  )
  # At first b is 0, so the gradient of a is 0.
  assert changed['value_head']['kernel']
  assert changed['layers']['mlp']['down'] == {'lora_a': False, 'lora_b': True}


def test_values_approach_a_reward_that_never_changes():
  """Repeated updates, as in a step, move V from 0 to the reward."""
  optimizer = optax.adam(1e-2)
  step = make_step(make_mesh(1, 1, 1), Q, optimizer)
  fresh = critic.init_params(tiny.tiny_params(), tiny.CONFIG.width)
  state = copied_state(optimizer, fresh)
  batch, rewards = make_batch(), np.full((Q, G), 0.7, np.float32)
  rollout = groups.Rollout(None, None, None, batch.lengths, None)
  scored = batches.ScoredResponses(
    None, rollout, rewards, mask=batch.weights != 0
  )
  mask = np.arange(R) < batch.lengths[..., None]
  mask[LEFT_OUT] = False
  errors = []
  for _ in range(30):
    values = np.asarray(values_of(4)(texts_of(batch), state.params))
    errors.append(np.abs(values - 0.7)[mask].max())
    advantages = estimates.of_tokens(scored, values, gamma=1.0, gae_lambda=1.0)
    state, _ = step(
      state,
      batch._replace(
        old_values=advantages.values,
        value_targets=advantages.value_targets,
      ),
    )
  assert errors[0] == pytest.approx(0.7)
  assert errors[-1] < 0.1
