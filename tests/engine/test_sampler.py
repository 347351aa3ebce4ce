"""The sampler against plain forward passes, one sequence at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sqlm_jax.distributed import sharding
from sqlm_jax.engine import decoding, dedup, prefill, sampler
from sqlm_jax.selfplay import batches
from tests import compilations, tiny

R = 8
NO_STOPS = np.zeros((16, 300), np.uint8)
NO_STOPS[decoding.STOPPED :] = decoding.STOPPED
COMMON = list(range(20, 32))
PROMPTS = [[*COMMON, 5, 6, 7], [*COMMON, 9], [*COMMON, 5, 250, 3, 2, 1]]


@pytest.fixture(scope='module')
def mesh():
  return sharding.make_mesh(
    {'data': 1, 'fsdp': 1, 'tensor': 1}, jax.devices()[:1]
  )


@pytest.fixture(scope='module')
def sample(mesh):
  return sampler.Sampler(tiny.tiny_policy(), mesh)


def settings(temperature=1.0, top_p=1.0, limit=R, table=NO_STOPS, size=4):
  return sampler.SamplerSettings(
    temperature=np.full(size, temperature, np.float32),
    top_p=np.full(size, top_p, np.float32),
    limit=np.int32(limit),
    stop_table=table,
  )


def keys(*path, groups=3, size=4):
  return sampler.response_keys(path, num_groups=groups, group_size=size)


def run(sample, prompts=PROMPTS, key_path=(0, 0), num_rows=None, **kwargs):
  packed = batches.pack_prompts(prompts, num_rows)
  all_keys = keys(*key_path, groups=num_rows or len(prompts))
  return jax.device_get(
    sample(tiny.tiny_params(), packed, all_keys, settings(**kwargs), slots=R)
  )


def test_logprobs_equal_those_of_one_plain_pass(sample):
  rollout = run(sample)
  for q, prompt in enumerate(PROMPTS):
    for g in range(4):
      response = rollout.tokens[q, g].tolist()
      expected = tiny.plain_logprobs(tiny.tiny_params(), prompt, response)
      # float32 on CPU: the merge of attentions rounds differently.
      np.testing.assert_allclose(rollout.logprobs[q, g], expected, atol=1e-4)


def test_greedy_equals_argmax_of_the_plain_pass(sample):
  rollout = run(sample, temperature=0.0)
  for q, prompt in enumerate(PROMPTS):
    text = list(prompt)
    for _ in range(R):
      logits = tiny.plain_logits(tiny.tiny_params(), [text])[0]
      text.append(int(logits[len(text) - 1].argmax()))
    for g in range(4):
      assert rollout.tokens[q, g].tolist() == text[len(prompt) :]
  assert not rollout.sampling_logprobs.any()  # log of probability 1


def test_answers_of_a_group_differ_and_so_do_calls(sample):
  first, second = run(sample, key_path=(0, 0)), run(sample, key_path=(0, 1))
  group = [tuple(row) for row in first.tokens[0]]
  assert len(set(group)) == 4
  assert not np.array_equal(first.tokens, second.tokens)
  again = run(sample, key_path=(0, 0))
  np.testing.assert_array_equal(first.tokens, again.tokens)


def test_a_response_does_not_depend_on_its_neighbours(sample):
  """Neither the batch size nor other rows affect a response."""
  together = run(sample)
  padded = run(sample, num_rows=5)
  np.testing.assert_array_equal(together.tokens, padded.tokens[:3])
  others = [PROMPTS[0], [*COMMON, 77, 78], [*COMMON, 1]]
  np.testing.assert_array_equal(
    together.tokens[0], run(sample, others).tokens[0]
  )


def test_without_a_common_prefix(sample):
  prompts = [[1, 2, 3], [4, 5], [6]]
  rollout = run(sample, prompts)
  expected = tiny.plain_logprobs(
    tiny.tiny_params(), prompts[2], rollout.tokens[2, 1].tolist()
  )
  np.testing.assert_allclose(rollout.logprobs[2, 1], expected, atol=1e-4)


def test_the_stop_token_belongs_to_the_response(sample):
  free = run(sample)
  stop = int(free.tokens[0, 0, 2])
  table = NO_STOPS.copy()
  table[0, stop] = decoding.STOPPED
  rollout = run(sample, table=table)
  for q in range(3):
    for g in range(4):
      before = free.tokens[q, g].tolist()
      length = before.index(stop) + 1 if stop in before else R
      assert rollout.lengths[q, g] == length
      assert rollout.finished[q, g] == (stop in before)
      assert rollout.tokens[q, g, :length].tolist() == before[:length]
      assert not rollout.tokens[q, g, length:].any()
      assert not rollout.logprobs[q, g, length:].any()
  assert rollout.lengths[0, 0] <= 3  # it ended at the stop


def test_settings_and_lengths_change_without_a_compilation(mesh):
  fresh = sampler.Sampler(tiny.tiny_policy(), mesh)
  table = NO_STOPS.copy()
  table[0, 7] = decoding.STOPPED
  with compilations.count() as first:
    run(fresh)
  assert first
  with (
    compilations.count() as others
  ):  # another program for temperatures other than 1
    run(fresh, temperature=0.3)
  assert others
  with compilations.count() as more:
    run(fresh)
    run(fresh, temperature=0.9)
    run(fresh, temperature=0.0)
    run(fresh, top_p=0.5)
    run(fresh, limit=3)
    run(fresh, table=table)
    run(fresh, [[*COMMON, 1], [*COMMON, 2, 3], [*COMMON, 4]])  # same bucket
  assert not more


def stops_early() -> np.ndarray:
  """A table that ends two in three responses within eight tokens."""
  table = NO_STOPS.copy()
  table[0, ::10] = decoding.STOPPED
  return table


MANY = [[*COMMON, *range(i, i + 1 + i % 3)] for i in range(1, 8)]


@pytest.mark.parametrize(
  'options',
  [
    {'chunk': 1},
    {'chunk': 3},
    {'chunk': 2, 'static': True},
    {'chunk': 2, 'max_rows': 1},  # one group at a time
    {'chunk': 3, 'max_rows': 8},
    {'chunk': 1, 'max_rows': 10},
    {'chunk': 3, 'max_rows': 8, 'static': True},
  ],
  ids=str,
)
def test_responses_do_not_depend_on_when_they_are_decoded(
  sample, mesh, options
):
  other = sampler.Sampler(tiny.tiny_policy(), mesh, **options)
  plain = run(sample, MANY, table=stops_early())
  packed = run(other, MANY, table=stops_early())
  assert len(np.unique(plain.lengths)) > 1
  for name in ('tokens', 'lengths', 'finished'):
    np.testing.assert_array_equal(getattr(packed, name), getattr(plain, name))
  for name in ('logprobs', 'sampling_logprobs'):
    np.testing.assert_allclose(
      getattr(packed, name), getattr(plain, name), atol=1e-5
    )


def test_each_prompt_is_reported_once_as_soon_as_it_has_finished(mesh):
  sample = sampler.Sampler(tiny.tiny_policy(), mesh, chunk=1)
  reported, counts = {}, []

  def on_ended(which_Q, tokens_QGR, lengths_QG):
    counts.append(len(reported))
    for q, tokens, lengths in zip(
      which_Q.tolist(), tokens_QGR, lengths_QG, strict=True
    ):
      assert q not in reported
      reported[q] = tokens, lengths

  rollout = sample(
    tiny.tiny_params(),
    batches.pack_prompts(MANY, 9),
    keys(0, 0, groups=9, size=2),
    settings(table=stops_early(), size=2),
    slots=R,
    num_prompts=7,
    on_ended=on_ended,
  )
  assert sorted(reported) == list(range(7))  # not the padding prompts
  for q, (tokens, lengths) in reported.items():
    np.testing.assert_array_equal(tokens, rollout.tokens[q])
    np.testing.assert_array_equal(lengths, rollout.lengths[q])
  # Prompts are reported in the order in which they finish.
  longest = rollout.lengths[:7].max(axis=1)
  assert [longest[q] for q in reported] == sorted(longest)
  assert len(counts) == len(set(longest.tolist())) > 1


def test_padding_prompts_are_not_continued(sample):
  whole = run(sample, num_rows=5)
  packed = batches.pack_prompts(PROMPTS, 5)
  part = sample(
    tiny.tiny_params(),
    packed,
    keys(0, 0, groups=5),
    settings(),
    slots=R,
    num_prompts=3,
  )
  np.testing.assert_array_equal(part.tokens[:3], whole.tokens[:3])
  assert not part.tokens[3:].any()
  assert not part.lengths[3:].any()


def test_truncated_responses_are_not_finished(sample):
  rollout = run(sample, limit=3)
  assert (rollout.lengths == 3).all()
  assert not rollout.finished.any()
  np.testing.assert_array_equal(
    rollout.tokens[..., :3], run(sample).tokens[..., :3]
  )


@pytest.mark.parametrize(
  'temperature, top_p', [(0.5, 1.0), (2.0, 1.0), (1.0, 0.6), (0.7, 0.9)]
)
def test_both_log_probabilities(sample, temperature, top_p):
  """Compares the log-probabilities with and without temperature and top-p."""
  rollout = run(sample, temperature=temperature, top_p=top_p)
  prompt, response = PROMPTS[1], rollout.tokens[1, 3].tolist()
  logits = tiny.plain_logits(tiny.tiny_params(), [[*prompt, *response]])[0]
  logits = np.asarray(logits, np.float64)[len(prompt) - 1 :]
  for t, token in enumerate(response):
    policy = np.exp(logits[t] - np.logaddexp.reduce(logits[t]))
    assert rollout.logprobs[1, 3, t] == pytest.approx(
      np.log(policy[token]), abs=1e-4
    )
    scaled = np.exp((logits[t] - logits[t].max()) / temperature)
    scaled /= scaled.sum()
    order = np.argsort(-scaled)
    # The nucleus is the smallest set of likeliest tokens that reaches top_p.
    size = int(np.searchsorted(np.cumsum(scaled[order]), top_p - 1e-6)) + 1
    kept = scaled[order[: min(size, 300)]].sum()
    assert token in order[:size]
    assert rollout.sampling_logprobs[1, 3, t] == pytest.approx(
      np.log(scaled[token] / kept), abs=1e-3
    )


def test_temperatures_may_differ_within_a_group(sample):
  packed = batches.pack_prompts(PROMPTS)
  mixed = settings()._replace(temperature=np.array([0, 1, 1, 0], np.float32))
  rollout = sample(tiny.tiny_params(), packed, keys(0, 0), mixed, slots=R)
  tokens = np.asarray(rollout.tokens)
  np.testing.assert_array_equal(tokens[:, 0], tokens[:, 3])
  np.testing.assert_array_equal(
    tokens[:, 0], run(sample, temperature=0.0).tokens[:, 0]
  )
  np.testing.assert_array_equal(tokens[:, 1], run(sample).tokens[:, 1])


def test_keys_are_derived_from_the_path_and_the_row():
  path = (3, 1, 4)
  many = jax.random.key_data(keys(*path))
  few = jax.random.key_data(keys(*path, groups=2))
  np.testing.assert_array_equal(many[:2], few)
  flat = np.asarray(many).reshape(-1, many.shape[-1])
  assert len(np.unique(flat, axis=0)) == 12
  assert not np.array_equal(many, jax.random.key_data(keys(3, 4, 1)))
  assert jnp.issubdtype(keys(*path).dtype, jax.dtypes.prng_key)


def test_equal_rows_are_computed_once(mesh, monkeypatch):
  calls = []
  read = dedup.read_distinct

  def watch(read_next, last_B, context, *, first_B, running_B):
    def record(*arrays):
      calls.append([np.asarray(x) for x in arrays])

    jax.debug.callback(record, first_B, running_B, ordered=True)
    return read(
      read_next, last_B, context, first_B=first_B, running_B=running_B
    )

  monkeypatch.setattr(dedup, 'can_save_time', lambda *_, **__: True)
  monkeypatch.setattr(dedup, 'read_distinct', watch)
  # At this temperature, rows begin with equal tokens and differ later.
  cold = settings(temperature=0.3, table=stops_early(), size=32)
  packed = batches.pack_prompts(
    [*PROMPTS, PROMPTS[1]], 5
  )  # one prompt occurs twice
  rollouts = [
    sampler.Sampler(tiny.tiny_policy(), mesh, chunk=3, share=share)(
      tiny.tiny_params(),
      packed,
      keys(0, 3, groups=5, size=32),
      cold,
      slots=R,
      num_prompts=4,
    )
    for share in (True, False)
  ]
  jax.effects_barrier()
  for name, shared, alone in zip(rollouts[0]._fields, *rollouts, strict=True):
    close = 1e-5
    if name == 'sampling_logprobs':
      close /= 0.3  # the temperature scales rounding errors
    np.testing.assert_allclose(shared, alone, rtol=close, atol=close)
  read_rows = [len(set(first[running])) for first, running in calls]
  all_rows = [running.sum() for _, running in calls]
  assert sum(read_rows) < sum(all_rows) / 2
  assert len(calls) < R - 1  # deduplication stops when rows differ


def test_deduplication_may_end_within_any_chunk(mesh, monkeypatch):
  monkeypatch.setattr(dedup, 'can_save_time', lambda *_, **__: True)
  monkeypatch.setattr(dedup, '_BLOCKS_PER_BATCH', 1)
  monkeypatch.setattr(dedup, '_MAX_BLOCKS', 1)

  # Switches deduplication on and off as rows end, so chunks vary in length.
  def some(first_B, running_B):
    return running_B.sum() % 2 == 1

  monkeypatch.setattr(dedup, 'are_few', some)
  table = NO_STOPS.copy()
  table[0, ::60] = decoding.STOPPED
  shared, alone = (
    sampler.Sampler(tiny.tiny_policy(), mesh, chunk=4, share=share)(
      tiny.tiny_params(),
      batches.pack_prompts(PROMPTS),
      keys(0, 3, groups=3, size=8),
      settings(limit=20, table=table, size=8),
      slots=20,
    )
    for share in (True, False)
  )
  np.testing.assert_array_equal(shared.tokens, alone.tokens)
  np.testing.assert_allclose(shared.logprobs, alone.logprobs, atol=1e-4)


def test_parameters_that_need_no_cast_are_not_copied(mesh, monkeypatch):
  make_prefill, given = prefill.make_prefill, []

  def watched(*args, **settings):
    program = make_prefill(*args, **settings)

    def watched_prefill(params, *rest):
      given.append(params)
      return program(params, *rest)

    return watched_prefill

  monkeypatch.setattr(prefill, 'make_prefill', watched)
  params = tiny.tiny_params()
  sampler.Sampler(tiny.tiny_policy(), mesh)(
    params, batches.pack_prompts(PROMPTS), keys(0, 0), settings(), slots=R
  )
  assert given[0] is params
