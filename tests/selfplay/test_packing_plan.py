"""Packing a batch, and training on the packed batch."""

import hypothesis
import jax
import numpy as np
import optax
import pytest
from hypothesis import strategies as st

from sqlm_jax.distributed import sharding
from sqlm_jax.engine import groups, learner, policy_loss
from sqlm_jax.ops import packing as packing_ops
from sqlm_jax.selfplay import batches, packing_plan
from tests import tiny


@pytest.mark.parametrize(
  'length, expected',
  [
    (0, 8),
    (1, 8),
    (8, 8),
    (9, 12),
    (12, 12),
    (13, 16),
    (17, 24),
    (25, 32),
    (33, 48),
    (49, 64),
    (1000, 1024),
    (1025, 1536),
  ],
)
def test_bucket(length, expected):
  assert packing_plan.bucket(length) == expected


def test_at_most_a_third_of_a_bucket_is_padding():
  # 2n + 1 in a bucket of 3n is the worst: 9 of 12, 17 of 24, ...
  for length in range(8, 2000):
    size = packing_plan.bucket(length)
    assert length <= size
    assert size - length < size / 3


PROMPTS = [[5, 6, 7], [9], [8, 8], [4], [0], [0]]
G, R = 3, 20
LENGTHS = [[20, 3, 5], [1, 2, 4], [12, 9, 2], [3, 3, 18]]


def make_batch() -> groups.GroupBatch:
  """Four groups that count, of six; one response weighs nothing."""
  rng = np.random.default_rng(0)
  size, shape = len(PROMPTS), (len(PROMPTS), G, R)
  weights = np.full((size, G), 1 / 82, np.float32)
  weights[4:] = weights[1, 2] = 0
  return groups.GroupBatch(
    prompts=batches.pack_prompts(PROMPTS),
    tokens=rng.integers(300, size=shape).astype(np.int32),
    lengths=np.array([*LENGTHS, [20] * 3, [20] * 3], np.int32),
    old_logprobs=rng.normal(-5.7, 0.1, shape).astype(np.float32),
    advantages=rng.normal(size=(size, G, 1)).astype(np.float32),
    weights=weights,
    num_groups=np.int32(4),
  )


def pack(batch, size, shards=1) -> groups.GroupBatch:
  return packing_plan.pack_batch(batch, packing_plan.Layout(size, shards))


def filled(packed: packing_ops.Packing) -> list[int]:
  """Returns the number of tokens in each part."""
  return (packed.slots < packed.places[0].size).sum(axis=1).tolist()


def one_device() -> jax.sharding.Mesh:
  return sharding.make_mesh(
    dict.fromkeys(sharding.AXES, 1), devices=jax.devices()[:1]
  )


def test_the_capacity_is_that_of_the_fullest_part():
  batch = pack(make_batch(), 2)
  # 19 + 2 + 4, 1, 11 + 8 + 1 and 2 + 2 + 17 tokens come before others.
  assert batch.lengths[:, 0].tolist() == [20, 1, 12, 3, 20, 20]
  slots, places = batch.packing
  assert filled(batch.packing) == [26, 41, 0]
  assert slots.shape == (3, packing_plan.bucket(41))  # three microbatches
  assert places.shape == (3, 6, 19)


def test_parts_have_about_the_same_size():
  batch = make_batch()
  batch = batch._replace(lengths=batch.lengths[[0, 2, 1, 3, 4, 5]])
  found = pack(batch, 2)
  # 25 and 4, 19 and 21 tokens, which came as 25 and 19, 4 and 21.
  assert filled(found.packing) == [29, 40, 0]
  assert found.lengths[:4, 0].tolist() == [20, 1, 12, 3]


@pytest.mark.parametrize('size, parts, shape', [(2, 2, 6), (3, 2, 2)])
def test_each_microbatch_has_one_part_per_shard(size, parts, shape):
  """Three groups are not split over two devices, so they have one part."""
  found = pack(make_batch(), size, parts)
  assert len(found.packing.slots) == len(found.packing.places) == shape


def test_the_capacity_is_at_least_the_number_of_prompt_tokens():
  """The common prefix counts, too."""
  batch = make_batch()
  batch = batch._replace(lengths=np.minimum(batch.lengths, 2))
  found = pack(batch, 6)
  assert batch.prompts.tokens.size == 48
  assert found.packing.slots.shape == (1, 48)
  prompts = batch.prompts._replace(prefix_tokens=np.zeros((1, 8), np.int32))
  found = pack(batch._replace(prompts=prompts), 6)
  assert found.packing.slots.shape == (1, packing_plan.bucket(48 + 8))


def test_full_rows_are_not_packed():
  batch = make_batch()
  lengths = np.full_like(batch.lengths, R)
  weights = np.full_like(batch.weights, 0.1)
  batch = batch._replace(
    lengths=lengths, weights=weights, num_groups=np.int32(6)
  )
  assert pack(batch, 2).packing is None


def test_responses_of_one_token_and_of_none():
  batch = make_batch()
  batch.lengths[:2] = [[1, 0, 0], [0, 1, 1]]
  found = pack(batch, 6)
  live = found.packing.places < found.packing.slots.shape[1]
  assert live.sum(axis=-1).reshape(6, G)[:2].tolist() == [[0] * 3] * 2


def test_texts_keep_their_order():
  """Results are read by row; groups after `num_groups` are not evaluated."""
  batch = make_batch()
  texts = groups.Texts(batch.prompts, batch.tokens, np.int32(3))
  layout = packing_plan.Layout(2, shards=1)
  found = packing_plan.pack_texts(texts, batch.lengths, layout)
  np.testing.assert_array_equal(found.tokens, texts.tokens)
  # 19 + 2 + 4 and 0 + 1 + 3, 11 + 8 + 1 and nothing of the last group.
  assert filled(found.packing) == [29, 20, 0]

  evaluate = policy_loss.make_logprobs(
    tiny.tiny_policy(), one_device(), chunk=64, groups_per_microbatch=2
  )
  params = tiny.tiny_params()
  expected, given_QGR = evaluate(texts, params), evaluate(found, params)
  evaluated = np.arange(R) < batch.lengths[..., None]
  evaluated[3:] = False
  np.testing.assert_allclose(
    given_QGR[evaluated], expected[evaluated], rtol=1e-5
  )
  assert np.isfinite(given_QGR).all()


@hypothesis.given(st.data())
def test_a_packing_contains_every_token_once(data):
  parts, rows, width = (data.draw(st.integers(1, 4)) for _ in range(3))
  length = st.integers(0, width)
  lengths = np.array(
    data.draw(st.lists(length, min_size=parts * rows, max_size=parts * rows))
  ).reshape(parts, rows)
  capacity = int(lengths.sum(axis=1).max()) + data.draw(st.integers(0, 3))
  found = packing_plan.make_packing(lengths, width, capacity)
  x = np.arange(1, parts * rows * width + 1).reshape(-1, width)
  packed = packing_ops.pack(x, found)
  assert packed.shape == (parts, capacity)
  expected = np.where(np.arange(width) < lengths.reshape(-1, 1), x, 0)
  assert sorted(packed[packed > 0].tolist()) == expected[expected > 0].tolist()
  np.testing.assert_array_equal(packing_ops.unpack(packed, found), expected)


@hypothesis.given(
  st.lists(st.integers(0, 50), min_size=12, max_size=14),
  st.sampled_from([(1, 12), (2, 6), (3, 4), (12, 1)]),
)
def test_groups_are_spread_evenly(sizes, shape):
  """Two parts differ by at most the size of the largest group."""
  parts, part_size = shape
  order = packing_plan.spread(np.array(sizes), parts, part_size)
  assert sorted(order) == list(range(len(sizes)))
  assert order[12:].tolist() == list(range(12, len(sizes)))
  totals = np.array(sizes)[order[:12]].reshape(parts, part_size).sum(axis=1)
  assert totals.max() - totals.min() <= max(sizes[:12])


@pytest.mark.parametrize('size', [1, 2, 6])
@pytest.mark.parametrize('ratio', ['token', 'sequence'])
def test_an_update_equals_that_of_unpacked_rows(size, ratio):
  step = learner.make_train_step(
    tiny.tiny_policy(),
    optax.sgd(1.0),
    one_device(),
    policy_loss.LossSettings(ratio_level=ratio, kl_coef=0.1, entropy_coef=0.01),
    groups_per_microbatch=size,
  )
  reference = jax.tree.map(lambda x: 0.99 * x, tiny.tiny_params())

  def learn(batch):
    params = jax.tree.map(np.copy, jax.device_get(tiny.tiny_params()))
    state = learner.init_state(params, optax.sgd(1.0))
    state, metrics = step(state, batch, reference)
    return jax.device_get((state.params, metrics))

  batch = make_batch()
  packed = pack(batch, size)
  assert packed.packing is not None
  for found, expected in zip(
    jax.tree.leaves(learn(packed)), jax.tree.leaves(learn(batch)), strict=True
  ):
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-5)
