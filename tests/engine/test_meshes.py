"""Every mesh of eight devices samples and learns like one device."""

import functools
import math

import jax
import numpy as np
import optax
import pytest

from sqlm_jax.distributed import sharding, transfers
from sqlm_jax.engine import groups, learner, policy_loss, sampler
from sqlm_jax.models import policy
from sqlm_jax.pretrained import families
from sqlm_jax.selfplay import batches, packing_plan

SHAPES = [
  (data, fsdp, 8 // data // fsdp)
  for data in (1, 2, 4, 8)
  for fsdp in (1, 2, 4, 8)
  if data * fsdp <= 8
]
FAMILIES = {
  'llama': {'tie_word_embeddings': False},
  'qwen2': {'tie_word_embeddings': True},
  'gemma2': {'sliding_window': 6, 'head_dim': 8, 'query_pre_attn_scalar': 20},
}
Q, G, R, V = 8, 2, 6, 88
PROMPTS = [[*range(20, 30), 5 + q, 7, *[q] * (q % 3)] for q in range(Q)]


@functools.cache
def make_policy(family, mesh=None):
  """Returns a policy with two key heads, which most meshes cannot split."""
  sizes = {
    'vocab_size': V,
    'hidden_size': 32,
    'intermediate_size': 64,
    'num_hidden_layers': 2,
    'num_attention_heads': 8,
    'num_key_value_heads': 2,
  }
  hf = families.make_hf_config(family, sizes | FAMILIES[family])
  return policy.make_policy(families.read(hf), mesh=mesh)


@functools.cache
def make_params(family):
  """Returns random parameters, without zeros that could hide errors."""
  rng = np.random.default_rng(0)
  params = jax.eval_shape(make_policy(family).init, jax.random.key(0))

  def spread(x):
    return 0.3 if len(x.shape) < 3 else 0.2

  return jax.tree.map(
    lambda x: rng.normal(0, spread(x), x.shape).astype(np.float32), params
  )


def play(family, shape, packed=True):
  """Samples in two chunks, and takes a step on the samples."""
  mesh = sharding.make_mesh(
    dict(zip(sharding.AXES, shape, strict=True)),
    jax.devices()[: math.prod(shape)],
  )
  params = make_params(family)
  params = jax.device_put(params, sharding.shard_parameters(params, mesh))
  reference = jax.tree.map(lambda x: x * 0.99, params)
  sample = sampler.Sampler(
    make_policy(family, mesh),
    mesh,
    chunk=3,
    gather_weights=family == 'qwen2',
  )
  prompts = batches.pack_prompts(PROMPTS)
  rollout = sample(
    params,
    transfers.put_rows(prompts, mesh),
    sampler.response_keys((0, 1), num_groups=Q, group_size=G),
    sampler.SamplerSettings(
      np.ones(G, np.float32),
      np.ones(G, np.float32),
      np.int32(R),
      np.zeros((2, V), np.uint8),
    ),
    slots=R,
  )
  rng = np.random.default_rng(0)
  lengths = rng.integers(1, R, (Q, G))  # shorter than the responses
  batch = groups.GroupBatch(
    prompts,
    rollout.tokens,
    lengths,
    rollout.logprobs,
    rng.normal(size=(Q, G, 1)).astype(np.float32),
    np.full((Q, G), 1 / lengths.sum(), np.float32),
    np.int32(Q),
  )
  if packed:
    inputs = (lengths - 1).reshape(sharding.row_shards(mesh), -1)
    room = int(inputs.sum(axis=1).max()) + 1
    batch = batch._replace(
      packing=packing_plan.make_packing(inputs, R - 1, room)
    )
  # The momentum equals the gradient.
  sgd = optax.sgd(1.0, momentum=0.9)
  state = learner.init_state(params, sgd)
  before = parts_of(state)
  step = learner.make_train_step(
    make_policy(family, mesh),
    sgd,
    mesh,
    policy_loss.LossSettings(kl_coef=0.1),
    groups_per_microbatch=Q,
  )
  state, metrics = step(state, transfers.put_rows(batch, mesh), reference)
  assert parts_of(state) == before
  del metrics['logprob_gap']  # only rounding errors
  return rollout, jax.device_get((state, metrics))


def parts_of(state):
  """Returns the shape of a device's shard of every array."""
  return jax.tree.map(lambda x: x.sharding.shard_shape(x.shape), state)


@functools.cache
def on_one_device(family):
  return play(family, (1, 1, 1), packed=False)


@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize('shape', SHAPES)
def test_samples_and_update_are_those_of_one_device(family, shape):
  rollout, learned = play(family, shape)
  expected_rollout, expected = on_one_device(family)
  np.testing.assert_array_equal(rollout.tokens, expected_rollout.tokens)
  np.testing.assert_allclose(
    rollout.logprobs, expected_rollout.logprobs, atol=1e-4
  )
  # float32: 1e-4 of the largest entry of an array.
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(
      a, b, rtol=0, atol=1e-4 * float(np.abs(b).max()) + 1e-9
    ),
    learned,
    expected,
  )


@pytest.mark.parametrize('family', ['llama', 'qwen2'])
def test_no_device_holds_all_of_the_unembedding(family):
  """Devices exchange rows, which are smaller than the unembedding."""
  mesh = sharding.make_mesh(dict(zip(sharding.AXES, (1, 8, 1), strict=True)))
  p = make_policy(family, mesh)
  params = jax.eval_shape(p.init, jax.random.key(0))

  def place(tree, to):
    return jax.tree.map(
      lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, to
    )

  params = place(params, sharding.shard_parameters(params, mesh))

  def row(dtype, *shape):
    return jax.ShapeDtypeStruct(
      shape, dtype, sharding=sharding.rows_spec(Q, mesh)
    )

  texts = groups.Texts(
    batches.pack_prompts(PROMPTS), row(np.int32, Q, G, R), np.int32(Q)
  )

  def loss(params, texts):
    logprobs_QGR, _ = policy_loss.response_logprobs(
      p, params, texts, chunk=2 * Q
    )
    return logprobs_QGR.sum()

  compiled = jax.jit(jax.grad(loss)).lower(params, texts)
  compiled = compiled.compile().as_text()
  assert (
    'f32[11,32]' in compiled or 'f32[32,11]' in compiled
  )  # the shard of a device
  assert f'f32[{V},32]' not in compiled
  assert f'f32[32,{V}]' not in compiled
