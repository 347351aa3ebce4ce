"""What one GPU does otherwise, on a CPU: kernels interpreted, or by XLA."""

import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sqlm_jax import sharding
from sqlm_jax.engine import groups, learner, sampler
from sqlm_jax.models import decoder, layers, policy
from sqlm_jax.ops import decode_attention, fused_attention
from sqlm_jax.selfplay import batches, packing
from tests import tiny

CONFIG = dataclasses.replace(
  tiny.CONFIG, head_width=16, qkv_bias=True, mlp_bias=True, qk_norm='head'
)
PROMPTS = [[*range(20, 32), *rest] for rest in ([5, 6, 7], [9], [5, 250, 3, 2])]
R = 16


@pytest.fixture(scope='module')
def mesh():
  return sharding.make_mesh(dict.fromkeys(sharding.AXES, 1), jax.devices()[:1])


@pytest.fixture
def as_on_a_gpu(monkeypatch):
  monkeypatch.setattr(sharding, 'is_one_gpu', lambda mesh: True)
  monkeypatch.setattr(sharding, 'is_on_cpu', lambda mesh: False)
  monkeypatch.setattr(decoder, '_KNOWS_KERNELS', True)
  for module, options in (
    (decode_attention, {'interpret': True}),
    (fused_attention, {'implementation': 'xla'}),
  ):
    attend = functools.partial(module.attend, **options)
    monkeypatch.setattr(module, 'attend', attend)


def settings(limit=R):
  table = np.zeros((16, CONFIG.vocab_size), np.uint8)
  table[0, :60] = sampler.STOPPED
  table[sampler.STOPPED :] = sampler.STOPPED
  return sampler.SamplerSettings(
    temperature=np.array([1.0, 1.0, 0.7, 0.0], np.float32),
    top_p=np.array([1.0, 0.9, 1.0, 1.0], np.float32),
    limit=np.int32(limit),
    stop_table=table,
  )


def test_rollouts_and_their_logprobs(as_on_a_gpu, mesh):
  fast = policy.make_policy(CONFIG, dtype='bfloat16', mesh=mesh)
  assert fast.fused
  plain = policy.make_policy(CONFIG)
  assert not plain.fused
  params = jax.jit(plain.init)(jax.random.key(0))
  sample = sampler.make_sampler(fast, mesh, chunk=2)
  keys_QG = sampler.response_keys((0,), num_groups=3, group_size=4)
  prompts = batches.pack_prompts(PROMPTS)
  rollout = sample(params, prompts, keys_QG, settings(), slots=R)
  assert rollout.lengths.min() < rollout.lengths.max() == R
  texts = groups.Texts(prompts, rollout.tokens, np.int32(3))
  logprobs = learner.make_logprobs(
    plain, mesh, chunk=64, groups_per_microbatch=3
  )(texts, params)
  live_QGR = np.arange(R) < rollout.lengths[..., None]
  # Logits deviate by about 1, of which 8 bits are kept.
  np.testing.assert_allclose(
    np.where(live_QGR, rollout.logprobs, 0),
    np.where(live_QGR, logprobs, 0),
    atol=0.05,
  )


@pytest.mark.parametrize('packed', [False, True])
def test_gradients(as_on_a_gpu, mesh, packed):
  make = functools.partial(policy.make_policy, CONFIG, param_dtype='float32')
  halves = functools.partial(make, dtype='bfloat16', remat='dots')
  params = jax.jit(make().init)(jax.random.key(0))
  rng = np.random.default_rng(0)
  tokens = rng.integers(CONFIG.vocab_size, size=(3, 4, 6)).astype(np.int32)
  lengths = rng.integers(1, 7, (3, 4))
  weights = rng.normal(size=tokens.shape)
  weights *= np.arange(6) < lengths[..., None]
  texts = groups.Texts(batches.pack_prompts(PROMPTS), tokens, np.int32(3))
  if packed:
    inputs = (lengths - 1).reshape(1, -1)
    own = packing.make_packing(inputs, 5, int(inputs.sum()) + 1)
    texts = texts._replace(packing=own)

  def gradient(p):
    def total(params):
      logprobs_QGR, _ = learner.response_logprobs(p, params, texts, chunk=24)
      return jnp.sum(logprobs_QGR * weights)

    return jax.tree.leaves(jax.jit(jax.grad(total))(params))

  exact = gradient(make())

  def distance(p):
    pairs = zip(gradient(p), exact, strict=True)
    return sum(float(jnp.sum(jnp.square(a - b))) for a, b in pairs) ** 0.5

  # As far from float32 as the plain path in bfloat16.
  assert distance(halves(mesh=mesh)) < 1.1 * distance(halves())


@pytest.mark.parametrize(
  'changes, lora',
  [
    ({'qkv_bias': True, 'mlp_bias': True}, None),
    ({'qk_norm': 'flat', 'tied_embeddings': False}, None),
    ({'windows': (3, 0), 'attention_softcap': 5.0}, None),
    ({}, layers.Lora(2, 4.0)),
  ],
)
def test_layers_apart_are_the_same_layers(changes, lora):
  config = dataclasses.replace(tiny.CONFIG, **changes)
  p = policy.make_policy(config, lora=lora)
  params = jax.jit(p.init)(jax.random.key(0))
  fill = lambda x: x if x.ndim > 2 else x + 0.1  # biases start with zeros
  params = jax.tree.map(fill, params)
  apart = jax.jit(decoder.take_apart)(params)
  joined = 'gate_up' in apart['layers_apart']['0']['mlp']
  assert joined == (lora is None)
  lengths = np.array([5, 3], np.int32)
  tokens = np.arange(10, dtype=np.int32).reshape(2, 5)
  _, context = p.forward(params, tokens, lengths)
  ones = np.ones(2, np.int32)
  found, expected = (
    p.forward(x, tokens[:, 1:2], ones, (context,)) for x in (apart, params)
  )
  for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize(
  'changes, dtype, has',
  [
    ({}, 'bfloat16', True),
    ({}, 'float32', False),
    ({'head_width': 24}, 'bfloat16', False),
    ({'attention_softcap': 50.0}, 'bfloat16', False),
    ({'windows': (8, 0)}, 'bfloat16', False),
  ],
)
def test_what_has_kernels(changes, dtype, has, monkeypatch):
  config = dataclasses.replace(CONFIG, **changes)
  monkeypatch.setattr(decoder, '_KNOWS_KERNELS', True)
  assert decoder.has_kernels(config, jnp.dtype(dtype)) == has
  monkeypatch.setattr(decoder, '_KNOWS_KERNELS', False)
  assert not decoder.has_kernels(config, jnp.dtype(dtype))


@pytest.mark.parametrize(
  'kind, capability, count, is_one',
  [
    ('NVIDIA H200', '9.0', 1, True),
    ('NVIDIA B200', '10.0', 1, True),
    ('NVIDIA H200', '9.0', 2, False),
    ('Tesla T4', '7.5', 1, False),
    ('NVIDIA GeForce RTX 2080', '7.5', 1, False),
    ('TPU v5e', None, 1, False),
  ],
)
def test_is_one_gpu(kind, capability, count, is_one):
  device = types.SimpleNamespace(device_kind=kind)
  if capability:
    device.compute_capability = capability
  mesh = types.SimpleNamespace(devices=np.array([device] * count))
  assert sharding.is_one_gpu(mesh) == is_one


def test_room_that_costs_nothing_is_given_rarely():
  room = functools.partial(sampler._room, chunk=32)
  lengths = [0, 1, 32, 33, 128, 129, 511, 512, 513, 1024]
  assert [room(n, rarely=False) for n in lengths] == [
    *(32, 32, 32, 64, 128, 192, 512, 512, 768, 1024)
  ]
  assert [room(n, rarely=True) for n in lengths] == [
    *(128, 128, 128, 128, 128, 256, 512, 512, 1024, 1024)
  ]
