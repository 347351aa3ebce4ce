"""The learner against forward passes with one unshared sequence per row."""

import dataclasses
import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sqlm_jax.config import training_schema
from sqlm_jax.distributed import sharding
from sqlm_jax.engine import groups, in_place, learner, policy_loss
from sqlm_jax.engine import optimizer as optimizer_lib
from sqlm_jax.models import policy
from sqlm_jax.selfplay import batches, packing_plan
from tests import tiny

COMMON = list(range(20, 32))
PROMPTS = [
  [*COMMON, 5, 6, 7],
  [*COMMON, 9],
  [*COMMON, 5, 250, 3, 2, 1],
  [*COMMON, 8, 8],
]
Q, G, R = 4, 3, 5


@functools.cache
def sampled_logprobs() -> np.ndarray:
  """Returns the log-probabilities that a sampler would record."""
  tokens = np.random.default_rng(1).integers(0, 300, (Q, G, R))
  texts = [
    [*PROMPTS[q], *tokens[q, g].tolist()] for q in range(Q) for g in range(G)
  ]
  logps = jax.nn.log_softmax(tiny.plain_logits(tiny.tiny_params(), texts))
  rows, starts = np.arange(Q * G)[:, None], [len(p) - 1 for p in PROMPTS]
  positions = np.repeat(starts, G)[:, None] + np.arange(R)
  chosen = logps[rows, positions, tokens.reshape(-1, R)]
  return np.asarray(chosen).reshape(Q, G, R)


def make_batch(prompts=PROMPTS, **changes) -> groups.GroupBatch:
  rng = np.random.default_rng(0)
  lengths = rng.integers(1, R + 1, (Q, G)).astype(np.int32)
  lengths[0] = [R, 1, 3]
  weights = np.ones((Q, G), np.float32) / lengths.sum()
  weights[1, 2] = 0  # left out
  batch = groups.GroupBatch(
    prompts=batches.pack_prompts(prompts),
    tokens=np.random.default_rng(1)
    .integers(0, 300, (Q, G, R))
    .astype(np.int32),
    lengths=lengths,
    old_logprobs=(sampled_logprobs() + rng.normal(0, 0.2, (Q, G, R))).astype(
      np.float32
    ),
    advantages=rng.normal(size=(Q, G, 1)).astype(np.float32),
    weights=weights,
    num_groups=np.int32(Q),
  )
  return batch._replace(**changes)


def pack(batch: groups.GroupBatch) -> groups.GroupBatch:
  """Packs tokens into two parts, with capacity for two more tokens each."""
  inputs = np.where(batch.weights != 0, batch.lengths - 1, 0).reshape(2, -1)
  room = int(inputs.sum(axis=1).max()) + 2
  return batch._replace(packing=packing_plan.make_packing(inputs, R - 1, room))


def plain_loss(params, batch, settings, reference=None):
  """Computes the loss directly, over unshared rows with one text each."""
  clip, kl = settings.clip_ratio, settings.kl_coef
  rows = [
    (q, g)
    for q in range(int(batch.num_groups))
    for g in range(G)
    if batch.weights[q, g]
  ]
  responses = [
    batch.tokens[q, g, : batch.lengths[q, g]].tolist() for q, g in rows
  ]
  texts = [
    [*PROMPTS[q], *response]
    for (q, _), response in zip(rows, responses, strict=True)
  ]
  logps = jax.nn.log_softmax(tiny.plain_logits(params, texts))
  if kl:
    reference_logps = jax.nn.log_softmax(tiny.plain_logits(reference, texts))
  total = 0.0
  for i, ((q, g), response) in enumerate(zip(rows, responses, strict=True)):
    at = (i, len(PROMPTS[q]) - 1 + np.arange(len(response)), np.array(response))
    log_ratio = logps[at] - batch.old_logprobs[q, g, : len(response)]
    if settings.ratio_level == 'sequence':
      log_ratio = jnp.full_like(log_ratio, log_ratio.mean())
    ratio = jnp.exp(log_ratio)
    advantage = jnp.broadcast_to(batch.advantages[q, g], (R,))[: len(response)]
    clamped = jnp.clip(ratio, 1 - clip, 1 + (settings.clip_ratio_high or clip))
    gain = jnp.minimum(ratio * advantage, clamped * advantage)
    if settings.dual_clip:
      bound = settings.dual_clip * advantage
      gain = jnp.where(advantage < 0, jnp.maximum(gain, bound), gain)
    loss = -gain
    if kl:
      d = reference_logps[at] - logps[at]
      k2, k3 = d**2 / 2, jnp.exp(d) - d - 1
      loss = loss + kl * {'k2': k2, 'k3': k3}[settings.kl_estimator]
    if settings.entropy_coef:
      whole = logps[i, at[1]]
      entropy = -jnp.sum(jnp.exp(whole) * whole, axis=-1)
      loss = loss - settings.entropy_coef * entropy
    total = total + batch.weights[q, g] * loss.sum()
  return total


def assert_close(actual, expected):
  """Compares up to float32 rounding, 1e-4 of the largest entry."""
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(
      a, b, rtol=0, atol=1e-4 * float(np.abs(b).max()) + 1e-9
    ),
    jax.device_get(actual),
    jax.device_get(expected),
  )


def one_device_mesh():
  return sharding.make_mesh(
    {'data': 1, 'fsdp': 1, 'tensor': 1}, jax.devices()[:1]
  )


def reference_params():
  return jax.tree.map(lambda x: x * 0.99, tiny.tiny_params())


@functools.partial(jax.jit, static_argnames='settings')
def grouped_loss_and_grad(params, batch, settings):
  def loss(p):
    return policy_loss.policy_loss(
      p,
      batch,
      reference_params(),
      policy=tiny.tiny_policy(),
      settings=settings,
    )

  return jax.value_and_grad(loss, has_aux=True)(params)


def plain_loss_and_grad(params, batch, **kwargs):
  def loss(p):
    return plain_loss(p, batch, **kwargs)

  return jax.jit(jax.value_and_grad(loss))(params)


# One chunk size that splits responses, and one that holds all of them.
WITH_KL = policy_loss.LossSettings(clip_ratio=0.2, kl_coef=0.3, logits_chunk=7)
WITHOUT_KL = policy_loss.LossSettings(
  clip_ratio=0.2, kl_coef=0.0, logits_chunk=1024
)


OTHERS = [
  policy_loss.LossSettings(
    clip_ratio=0.1, clip_ratio_high=0.3, dual_clip=1.4, logits_chunk=64
  ),
  policy_loss.LossSettings(
    clip_ratio=0.03,
    clip_ratio_high=0.04,
    ratio_level='sequence',
    logits_chunk=64,
  ),
  policy_loss.LossSettings(
    kl_coef=0.3, kl_estimator='k2', entropy_coef=0.1, logits_chunk=7
  ),
]


@pytest.mark.parametrize('arrange', [lambda batch: batch, pack])
@pytest.mark.parametrize(
  'settings, width',
  [(s, 1) for s in (WITH_KL, WITHOUT_KL, *OTHERS)] + [(OTHERS[0], R)],
)
def test_loss_and_gradient_equal_the_plain_ones(settings, width, arrange):
  """Advantages are per response, and per token in the last case."""
  advantages = np.random.default_rng(2).normal(size=(Q, G, width))
  batch = arrange(make_batch(advantages=advantages.astype(np.float32)))
  params = tiny.tiny_params()
  (loss, _), grads = grouped_loss_and_grad(params, batch, settings)
  expected, expected_grads = plain_loss_and_grad(
    params, batch, settings=settings, reference=reference_params()
  )
  assert float(loss) == pytest.approx(float(expected), rel=1e-4)
  assert_close(grads, expected_grads)


def test_coefficients_replace_those_of_the_settings():
  batch, params = make_batch(), tiny.tiny_params()
  expected = OTHERS[2]
  start = expected._replace(kl_coef=9.0, entropy_coef=8.0)
  coefficients = {'kl_coef': jnp.float32(0.3), 'entropy_coef': jnp.float32(0.1)}

  @functools.partial(jax.jit, static_argnames='settings')
  def loss(settings, coefficients):
    return policy_loss.policy_loss(
      params,
      batch,
      reference_params(),
      policy=tiny.tiny_policy(),
      settings=settings,
      coefficients=coefficients,
    )[0]

  found = loss(start, coefficients)
  assert float(found) == pytest.approx(float(loss(expected, None)), rel=1e-6)


@pytest.mark.parametrize('settings', [WITH_KL, WITHOUT_KL])
@pytest.mark.parametrize('tied', [True, False])
def test_responses_of_one_token(settings, tied):
  """For example, a letter of a multiple choice: only prompts are processed."""
  batch = make_batch(lengths=np.ones((Q, G), np.int32))
  one = batch._replace(
    tokens=batch.tokens[..., :1], old_logprobs=batch.old_logprobs[..., :1]
  )

  def of(batch):
    return jax.jit(
      jax.value_and_grad(
        lambda params: policy_loss.policy_loss(
          params,
          batch,
          params,
          policy=tiny.tiny_policy(tied),
          settings=settings,
        )[0]
      )
    )(tiny.tiny_params(tied))

  assert_close(of(one), of(batch))


@functools.cache
def one_device_step(size: int, remat: str = 'none'):
  """Returns a train step of SGD with microbatches of `size` groups."""
  return learner.make_train_step(
    policy.make_policy(tiny.CONFIG, remat=remat),
    optax.sgd(1.0),
    one_device_mesh(),
    policy_loss.LossSettings(),
    groups_per_microbatch=size,
  )


def run_step(step, batch, params=None):
  """Returns parameters and metrics after a step; donates copied params."""
  params = params or jax.tree.map(jnp.copy, tiny.tiny_params())
  state, metrics = step(learner.init_state(params, optax.sgd(1.0)), batch)
  return jax.device_get((state.params, metrics))


@functools.cache
def whole_step():
  return run_step(one_device_step(Q), make_batch())


@functools.cache
def anchored_step(kl_coef: float):
  return learner.make_train_step(
    tiny.tiny_policy(),
    optax.sgd(1.0),
    one_device_mesh(),
    policy_loss.LossSettings(logits_chunk=64),
    groups_per_microbatch=2,
    anchor_kl_coef=kl_coef,
  )


def run_anchored(kl_coef, batch, anchor_batch):
  params = jax.tree.map(jnp.copy, tiny.tiny_params())
  state, metrics = anchored_step(kl_coef)(
    learner.init_state(params, optax.sgd(1.0)), batch, anchor_batch=anchor_batch
  )
  return jax.device_get((state.params, metrics))


def plain_anchor_loss(params, batch):
  """Computes sum weight (exp(d) - 1 - d), d = logp - old_logp, row by row."""
  rows = [(q, g) for q in range(Q) for g in range(G) if batch.weights[q, g]]
  texts = [[*PROMPTS[q], *batch.tokens[q, g].tolist()] for q, g in rows]
  logps = jax.nn.log_softmax(tiny.plain_logits(params, texts))
  total = 0.0
  for i, (q, g) in enumerate(rows):
    response = batch.tokens[q, g, : batch.lengths[q, g]]
    at = (i, len(PROMPTS[q]) - 1 + np.arange(len(response)), response)
    d = logps[at] - batch.old_logprobs[q, g, : len(response)]
    total += batch.weights[q, g] * jnp.sum(jnp.exp(d) - 1 - d)
  return total


def test_an_update_adds_the_gradient_of_the_anchor():
  """Gradients are accumulated over two microbatches of each batch."""
  batch = make_batch()
  anchor = make_batch(advantages=np.zeros((Q, G, 1), np.float32))
  # Padding may hold any value.
  beyond = np.arange(R) >= anchor.lengths[..., None]
  old = np.where(beyond, np.nan, anchor.old_logprobs)
  anchor = anchor._replace(old_logprobs=old)
  with_anchor, metrics = run_anchored(0.3, batch, anchor)
  without, plain_metrics = run_anchored(0.3, batch, None)
  loss, grads = jax.jit(
    jax.value_and_grad(lambda params: plain_anchor_loss(params, anchor))
  )(tiny.tiny_params())
  assert_close(
    jax.tree.map(jnp.subtract, without, with_anchor),
    jax.tree.map(lambda x: 0.3 * x, grads),
  )
  # The weights add up to 1, except for the weight of the response without one.
  kl, count = metrics['anchor_kl']
  assert count == anchor.lengths.sum() - anchor.lengths[1, 2]
  assert kl / anchor.lengths.sum() == pytest.approx(float(loss), rel=1e-4)
  assert metrics['loss'][0] - plain_metrics['loss'][0] == pytest.approx(
    0.3 * float(loss), rel=1e-3
  )
  # Without groups of an anchor, the coefficient has no effect.
  assert 'anchor_kl' not in plain_metrics
  assert_same_bits(without, run_anchored(0.0, batch, None)[0])


def test_the_anchor_holds_the_initial_probabilities():
  """The other answers to the same prompts are trained on."""
  initial = tiny.tiny_params()
  anchor = make_batch(old_logprobs=sampled_logprobs())
  tokens = np.random.default_rng(3).integers(0, 300, (Q, G, R), np.int32)
  batch = make_batch(tokens=tokens)
  kls = {}
  for name, anchor_batch in (('free', None), ('held', anchor)):
    state = learner.init_state(jax.tree.map(jnp.copy, initial), optax.sgd(1.0))
    for _ in range(4):
      state, _ = anchored_step(0.3)(state, batch, anchor_batch=anchor_batch)
    kls[name] = float(plain_anchor_loss(state.params, anchor))
  assert 0 < kls['held'] < kls['free'] / 2


def assert_same_bits(one, other):
  jax.tree.map(np.testing.assert_array_equal, one, other)


def test_the_expected_anchor_loss_is_the_kl():
  """The expectation over answers of one token is a sum over the vocabulary."""
  initial, policy_params = reference_params(), tiny.tiny_params()
  vocabulary = np.arange(tiny.CONFIG.vocab_size)

  def logprobs(params):
    return jax.nn.log_softmax(
      tiny.plain_logits(params, PROMPTS[:1])[0, len(PROMPTS[0]) - 1]
    )

  old = jax.device_get(logprobs(initial))
  batch = groups.GroupBatch(
    prompts=batches.pack_prompts(PROMPTS[:1]),
    tokens=vocabulary[None, :, None],
    lengths=np.ones((1, len(vocabulary)), np.int32),
    old_logprobs=old[None, :, None],
    advantages=np.zeros((1, len(vocabulary), 1), np.float32),
    weights=np.exp(old)[None],
    num_groups=np.int32(1),
  )

  def anchor_loss(params):
    return policy_loss.anchor_loss(
      params,
      batch,
      policy=tiny.tiny_policy(),
      kl_coef=2.0,
      logits_chunk=1024,
    )[0]

  def kl(params):
    return 2.0 * jnp.sum(jnp.exp(old) * (old - logprobs(params)))

  loss, grads = jax.jit(jax.value_and_grad(anchor_loss))(policy_params)
  expected, expected_grads = jax.jit(jax.value_and_grad(kl))(policy_params)
  # Sums of 300 terms that nearly cancel.
  assert float(loss) == pytest.approx(float(expected), rel=2e-2)
  size = optax.tree.norm(expected_grads)
  difference = jax.tree.map(jnp.subtract, grads, expected_grads)
  assert optax.tree.norm(difference) < 1e-3 * size
  # Before training, not even the gradient of a single token has noise.
  loss, grads = jax.jit(jax.value_and_grad(anchor_loss))(initial)
  assert abs(float(loss)) < 1e-8
  assert optax.tree.norm(grads) < 1e-3 * size


def bounded_step(max_update_kl: float):
  step = learner.make_train_step(
    tiny.tiny_policy(),
    optax.sgd(1.0),
    one_device_mesh(),
    policy_loss.LossSettings(),
    groups_per_microbatch=Q,
    max_update_kl=max_update_kl,
  )
  return run_step(step, make_batch(old_logprobs=sampled_logprobs()))


def plain_kl(params, batch):
  """Computes the mean of exp(d) - 1 - d with d = logp - old_logp."""
  values = []
  for q, prompt in enumerate(PROMPTS):
    for g in range(G):
      if not batch.weights[q, g]:
        continue
      response = batch.tokens[q, g, : batch.lengths[q, g]].tolist()
      logps = tiny.plain_logprobs(params, prompt, response)
      d = np.asarray(logps) - batch.old_logprobs[q, g, : len(response)]
      values += (np.exp(d) - 1 - d).tolist()
  return np.mean(values)


def test_an_update_that_moves_the_policy_too_far_is_shortened():
  batch = make_batch(old_logprobs=sampled_logprobs())
  free, metrics = bounded_step(1e3)
  kl, _ = metrics['update_kl']
  assert metrics['update_scale'][0] == 1
  # The KL is about the square of differences of two float32 passes.
  assert kl == pytest.approx(plain_kl(free, batch), rel=1e-2)
  max_kl = float(kl) / 100
  bounded, metrics = bounded_step(max_kl)
  scale, _ = metrics['update_scale']
  assert 0 < scale < 0.1
  jax.tree.map(
    lambda x, full, short: np.testing.assert_allclose(
      short - x, scale * (full - x), atol=1e-5
    ),
    tiny.tiny_params(),
    free,
    bounded,
  )
  assert metrics['update_kl'][0] <= 1.1 * max_kl
  bounded_kl = plain_kl(bounded, batch)
  assert bounded_kl == pytest.approx(metrics['update_kl'][0], rel=1e-2)


def test_the_kl_of_another_role_is_bounded_too():
  batch = make_batch(old_logprobs=sampled_logprobs())
  # A single response of the other role; padding in the other groups.
  weights_QG = np.zeros_like(batch.weights)
  weights_QG[0, 0] = 1
  other = batch._replace(weights=weights_QG)

  def step(max_update_kl, batch, kl_batch):
    update = learner.make_train_step(
      tiny.tiny_policy(),
      optax.sgd(1.0),
      one_device_mesh(),
      policy_loss.LossSettings(),
      groups_per_microbatch=Q,
      max_update_kl=max_update_kl,
    )
    params = jax.tree.map(jnp.copy, tiny.tiny_params())
    state = learner.init_state(params, optax.sgd(1.0))
    state, metrics = update(state, batch, None, None, kl_batch)
    return jax.device_get((state.params, metrics))

  free, metrics = step(1e3, batch, other)
  kls = plain_kl(free, batch), plain_kl(free, other)
  assert kls[0] != pytest.approx(kls[1], rel=0.1)
  assert metrics['update_kl'][0] == pytest.approx(max(kls), rel=1e-2)
  bounded, _ = step(max(kls) / 50, batch, other)
  assert plain_kl(bounded, batch) <= max(kls) / 40
  assert plain_kl(bounded, other) <= max(kls) / 40


def test_a_bound_that_is_not_reached_changes_nothing():
  step = one_device_step(Q)
  batch = make_batch(old_logprobs=sampled_logprobs())
  expected, _ = run_step(step, batch)
  free, _ = bounded_step(1e3)
  # The programs differ, so the results are equal up to float32 rounding.
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, atol=2e-6), free, expected
  )


@pytest.mark.parametrize('size, remat', [(1, 'none'), (Q, 'full')])
def test_microbatches_and_remat_do_not_change_the_update(size, remat):
  step = one_device_step(size, remat)
  assert_close(run_step(step, make_batch()), whole_step())


def test_groups_behind_num_groups_are_not_learned_from():
  batch = make_batch(num_groups=np.int32(2))
  batch.weights[2:] = 0
  stepped, _ = run_step(one_device_step(1), batch)
  _, grads = plain_loss_and_grad(
    tiny.tiny_params(), batch, settings=policy_loss.LossSettings()
  )
  expected = jax.tree.map(lambda p, g: p - g, tiny.tiny_params(), grads)
  assert_close(stepped, expected)


def test_padding_does_not_reach_loss_or_gradient():
  """Absurd numbers in padding and in rows of weight 0 have no effect."""
  batch = make_batch()
  absurd = make_batch()
  behind = np.arange(R) >= batch.lengths[..., None]
  absurd.old_logprobs[behind] = -1e30
  absurd.tokens[behind] = 299
  absurd.old_logprobs[1, 2] = np.nan
  jax.tree.map(
    np.testing.assert_array_equal,
    grouped_loss_and_grad(tiny.tiny_params(), batch, WITH_KL),
    grouped_loss_and_grad(tiny.tiny_params(), absurd, WITH_KL),
  )


def linear_update(optimizer):
  """Returns an update of one parameter whose gradient is an advantage."""

  def loss_of(params, batch):
    loss = (params['embedding'] * batch.advantages[0, 0, 0]).sum()
    return loss, {'loss': (loss, jnp.zeros(()))}

  return learner.make_update(
    loss_of, optimizer, one_device_mesh(), groups_per_microbatch=Q
  )


@pytest.mark.parametrize('bad', [np.nan, np.inf, 3e38])
def test_an_update_that_is_not_finite_changes_no_bit(bad):
  """With 3e38, the loss is finite, but the norm of the gradient is not."""
  optimizer = optax.adamw(0.1)
  update = linear_update(optimizer)

  def start():
    return learner.init_state({'embedding': jnp.full((2, 2), -0.0)}, optimizer)

  good, worse = make_batch(), make_batch()
  worse.advantages[0, 0] = bad
  state, metrics = update(start(), good)
  assert jax.device_get(metrics['skipped_rate']) == (0, 1)
  before = jax.device_get(state)
  state, metrics = jax.device_get(update(state, worse))
  assert metrics['skipped_rate'] == (1, 1)
  assert not np.isfinite(metrics['grad_norm'][0])
  assert state.step == 1
  jax.tree.map(np.testing.assert_array_equal, state, before)


def test_a_state_is_written_in_place_to_the_same_bits(monkeypatch):
  """Without the compiler option, XLA on CPUs would copy both moments first."""
  optimizer = optimizer_lib.make_optimizer(
    training_schema.Optimizer(learning_rate=0.1, weight_decay=0.1)
  )
  batch, found = make_batch(), []
  for knows in (in_place.compiler_knows, lambda option: False):
    monkeypatch.setattr(in_place, 'compiler_knows', knows)
    update = linear_update(optimizer)
    params = {'embedding': jnp.linspace(-1, 1, 64 * 32).reshape(64, 32)}
    state = learner.init_state(params, optimizer)
    text = update.lower(state, batch).compile().as_text()
    for _ in range(3):
      state, metrics = update(state, batch)
    copies = len(re.findall(r'= f32\[64,32\]\S* copy\(', text))
    found.append((copies, jax.device_get((state, metrics))))
  (copies, stepped), (plain_copies, plain) = found
  assert (copies, plain_copies) == (0, 2)
  jax.tree.map(np.testing.assert_array_equal, stepped, plain)


def test_metrics_are_means_over_response_tokens():
  batch = make_batch()
  (_, metrics), _ = grouped_loss_and_grad(tiny.tiny_params(), batch, WITH_KL)
  counted = int(batch.lengths.sum() - batch.lengths[1, 2])
  for name in ('clip_fraction', 'entropy', 'logprob_gap', 'kl'):
    assert metrics[name][1] == counted
  entropy, gap = 0.0, 0.0
  for q, prompt in enumerate(PROMPTS):
    for g in range(G):
      if (q, g) == (1, 2):
        continue
      response = batch.tokens[q, g, : batch.lengths[q, g]].tolist()
      logits = tiny.plain_logits(tiny.tiny_params(), [[*prompt, *response]])[0]
      logp = jax.nn.log_softmax(logits[len(prompt) - 1 :][: len(response)])
      entropy -= float(jnp.sum(jnp.exp(logp) * logp))
      chosen = logp[np.arange(len(response)), np.array(response)]
      old = batch.old_logprobs[q, g, : len(response)]
      gap += float(jnp.abs(chosen - old).sum())
  assert float(metrics['entropy'][0]) == pytest.approx(entropy, rel=1e-4)
  assert float(metrics['logprob_gap'][0]) == pytest.approx(gap, rel=1e-4)


def test_causality_through_the_gradient():
  """A response token's log-probability ignores later and other responses."""
  batch = make_batch()

  def logprob(embedding):
    params = tiny.tiny_params(tied=False) | {'embedding': embedding}
    logprobs, _ = policy_loss.response_logprobs(
      tiny.tiny_policy(tied=False), params, batch, chunk=64
    )
    return logprobs[0, 0, 2]

  grad = jax.jit(jax.grad(logprob))(tiny.tiny_params(tied=False)['embedding'])
  seen = set(np.flatnonzero(np.abs(grad).sum(axis=1)))
  assert seen == set(PROMPTS[0]) | set(batch.tokens[0, 0, :2].tolist())


def test_no_array_holds_the_vocabulary_for_every_token():
  """512 tokens times 150k logits would be 311 MB; a chunk of 16 is 10 MB."""
  config = dataclasses.replace(
    tiny.CONFIG, vocab_size=151_936, width=8, num_layers=1
  )
  model = policy.make_policy(config)
  one = sharding.make_mesh(
    dict.fromkeys(sharding.AXES, 1), devices=jax.devices()[:1]
  )
  optimizer = optax.sgd(1.0)
  step = learner.make_train_step(
    model,
    optimizer,
    one,
    policy_loss.LossSettings(logits_chunk=16, entropy_coef=0.1),
    groups_per_microbatch=2,
  )
  rows, numbers = np.zeros((2, 4), np.int32), np.zeros((2, 4, 64), np.float32)
  batch = groups.GroupBatch(
    prompts=batches.pack_prompts([[1, 2, 3], [4, 5]]),
    tokens=numbers.astype(np.int32),
    lengths=rows,
    old_logprobs=numbers,
    advantages=numbers[..., :1],
    weights=rows.astype(np.float32),
    num_groups=np.int32(2),
  )
  state = jax.eval_shape(
    lambda key: learner.init_state(model.init(key), optimizer),
    jax.random.key(0),
  )
  compiled = step.lower(state, batch, None, None).compile()
  text = compiled.as_text()
  sizes = {
    math.prod(map(int, dims.split(',')))
    for dims in re.findall(r'[a-z]+\d*\[([\d,]+)\]', text)
    if '151936' in dims
  }
  # No array is larger than the logits of a chunk and the embedding.
  assert max(sizes) == 16 * 151_936
