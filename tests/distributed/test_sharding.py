"""Shardings of every array on eight devices."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from sqlm_jax.config import training_schema
from sqlm_jax.distributed import sharding
from sqlm_jax.engine import critic, optimizer
from sqlm_jax.models import layers, lora, policy
from sqlm_jax.pretrained import families as families_lib
from tests import tiny
from tests.pretrained import families


@functools.cache
def mesh(data=2, fsdp=2, tensor=2):
  return sharding.make_mesh({'data': data, 'fsdp': fsdp, 'tensor': tensor})


def abstract_params(tied=True):
  return jax.eval_shape(tiny.tiny_policy(tied).init, jax.random.key(0))


def by_name(tree):
  return {
    '/'.join(key.key for key in path): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


# Specs written by hand: of every matrix, both axes are split, except for the
# width of heads.
TIED = {
  'embedding': P('tensor', 'fsdp'),
  'final_norm/scale': P(),
  'layers/attention_norm/scale': P(),
  'layers/mlp_norm/scale': P(),
  'layers/attention/query/kernel': P(None, 'fsdp', 'tensor'),
  'layers/attention/key/kernel': P(None, 'fsdp', 'tensor'),
  'layers/attention/value/kernel': P(None, 'fsdp', 'tensor'),
  'layers/attention/output/kernel': P(None, 'tensor', None, 'fsdp'),
  'layers/mlp/gate/kernel': P(None, 'fsdp', 'tensor'),
  'layers/mlp/up/kernel': P(None, 'fsdp', 'tensor'),
  'layers/mlp/down/kernel': P(None, 'tensor', 'fsdp'),
}
UNTIED = TIED | {'unembed/kernel': P('fsdp', 'tensor')}


@pytest.mark.parametrize('tied, expected', [(True, TIED), (False, UNTIED)])
def test_every_parameter_has_its_place(tied, expected):
  shardings = sharding.shard_parameters(abstract_params(tied), mesh())
  found = by_name(shardings)
  assert {name: s.spec for name, s in found.items()} == expected
  assert {s.mesh for s in found.values()} == {mesh()}


# Parameters of other families, and adapters: biases are split like the outputs
# of their map, and ranks are not split.
_HEADS, _MLP = ('query', 'key', 'value'), ('gate', 'up')
OTHERS = {
  **{f'layers/attention/{x}/bias': P(None, 'tensor') for x in _HEADS},
  **{f'layers/mlp/{x}/bias': P(None, 'tensor') for x in _MLP},
  'layers/attention/output/bias': P(None, 'fsdp'),
  'layers/mlp/down/bias': P(None, 'fsdp'),
  'layers/attention_post_norm/scale': P(),
  'layers/mlp_post_norm/scale': P(),
  'layers/attention/query_norm/scale': P(),
  'layers/attention/key_norm/scale': P(),
}
ADAPTERS = {
  **{f'layers/attention/{x}/lora_a': P(None, 'fsdp') for x in _HEADS},
  **{f'layers/attention/{x}/lora_b': P(None, None, 'tensor') for x in _HEADS},
  **{f'layers/mlp/{x}/lora_a': P(None, 'fsdp') for x in _MLP},
  **{f'layers/mlp/{x}/lora_b': P(None, None, 'tensor') for x in _MLP},
  'layers/attention/output/lora_a': P(None, 'tensor'),
  'layers/attention/output/lora_b': P(None, None, 'fsdp'),
  'layers/mlp/down/lora_a': P(None, 'tensor'),
  'layers/mlp/down/lora_b': P(None, None, 'fsdp'),
}


@pytest.mark.parametrize(
  'name', [name for name in families.CASES if 'odd' not in name]
)
def test_every_family_and_its_adapters_have_their_place(name):
  hf = families.config_of(name, vocab_size=96)
  model = policy.make_policy(
    families_lib.read(hf), lora=layers.Lora(rank=2, alpha=1.0)
  )
  params = jax.eval_shape(model.init, jax.random.key(0))
  expected = UNTIED | OTHERS | ADAPTERS
  found = by_name(sharding.shard_parameters(params, mesh()))
  assert found.keys() >= ADAPTERS.keys()
  for path, placed in found.items():
    assert placed.spec == expected[path], path
  # The moments of adapters, and a critic with its head.
  trained = critic.init_params(lora.adapters(params), hf.hidden_size)
  state = jax.eval_shape(optax.adam(1e-3).init, trained)
  moments = sharding.shard_like_parameters(state, trained, mesh())
  found = by_name(moments[0].mu)
  assert {path: x.spec for path, x in found.items()} == ADAPTERS | {
    'value_head/kernel': P()
  }


@pytest.mark.parametrize(
  'rows, heads, expected',
  [
    (8, 2, P(None, ('data', 'fsdp'), 'tensor')),
    (8, 3, P(None, ('data', 'fsdp'), None)),
    (6, 2, P(None, None, 'tensor')),
  ],
)
def test_keys_and_values_are_split_by_row_and_head(rows, heads, expected):
  constrain = jax.jit(lambda x: sharding.constrain_cache(x, mesh()))
  put = constrain(jnp.zeros((2, rows, heads, 4, 8)))
  same = jax.sharding.NamedSharding(mesh(), expected)
  assert put.sharding.is_equivalent_to(same, put.ndim)


def test_a_matrix_is_split_over_fsdp_and_tensor():
  params = jax.device_put(
    tiny.tiny_params(), sharding.shard_parameters(tiny.tiny_params(), mesh())
  )
  for name, x in by_name(params).items():
    parts = 1 if name.endswith('scale') else 4
    assert x.addressable_shards[0].data.size == x.size // parts, name


@pytest.mark.parametrize(
  'path, shape, expected',
  [
    # Three heads over two devices, an odd vocabulary, an odd width.
    ('layers/attention/key/kernel', (2, 32, 3, 8), P(None, 'fsdp', None)),
    ('layers/attention/query/kernel', (2, 31, 4, 8), P(None, None, 'tensor')),
    ('embedding', (301, 32), P(None, 'fsdp')),
    ('unembed/kernel', (32, 301), P('fsdp', None)),
    ('layers/attention/output/kernel', (2, 3, 8, 31), P(*[None] * 4)),
    ('layers/new_norm/scale', (2, 32), P()),
  ],
)
def test_what_does_not_divide_stays_whole(path, shape, expected):
  assert sharding.parameter_spec(path, shape, mesh()) == expected


@pytest.mark.parametrize(
  'path',
  [
    'layers/attention/bias/kernel',
    'embedding/kernel',
    'layers/embedding',  # rules match whole paths
    'head/unembed/kernel',
    '',
  ],
)
def test_unknown_parameter_is_named(path):
  with pytest.raises(ValueError, match=f'^{path}: no sharding rule'):
    sharding.parameter_spec(path, (4, 4), mesh())


def test_unknown_parameter_of_a_tree_is_named():
  tree = abstract_params() | {'lora': {'a': jnp.ones((4, 4))}}
  with pytest.raises(ValueError, match=r'^lora/a: no sharding rule'):
    sharding.shard_parameters(tree, mesh())


@pytest.mark.parametrize(
  'spec, shape, message',
  [
    (P('fsdp', 'fsdp'), (4, 4), "^new: rule 'n.w' uses an axis twice"),
    (P('fsdp', None, 'tensor'), (4, 4), "^new: rule 'n.w' has more dimensions"),
  ],
)
def test_wrong_rules_are_found(monkeypatch, spec, shape, message):
  rules = (('n.w', spec), *sharding.PARAMETER_RULES)
  monkeypatch.setattr(sharding, 'PARAMETER_RULES', rules)
  with pytest.raises(ValueError, match=message):
    sharding.parameter_spec('new', shape, mesh())


def test_the_first_rule_counts(monkeypatch):
  rules = (('embedding', P('data')), *sharding.PARAMETER_RULES)
  monkeypatch.setattr(sharding, 'PARAMETER_RULES', rules)
  assert sharding.parameter_spec('embedding', (4, 4), mesh()) == P('data')


@pytest.mark.parametrize(
  'sizes, expected',
  [
    ((-1, 1, 1), (8, 1, 1)),
    ((1, -1, 1), (1, 8, 1)),
    ((2, -1, 2), (2, 2, 2)),
    ((2, 2, -1), (2, 2, 2)),
    ((8, -1, 1), (8, 1, 1)),
    ((1, 1, 1), (1, 1, 1)),  # fewer devices than there are
    ((1, 3, 2), (1, 3, 2)),
    ((2, 2, 2), (2, 2, 2)),
  ],
)
def test_make_mesh(sizes, expected):
  made = sharding.make_mesh(dict(zip(sharding.AXES, sizes, strict=True)))
  assert made.axis_names == sharding.AXES
  assert tuple(made.shape.values()) == expected
  assert made.devices.size == np.prod(expected)


@pytest.mark.parametrize(
  'sizes',
  [
    (3, -1, 1),  # does not divide eight
    (16, -1, 1),
    (-1, -1, 1),
    (-1, -1, -1),
    (4, 4, 1),
    (9, 1, 1),
    (0, 1, 1),
    (-1, 0, 1),
    (-2, -2, 1),
    (-2, 1, -1),
  ],
)
def test_impossible_meshes(sizes):
  shape = dict(zip(sharding.AXES, sizes, strict=True))
  with pytest.raises(ValueError, match=r'mesh=.*: expected sizes for 8 dev'):
    sharding.make_mesh(shape)


def devices_of_slices(count, size):
  """Returns substitutes for TPU devices, with the attributes that we use."""
  return [
    types.SimpleNamespace(
      id=i,
      platform='tpu',
      device_kind='TPU v4',
      coords=(i % 2, i // 2 % 2, 0),
      core_on_chip=0,
      slice_index=i // size,
      process_index=i // size,
    )
    for i in range(count * size)
  ]


@pytest.mark.parametrize(
  'sizes, axis', [((2, 2, 2), 0), ((4, 1, 2), 0), ((1, 8, 1), 1)]
)
def test_only_one_axis_crosses_slices(sizes, axis):
  arranged = sharding.across_slices(list(sizes), devices_of_slices(2, 4))
  assert arranged.shape == sizes
  slices = np.vectorize(lambda device: device.slice_index)(arranged)
  halves = np.split(slices, 2, axis)
  assert [set(half.flat) for half in halves] == [{0}, {1}]


def torus(*sides):
  """The chips of one slice."""
  return [
    types.SimpleNamespace(
      id=i,
      platform='tpu',
      device_kind='TPU v5',
      coords=coords,
      core_on_chip=0,
      slice_index=0,
      process_index=0,
    )
    for i, coords in enumerate(np.ndindex(*sides))
  ]


@pytest.mark.parametrize('sizes', [(1, 32, 2), (2, 16, 2), (8, 8, 1)])
def test_an_axis_takes_a_part_of_one_of_the_torus(sizes):
  chips = torus(4, 4, 4)
  arranged = sharding.within_slice(list(sizes), chips)
  assert arranged.shape == sizes
  assert {device.id for device in arranged.flat} == set(range(64))
  # The last axis communicates most, so its devices are neighbors.
  if sizes[-1] == 2:
    one, other = (device.coords for device in arranged[0, 0])
    assert sum(abs(a - b) for a, b in zip(one, other, strict=True)) == 1


def test_slices_that_no_axis_can_cross():
  with pytest.raises(ValueError, match=r'mesh\.data=1: .* of the 2 slices'):
    sharding.across_slices([1, 1, 8], devices_of_slices(2, 4))


def test_mesh_of_some_devices():
  some = jax.devices()[4:6]
  shape = {'data': -1, 'fsdp': 1, 'tensor': 1}
  made = sharding.make_mesh(shape, some)
  assert set(made.devices.flat) == set(some)


@pytest.mark.parametrize(
  'size, axis, expected',
  [
    (8, 0, P(('data', 'fsdp'))),
    (4, 0, P(('data', 'fsdp'))),
    (4, 1, P(None, ('data', 'fsdp'))),
    (4, 2, P(None, None, ('data', 'fsdp'))),
    (6, 0, P()),  # not divisible by four
    (2, 0, P()),
    (1, 1, P()),
  ],
)
def test_rows_spec(size, axis, expected):
  assert sharding.rows_spec(size, mesh(), axis).spec == expected


def test_constrain_rows():
  constrain = jax.jit(lambda x: sharding.constrain_rows(x, mesh(), axis=1))
  put = constrain({'a': jnp.ones((3, 8)), 'b': jnp.ones((3, 5))})
  part = {k: x.addressable_shards[0].data.shape for k, x in put.items()}
  assert part == {'a': (3, 2), 'b': (3, 5)}


@pytest.mark.parametrize('tied', [True, False])
@pytest.mark.parametrize('clip_norm', [0.0, 1.0])
def test_moments_live_where_their_parameter_does(tied, clip_norm):
  params = abstract_params(tied)
  adam = optimizer.make_optimizer(
    training_schema.Optimizer(
      learning_rate=1e-3, warmup_steps=3, weight_decay=0.1, clip_norm=clip_norm
    )
  )
  state = jax.eval_shape(adam.init, params)
  found = sharding.shard_like_parameters(state, params, mesh())
  expected = TIED if tied else UNTIED
  moments = 0
  for path, leaf in jax.tree_util.tree_leaves_with_path(found):
    names = [str(getattr(k, 'key', getattr(k, 'name', ''))) for k in path]
    if 'mu' in names or 'nu' in names:
      at = names.index('mu' if 'mu' in names else 'nu')
      assert leaf.spec == expected['/'.join(names[at + 1 :])]
      moments += 1
    else:
      assert leaf.spec == P()
  assert moments == 2 * len(expected)
  assert jax.tree.structure(found) == jax.tree.structure(state)


def test_what_has_another_shape_is_repeated():
  """Adafactor's row and column averages carry the name, not the shape."""
  params = {'embedding': jnp.ones((256, 128))}
  state = jax.eval_shape(optax.adafactor(1e-3).init, params)
  found = sharding.shard_like_parameters(state, params, mesh())
  assert {x.spec for x in jax.tree.leaves(found)} == {P()}
