"""Kernels of GPUs and TPUs, interpreted or replaced by XLA on a CPU."""

import dataclasses
import functools
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sqlm_jax.distributed import sharding
from sqlm_jax.engine import decoding, groups, policy_loss, sampler
from sqlm_jax.models import kernels, layers, policy, unstacked
from sqlm_jax.ops import decode_attention, fused_attention
from sqlm_jax.selfplay import batches, packing_plan
from tests import tiny

CONFIG = dataclasses.replace(
  tiny.CONFIG, head_width=16, qkv_bias=True, mlp_bias=True, qk_norm='head'
)
PROMPTS = [
  [*range(20, 32), *rest] for rest in ([5, 6, 7], [9], [5, 250, 3, 2], [8, 8])
]
R = 16


def make_mesh(*shape):
  return sharding.make_mesh(
    dict(zip(sharding.AXES, shape, strict=True)),
    jax.devices()[: math.prod(shape)],
  )


@pytest.fixture
def as_on(monkeypatch):
  """Makes all devices those of a platform."""

  def change(platform):
    monkeypatch.setattr(sharding, 'is_on_cpu', lambda mesh: False)
    monkeypatch.setattr(sharding, f'are_{platform}s', lambda mesh: True)
    monkeypatch.setattr(kernels, '_ON_GPUS', True)
    # Splash attention pads rows, so it supports any width.
    monkeypatch.setattr(kernels.Kernels, 'reads', lambda self, width: width > 1)
    for module, name, options in (
      (decode_attention, 'attend', {'interpret': True}),
      (fused_attention, 'by_cudnn', {'implementation': 'xla'}),
      (fused_attention, 'by_splash', {'interpret': True}),
    ):
      attend = functools.partial(getattr(module, name), **options)
      monkeypatch.setattr(module, name, attend)

  return change


def settings(limit=R):
  table = np.zeros((16, CONFIG.vocab_size), np.uint8)
  table[0, :60] = decoding.STOPPED
  table[decoding.STOPPED :] = decoding.STOPPED
  return sampler.SamplerSettings(
    temperature=np.array([1.0, 1.0, 0.7, 0.0], np.float32),
    top_p=np.array([1.0, 0.9, 1.0, 1.0], np.float32),
    limit=np.int32(limit),
    stop_table=table,
  )


@pytest.mark.parametrize('shape', [(1, 1, 1), (2, 2, 2)])
def test_rollouts_on_gpus(as_on, shape):
  mesh = make_mesh(*shape)
  plain = policy.make_policy(CONFIG, mesh=mesh)
  assert not plain.reads_live
  as_on('gpu')
  fast = policy.make_policy(CONFIG, dtype='bfloat16', mesh=mesh)
  assert fast.reads_live
  params = jax.jit(plain.init)(jax.random.key(0))
  params = jax.device_put(params, sharding.shard_parameters(params, mesh))
  of_mlp = fast.unstack(params)['unstacked_layers']['0']['mlp']
  assert ('gate_up' in of_mlp) == (mesh.shape['tensor'] == 1)
  sample = sampler.Sampler(fast, mesh, chunk=2)
  keys_QG = sampler.response_keys((0,), num_groups=4, group_size=4)
  prompts = batches.pack_prompts(PROMPTS)
  rollout = sample(params, prompts, keys_QG, settings(), slots=R)
  assert rollout.lengths.min() < rollout.lengths.max() == R
  texts = groups.Texts(prompts, rollout.tokens, np.int32(4))
  logprobs = policy_loss.make_logprobs(
    plain, mesh, chunk=64, groups_per_microbatch=4
  )(texts, params)
  live_QGR = np.arange(R) < rollout.lengths[..., None]
  off = np.asarray(rollout.logprobs - logprobs)[live_QGR]
  # Logits have deviation 1 and are rounded to 8 bits. Measured: 0.013 to 0.017
  # by seed, and 0.014 to 0.016 without kernels.
  assert np.sqrt(np.mean(np.square(off))) < 0.022


@pytest.mark.parametrize(
  'platform, shape, packed',
  [
    ('gpu', (1, 1, 1), False),
    ('gpu', (1, 1, 1), True),
    ('gpu', (2, 2, 2), False),
    ('tpu', (1, 1, 1), False),
    ('tpu', (2, 2, 2), True),
    ('tpu', (1, 8, 1), False),  # more devices than prompts
  ],
)
def test_gradients(as_on, platform, shape, packed):
  mesh = make_mesh(*shape)
  make = functools.partial(policy.make_policy, CONFIG, param_dtype='float32')
  halves = functools.partial(make, dtype='bfloat16', remat='dots')
  params = jax.jit(make().init)(jax.random.key(0))
  rng = np.random.default_rng(0)
  tokens = rng.integers(CONFIG.vocab_size, size=(4, 4, 6)).astype(np.int32)
  lengths = rng.integers(1, 7, (4, 4))
  weights = rng.normal(size=tokens.shape)
  weights *= np.arange(6) < lengths[..., None]
  texts = groups.Texts(batches.pack_prompts(PROMPTS), tokens, np.int32(4))
  if packed:
    parts = sharding.row_shards(mesh)
    inputs = (lengths - 1).reshape(parts, -1)
    own = packing_plan.make_packing(
      inputs, 5, int(inputs.sum(axis=1).max()) + 1
    )
    texts = texts._replace(packing=own)

  def gradient(p):
    def total(params):
      logprobs_QGR, _ = policy_loss.response_logprobs(
        p, params, texts, chunk=24
      )
      return jnp.sum(logprobs_QGR * weights)

    return jax.tree.leaves(jax.jit(jax.grad(total))(params))

  exact = gradient(make())

  def distance(p):
    pairs = zip(gradient(p), exact, strict=True)
    return sum(float(jnp.sum(jnp.square(a - b))) for a, b in pairs) ** 0.5

  # Kernels are about as far from float32 as the plain path in bfloat16.
  by_xla = distance(halves())
  as_on(platform)
  assert kernels.find(CONFIG, jnp.bfloat16, mesh).platform == platform
  assert distance(halves(mesh=mesh)) < 1.1 * by_xla


@pytest.mark.parametrize(
  'changes, lora, join',
  [
    ({'qkv_bias': True, 'mlp_bias': True}, None, True),
    ({'qk_norm': 'flat', 'tied_embeddings': False}, None, True),
    ({'windows': (3, 0), 'attention_softcap': 5.0}, None, True),
    ({'qkv_bias': True, 'mlp_bias': True}, None, False),
    ({}, layers.Lora(2, 4.0), True),
  ],
)
def test_unstacked_layers_are_the_same_layers(changes, lora, join):
  config = dataclasses.replace(tiny.CONFIG, **changes)
  p = policy.make_policy(config, lora=lora)
  params = jax.jit(p.init)(jax.random.key(0))

  def fill(x):
    return x if x.ndim > 2 else x + 0.1  # biases start with zeros

  params = jax.tree.map(fill, params)
  unstacked_params = jax.jit(functools.partial(unstacked.unstack, join=join))(
    params
  )
  joined = 'gate_up' in unstacked_params['unstacked_layers']['0']['mlp']
  assert joined == (join and lora is None)
  lengths = np.array([5, 3], np.int32)
  tokens = np.arange(10, dtype=np.int32).reshape(2, 5)
  _, context = p.forward(params, tokens, lengths)
  ones = np.ones(2, np.int32)
  found, expected = (
    p.forward(x, tokens[:, 1:2], ones, (context,))
    for x in (unstacked_params, params)
  )
  for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize(
  'changes, dtype, platform, has',
  [
    ({}, 'bfloat16', 'gpu', True),
    ({}, 'bfloat16', 'tpu', True),
    ({}, 'float32', 'gpu', False),
    ({}, 'float32', 'tpu', False),
    ({'head_width': 24}, 'bfloat16', 'gpu', False),
    ({'head_width': 24}, 'bfloat16', 'tpu', True),
    ({'attention_softcap': 50.0}, 'bfloat16', 'gpu', False),
    ({'attention_softcap': 50.0}, 'bfloat16', 'tpu', False),
    ({'windows': (8, 0)}, 'bfloat16', 'gpu', False),
    ({'windows': (8, 0)}, 'bfloat16', 'tpu', False),
  ],
)
def test_what_has_kernels(as_on, changes, dtype, platform, has):
  config = dataclasses.replace(CONFIG, **changes)
  mesh = make_mesh(1, 1, 1)
  assert kernels.find(config, jnp.dtype(dtype), mesh) is None
  as_on(platform)
  assert kernels.find(config, jnp.dtype(dtype), None) is None
  assert bool(kernels.find(config, jnp.dtype(dtype), mesh)) == has


@pytest.mark.parametrize(
  'platform, module, name',
  [('gpu', kernels, '_ON_GPUS'), ('tpu', fused_attention, 'HAS_SPLASH')],
)
def test_kernels_that_jax_does_not_have(
  as_on, platform, module, name, monkeypatch
):
  as_on(platform)
  monkeypatch.setattr(module, name, False)
  assert kernels.find(CONFIG, jnp.bfloat16, make_mesh(1, 1, 1)) is None


@pytest.mark.parametrize(
  'shape, rows, texts, decodes',
  [
    ((1, 1, 1), 3, (1, 3), True),
    ((2, 2, 1), 8, (1, 4, 8), True),
    ((2, 2, 1), 8, (2, 8), False),  # two devices would share a prompt
    ((2, 2, 1), 6, (6,), False),
    ((1, 1, 2), 3, (1, 3), True),
  ],
)
def test_each_device_decodes_with_its_own_texts(shape, rows, texts, decodes):
  context = tuple((None, None, np.zeros(count)) for count in texts)

  def on(platform):
    return kernels.Kernels(make_mesh(*shape), platform)

  assert on('gpu').decodes(rows, context) == decodes
  assert not on('tpu').decodes(rows, context)


@pytest.mark.parametrize(
  'platform, width, reads',
  [
    ('gpu', 1, False),
    ('gpu', 2, True),
    ('tpu', 127, False),
    ('tpu', 128, True),
  ],
)
def test_how_many_tokens_are_read_by_kernels(platform, width, reads):
  assert kernels.Kernels(make_mesh(1, 1, 1), platform).reads(width) == reads


@pytest.mark.parametrize(
  'kind, capability, are',
  [
    ('NVIDIA H200', '9.0', True),
    ('NVIDIA B200', '10.0', True),
    ('Tesla T4', '7.5', False),
    ('NVIDIA GeForce RTX 2080', '7.5', False),
    ('TPU v5e', None, False),
  ],
)
def test_are_gpus(kind, capability, are):
  device = types.SimpleNamespace(device_kind=kind)
  if capability:
    device.compute_capability = capability
  mesh = types.SimpleNamespace(devices=np.array([[device], [device]]))
  assert sharding.are_gpus(mesh) == are
