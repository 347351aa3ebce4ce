"""Tests of the decoder: causality, and texts in one or more segments."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sqlm_jax.distributed import sharding
from sqlm_jax.models import policy, stacked_attention
from sqlm_jax.ops import packing as packing_lib
from tests import tiny

# float32 on CPU, two layers: sums in another order.
CLOSE = {'rtol': 1e-4, 'atol': 1e-5}

forward = jax.jit(tiny.tiny_policy().forward)


def texts(rows, width, seed=0):
  rng = np.random.default_rng(seed)
  return rng.integers(0, tiny.CONFIG.vocab_size, (rows, width))


def full(rows, length):
  return jnp.full((rows,), length)


def one_cpu():
  """Returns a mesh of one CPU, where the segments of a chain form one row."""
  return sharding.make_mesh(dict.fromkeys(sharding.AXES, 1), jax.devices()[:1])


MESHES = pytest.mark.parametrize(
  'make_mesh', [lambda: None, one_cpu], ids=['apart', 'in one row']
)


def test_gradient_flows_to_earlier_tokens_of_the_same_row_only():
  rows, width = 2, 4
  params = tiny.tiny_params()
  # Every token has its own embedding, so that its gradient is the token's.
  tokens = jnp.arange(rows * width).reshape(rows, width)
  factors = jax.random.normal(jax.random.key(3), (tiny.CONFIG.width,))

  def outputs(embedding):
    changed = params | {'embedding': embedding}
    hidden, _ = tiny.tiny_policy().forward(changed, tokens, full(rows, width))
    return (hidden @ factors).ravel()

  gradients = jax.jit(jax.jacrev(outputs))(params['embedding'])
  influence = jnp.any(gradients != 0, axis=-1)
  allowed = np.kron(np.eye(rows), np.tril(np.ones((width, width))))
  np.testing.assert_array_equal(influence[:, : rows * width], allowed == 1)
  assert not influence[:, rows * width :].any()


@pytest.mark.parametrize('cuts', [[4], [3], [1, 5], [0, 4]])
def test_segments_equal_one_text(cuts):
  rows, width, slots = 3, 8, 5
  params = tiny.tiny_params()
  tokens = texts(rows, width)
  whole, _ = forward(params, tokens, full(rows, width))
  context, hidden = (), []
  for start, end in zip([0, *cuts], [*cuts, width], strict=True):
    length = end - start
    # The padding has random tokens.
    part = texts(rows, slots, seed=1)
    part[:, :length] = tokens[:, start:end]
    out, keys_values = forward(params, part, full(rows, length), context)
    hidden.append(out[:, :length])
    context = (*context, keys_values)
  np.testing.assert_allclose(np.concatenate(hidden, axis=1), whole, **CLOSE)


def test_rows_of_different_length_share_prompts():
  """There are a common prefix and two prompts with two answers each."""
  params = tiny.tiny_params()
  prefix, prompts, answers = texts(1, 3), texts(2, 4, 1), texts(4, 2, 2)
  lengths = jnp.array([4, 2])
  _, first = forward(params, prefix, full(1, 3))
  _, second = forward(params, prompts, lengths, (first,))
  hidden, _ = forward(params, answers, full(4, 2), (first, second))
  logits = tiny.tiny_policy().logits(params, hidden)
  whole = [
    [*prefix[0], *prompts[i // 2][: lengths[i // 2]], *answers[i]]
    for i in range(4)
  ]
  plain = tiny.plain_logits(params, whole)
  for i, text in enumerate(whole):
    expected = plain[i, len(text) - 2 : len(text)]
    np.testing.assert_allclose(logits[i], expected, **CLOSE)


def test_padding_has_no_influence():
  """Padding changes no bit, neither in a segment nor in a context."""
  params = tiny.tiny_params()
  lengths = jnp.array([4, 0, 2])
  padded = texts(3, 4)
  behind = np.arange(4) >= np.array(lengths)[:, None]
  other = np.where(behind, texts(3, 4, seed=9), padded)
  assert (other != padded).any()
  answers = texts(3, 2, seed=5)
  seen = []
  for prompts in (padded, other):
    before, context = forward(params, prompts, lengths)
    after, _ = forward(params, answers, full(3, 2), (context,))
    seen.append((np.where(behind[..., None], 0, before), after))
  for one, changed in zip(*seen, strict=True):
    np.testing.assert_array_equal(one, changed)


def test_empty_cache_is_no_context():
  params = tiny.tiny_params()
  tokens = texts(2, 3)
  cache = tiny.tiny_policy().init_cache(2, 5)
  assert cache.keys.shape == cache.values.shape == (2, 2, 2, 5, 8)
  np.testing.assert_array_equal(cache.lengths, [0, 0])
  with_cache, keys_values = forward(params, tokens, full(2, 3), (cache,))
  without, _ = forward(params, tokens, full(2, 3))
  np.testing.assert_allclose(with_cache, without, **CLOSE)
  assert keys_values.keys.shape == (2, 2, 2, 3, 8)
  np.testing.assert_array_equal(keys_values.lengths, [3, 3])


def test_one_cpu_decodes_by_blocks_of_rows(monkeypatch):
  """Only single tokens are computed by blocks, not several per row."""
  monkeypatch.setattr(stacked_attention, '_BLOCK_BYTES', 1)
  params, lengths = tiny.tiny_params(), jnp.array([2, 3])
  plain, in_blocks = (
    policy.make_policy(tiny.CONFIG, mesh=mesh) for mesh in (None, one_cpu())
  )
  _, context = plain.forward(params, texts(2, 3), lengths)

  def loops(p, width):
    args = params, texts(4, width), full(4, width), (context,)
    return str(jax.make_jaxpr(p.forward)(*args)).count('scan[')

  assert loops(in_blocks, 1) == loops(plain, 1) + 1
  assert loops(in_blocks, 2) == loops(plain, 2)
  hidden, own = in_blocks.forward(params, texts(4, 1), full(4, 1), (context,))
  expected, expected_own = plain.forward(
    params, texts(4, 1), full(4, 1), (context,)
  )
  np.testing.assert_allclose(hidden, expected, **CLOSE)
  chex.assert_trees_all_close(own, expected_own, **CLOSE)


@MESHES
@pytest.mark.parametrize('remat', ['none', 'dots', 'full'])
def test_a_chain_is_its_segments_one_after_the_other(remat, make_mesh):
  # Two rows of the second segment share the row of the first, and three rows of
  # the third share each row of the second.
  tokens = texts(1, 3), texts(2, 4), texts(6, 2)
  lengths = full(1, 3), np.array([4, 2]), full(6, 2)
  segments = tuple(map(policy.Segment, tokens, lengths))
  p = policy.make_policy(tiny.CONFIG, remat=remat, mesh=make_mesh())

  def in_turn(params):
    hidden, context = [], ()
    for segment in segments:
      states, own = p.forward(params, segment.tokens, segment.lengths, context)
      hidden.append(states)
      context = (*context, own)
    return tuple(hidden), context

  def together(params):
    return p.forward_chain(params, segments)

  def loss(read, params):
    return sum(jnp.sum(jnp.sin(states)) for states in read(params)[0])

  params = tiny.tiny_params()
  chex.assert_trees_all_close(
    jax.jit(together)(params), jax.jit(in_turn)(params), **CLOSE
  )
  grads = [
    jax.jit(jax.grad(functools.partial(loss, read)))(params)
    for read in (together, in_turn)
  ]
  # Entries are up to 20: 1.2e-5 was seen where they cancel, with AVX-512.
  chex.assert_trees_all_close(*grads, rtol=1e-4, atol=2e-5)


@MESHES
def test_a_chain_of_packed_rows(make_mesh):
  """The packed tokens of three rows have the results of unpacked rows."""
  tokens, lengths = texts(4, 5), np.array([5, 0, 2, 3])
  places = np.full((2, 2, 5), 6, np.int32)
  places[0, 0] = range(5)
  places[1, 0, :2], places[1, 1, :3] = (0, 1), (2, 3, 4)
  slots = np.array([[0, 1, 2, 3, 4, 99], [0, 1, 5, 6, 7, 99]], np.int32)
  packing = packing_lib.Packing(slots, places)
  prompts = policy.Segment(texts(2, 4, seed=1), np.array([4, 3]))
  rows = policy.Segment(tokens, lengths)
  parts = policy.Segment(packing_lib.pack(tokens, packing), lengths, packing)
  params = tiny.tiny_params()
  p = policy.make_policy(tiny.CONFIG, mesh=make_mesh())
  chain = jax.jit(p.forward_chain)
  (_, expected), (_, expected_pair) = chain(params, (prompts, rows))
  (_, found), (_, pair) = chain(params, (prompts, parts))
  live = np.arange(5) < lengths[:, None]
  assert found.shape[:2] == (2, 6)
  np.testing.assert_allclose(
    packing_lib.unpack(found, packing)[live], expected[live], **CLOSE
  )
  for seen, theirs in zip(pair[:2], expected_pair[:2], strict=True):

    def by_token(x):
      return np.moveaxis(x, 3, 2)[:, live]

    np.testing.assert_allclose(by_token(seen), by_token(theirs), **CLOSE)
  np.testing.assert_array_equal(pair.lengths, lengths)


@MESHES
def test_a_chain_behind_a_context(make_mesh):
  params, tokens = tiny.tiny_params(), texts(2, 9)
  whole, _ = forward(params, tokens, full(2, 9))
  _, context = forward(params, tokens[:, :3], full(2, 3))
  segments = (
    policy.Segment(tokens[:, 3:7], full(2, 4)),
    policy.Segment(tokens[:, 7:], full(2, 2)),
  )
  p = policy.make_policy(tiny.CONFIG, mesh=make_mesh())
  hidden, _ = jax.jit(p.forward_chain)(params, segments, (context,))
  found = jnp.concatenate(hidden, axis=1)
  np.testing.assert_allclose(found, whole[:, 3:], **CLOSE)


def test_in_one_row_a_weight_is_multiplied_once():
  """Three segments are multiplied together, and attend as separate ones do."""
  segments = tuple(
    policy.Segment(texts(2, width), full(2, width)) for width in (3, 5, 2)
  )
  weights, looks = 7, 1 + 2 + 3

  def products(mesh):
    p = policy.make_policy(tiny.CONFIG, mesh=mesh)
    chain = functools.partial(p.forward_chain, segments=segments)
    return str(jax.make_jaxpr(chain)(tiny.tiny_params())).count('dot_general[')

  assert products(None) == len(segments) * weights + 2 * looks
  assert products(one_cpu()) == weights + 2 * looks


def test_bfloat16():
  halves = policy.make_policy(tiny.CONFIG, dtype='bfloat16')
  params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), tiny.tiny_params())
  shapes = jax.eval_shape(halves.init, jax.random.key(0))
  assert {x.dtype for x in jax.tree.leaves(shapes)} == {jnp.dtype('bfloat16')}
  assert halves.init_cache(1, 1).keys.dtype == jnp.bfloat16
  tokens = texts(2, 8)

  @jax.jit
  def run(params):
    hidden, context = halves.forward(params, tokens, full(2, 8))
    again, _ = halves.forward(params, tokens, full(2, 8), (context,))
    return hidden, halves.logits(params, hidden), halves.logits(params, again)

  hidden, logits, again = run(params)
  assert hidden.dtype == jnp.bfloat16
  assert logits.dtype == jnp.bfloat16
  assert jnp.isfinite(logits).all()
  assert jnp.isfinite(again).all()
  # Each operation rounds by half a percent; logits have deviation 1.5.
  expected = tiny.plain_logits(tiny.tiny_params(), tokens.tolist())[:, :8]
  np.testing.assert_allclose(logits.astype(jnp.float32), expected, atol=0.25)


@pytest.mark.parametrize('tied', [True, False])
def test_bfloat16_on_a_cpu_is_for_operands_of_products(tied):
  config = dataclasses.replace(
    tiny.CONFIG, tied_embeddings=tied, qkv_bias=True, mlp_bias=True
  )
  make = functools.partial(policy.make_policy, config, mesh=one_cpu())
  whole, halves = make(), make(dtype='bfloat16', param_dtype='float32')
  params = jax.jit(whole.init)(jax.random.key(0))
  assert halves.init_cache(1, 1).keys.dtype == jnp.float32
  tokens = texts(2, 8)

  def likelihood(p, params):
    hidden, context = p.forward(params, tokens, full(2, 8))
    again, _ = p.forward(params, tokens[:, :1], full(2, 1), (context,))
    logits = jnp.concatenate([p.logits(params, x) for x in (hidden, again)], 1)
    return jnp.mean(jax.nn.log_softmax(logits)[..., 7]), logits

  def run(p, params):
    return jax.jit(
      jax.value_and_grad(functools.partial(likelihood, p), has_aux=True)
    )(params)

  (_, exact), exact_gradient = run(whole, params)
  (_, found), gradient = run(halves, params)
  assert found.dtype == jnp.float32
  assert 1e-4 < jnp.abs(found - exact).max() < 0.05
  for a, b in zip(
    jax.tree.leaves(gradient), jax.tree.leaves(exact_gradient), strict=True
  ):
    np.testing.assert_allclose(a, b, atol=0.03 * float(jnp.abs(b).max()))
  # Casting once is the same as casting in every product.
  cast = jax.jit(halves.cast)(params)
  assert cast['layers']['mlp']['up']['kernel'].nbytes == (
    params['layers']['mlp']['up']['kernel'].nbytes // 2
  )
  _, again = jax.jit(functools.partial(likelihood, halves))(cast)
  np.testing.assert_array_equal(again, found)


@pytest.mark.parametrize('remat', ['dots', 'full'])
def test_rematerialised_gradients_are_the_same(remat):
  tokens = texts(2, 6)

  def gradients(remat):
    p = policy.make_policy(tiny.CONFIG, remat=remat)

    def loss(params):
      hidden, _ = p.forward(params, tokens, full(2, 6))
      return jnp.sum(jnp.square(p.logits(params, hidden)[..., :5]))

    return jax.jit(jax.grad(loss))(tiny.tiny_params())

  jax.tree.map(
    lambda one, other: np.testing.assert_allclose(
      one, other, rtol=1e-4, atol=1e-3
    ),
    gradients(remat),
    gradients('none'),
  )


def test_what_is_rematerialised_is_not_stored():
  """Each policy stores less: all activations, products, only the input."""

  def stored(remat):
    p = policy.make_policy(tiny.CONFIG, remat=remat)

    def forward(params):
      return p.forward(params, texts(2, 6), full(2, 6))[0]

    _, backward = jax.eval_shape(
      lambda params: jax.vjp(forward, params), tiny.tiny_params()
    )
    return sum(x.size for x in jax.tree.leaves(backward))

  everything, products, least = map(stored, ('none', 'dots', 'full'))
  assert everything > products > least


@pytest.mark.parametrize('tied', [True, False])
def test_logits_are_a_product(tied):
  """The matrix is the transposed embedding, or a separate one."""
  vocabulary, width = tiny.CONFIG.vocab_size, tiny.CONFIG.width
  rng = np.random.default_rng(0)
  embedding = rng.normal(size=(vocabulary, width)).astype('f')
  kernel = rng.normal(size=(width, vocabulary)).astype('f')
  hidden = rng.normal(size=(2, 3, width)).astype('f')
  params = {'embedding': embedding}
  if not tied:
    params['unembed'] = {'kernel': kernel}
  got = tiny.tiny_policy(tied).logits(params, hidden)
  expected = hidden @ (embedding.T if tied else kernel)
  np.testing.assert_allclose(got, expected, **CLOSE)
