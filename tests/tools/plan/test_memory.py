"""Predicted memory equals the memory of real arrays."""

import dataclasses
import json
import math
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from sqlm_jax.config import training_schema
from sqlm_jax.distributed import sharding
from sqlm_jax.engine import learner, optimizer
from sqlm_jax.models import layers, lora, policy, unstacked
from tests import tiny
from tools.plan import memory, sizes

CONFIG = dataclasses.replace(tiny.CONFIG, head_width=16)
ROOT = pathlib.Path(__file__).parents[3]


def on_first_device(tree) -> int:
  device = jax.devices()[0]
  return sum(
    shard.data.nbytes
    for x in jax.tree.leaves(tree)
    for shard in x.addressable_shards
    if shard.device == device
  )


@pytest.mark.parametrize('shape', [(1, 8, 1), (1, 4, 2)])
@pytest.mark.parametrize('rank', [0, 3])
@pytest.mark.parametrize('gather', [False, True])
@pytest.mark.parametrize('sampler_dtype', ['', 'float32'])
def test_predictions_equal_real_shards(shape, rank, gather, sampler_dtype):
  axes = dict(zip(sharding.AXES, shape, strict=True))
  mesh = sharding.make_mesh(axes)
  predicted = memory.account(
    CONFIG,
    jax.sharding.AbstractMesh(shape, sharding.AXES),
    dtypes='mixed',
    lora_rank=rank,
    gather_weights=gather,
    sampler_dtype=sampler_dtype,
    gpus=True,
    workload=sizes.Workload(8, 2, 16, 24),
    chunk=4,
  )
  model = policy.make_policy(
    CONFIG,
    dtype='bfloat16',
    param_dtype='float32',
    lora=layers.Lora(rank, 1.0) if rank else None,
  )
  params = model.init(jax.random.key(0))
  trained = lora.adapters(params) if rank else params
  adam = optimizer.make_optimizer(training_schema.Optimizer())
  state = learner.init_state(trained, adam)
  state = jax.device_put(
    state, sharding.shard_like_parameters(state, trained, mesh)
  )
  base = model.cast(lora.base(params))
  base = jax.device_put(base, sharding.shard_parameters(base, mesh))
  frozen = on_first_device(base) if rank else 0
  assert predicted['parameters'] == on_first_device(state.params) + frozen
  assert predicted['gradients'] == 2 * on_first_device(state.params)
  assert predicted['optimizer'] == on_first_device(state.opt_state)
  assert predicted['reference'] == (0 if rank else on_first_device(base))
  sampler = policy.make_policy(CONFIG, dtype=sampler_dtype or 'bfloat16')
  place = sharding.shard_gathered if gather else sharding.shard_parameters

  def put(tree):
    return jax.device_put(tree, place(tree, mesh))

  copied = sampler.cast(params if gather or sampler_dtype else trained)
  if sampler_dtype and not rank and not gather:
    copied = {}  # float32 is what is trained
  assert predicted['sampler copy'] == on_first_device(put(copied))
  unstacked_layers = {}
  if not sampler_dtype:
    decoding_params = unstacked.unstack(put(sampler.cast(params)))
    unstacked_layers = decoding_params['unstacked_layers']
  assert predicted['decoding layers'] == on_first_device(unstacked_layers)
  # The kernel's caches hold 4, 16, 64, ... chunks, and at most the last token.
  cache, response_slots = 0, 24 if sampler_dtype else 28
  for rows, slots in ((8, 16), (16, response_slots)):
    keys = sampler.init_cache(rows, slots).keys
    keys = jax.device_put(keys, sharding.rows_spec(rows, mesh, axis=1))
    cache += 2 * on_first_device(keys)
  assert predicted['cache'] == cache
  total = predicted.pop('total')
  assert total == sum(predicted.values())


# Billions of parameters, from the model cards.
@pytest.mark.parametrize(
  'name, billions',
  [
    ('0.5B', 0.49),
    ('1.5B', 1.54),
    ('3B', 3.09),
    ('7B', 7.61),
    ('14B', 14.7),
    ('32B', 32.5),
  ],
)
def test_shapes_equal_those_of_the_published_models(name, billions):
  model = policy.make_policy(sizes.MODELS[name])
  shapes = jax.eval_shape(model.init, jax.random.key(0))
  count = sum(math.prod(x.shape) for x in jax.tree.leaves(shapes))
  assert count / 1e9 == pytest.approx(billions, rel=0.01)


def run(*words):
  return subprocess.run(
    [sys.executable, '-m', 'tools.plan.memory', *words],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=120,
  )


def test_the_command_prints_a_table_and_json():
  words = ('--models=0.5B,3B', '--devices=1,8')
  process = run(*words)
  assert process.returncode == 0, process.stderr
  lines = [x for x in process.stdout.splitlines() if x.startswith('|')]
  assert len(lines) == 2 + 4
  rows = [
    json.loads(x) for x in run(*words, '--format=json').stdout.split('\n')[:-1]
  ]
  assert [(r['model'], r['devices']) for r in rows] == [
    ('0.5B', 1),
    ('0.5B', 8),
    ('3B', 1),
    ('3B', 8),
  ]
  np.testing.assert_allclose(
    float(lines[2].split('|')[-2]), rows[0]['total'] / 2**30, atol=0.005
  )


@pytest.mark.parametrize(
  'words, message',
  [
    (('--models=9B',), '--models=9B: expected some of 0.5B, 1.5B'),
    (('--devices=6', '--tensor=4'), '--devices=6: expected a positive mult'),
    (('--devices=0',), '--devices=0: expected a positive multiple'),
    (('--devices=many',), 'many'),
    (('--dtypes=int4',), 'int4'),
    (('--model_path=/nowhere',), '--model_path=/nowhere: expected a direct'),
  ],
)
def test_errors_name_the_flag(words, message):
  process = run(*words)
  assert process.returncode
  assert message in process.stdout + process.stderr
  assert 'Traceback' not in process.stderr
