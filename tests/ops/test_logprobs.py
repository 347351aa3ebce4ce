"""Log-probabilities of chosen tokens, whole and in chunks."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core

from sqlm_jax.ops import logprobs

ROWS, WIDTH, VOCABULARY = 10, 6, 37
# Two groups of five rows. Chunks hold one, two, three (then two) or all rows of
# a group.
GROUPS, CHUNKS = 2, [1, 4, 6, 64]
# float32: logits near 20 are rounded at 2e-6, an entropy sums 37 of them.
CLOSE = {'rtol': 1e-5, 'atol': 1e-4}


@functools.cache
def data():
  keys = jax.random.split(jax.random.key(0), 4)
  return (
    jax.random.normal(keys[0], (WIDTH, VOCABULARY)) * 2,
    jax.random.normal(keys[1], (ROWS, WIDTH)),
    jax.random.randint(keys[2], (ROWS,), 0, VOCABULARY),
    jax.random.normal(keys[3], (ROWS,)),
  )


def reference(weights, hidden, tokens):
  """Computes log-probabilities and entropies by their definitions."""
  logps = jax.nn.log_softmax(hidden @ weights)
  entropy = -jnp.sum(jnp.exp(logps) * logps, axis=-1)
  return logps[jnp.arange(tokens.size), tokens], entropy


def chunked(weights, hidden, tokens, chunk, **settings):
  """Computes the results of `reference` in chunks of groups."""
  found = logprobs.chosen_in_chunks(
    lambda x: x @ weights,
    hidden.reshape(GROUPS, -1, hidden.shape[-1]),
    tokens.reshape(GROUPS, -1, 1),
    chunk=chunk,
    **settings,
  )
  return tuple(x.reshape(-1) for x in found)


def loss(function, weights, hidden, tokens, factors, *args):
  return jnp.sum(factors * function(weights, hidden, tokens, *args)[0])


def test_chosen_by_hand():
  # Odds 1 : 3 and 1 : 1; entropies 2 log 2 - 3/4 log 3 and log 2.
  logits = jnp.log(jnp.array([[1.0, 3.0], [5.0, 5.0]]))
  logps, entropy = logprobs.chosen(logits, jnp.array([[1], [0]]))
  np.testing.assert_allclose(np.exp(logps), [[0.75], [0.5]], rtol=1e-6)
  log2, log3 = np.log(2), np.log(3)
  np.testing.assert_allclose(entropy, [2 * log2 - 0.75 * log3, log2], rtol=1e-6)


@pytest.mark.parametrize('through_entropy', [False, True])
def test_several_tokens_of_one_distribution(through_entropy):
  """The results equal those of repeated rows; one token is chosen twice."""
  rng = np.random.default_rng(0)
  logits = jnp.float32(rng.normal(size=(2, 7)))
  tokens = np.array([[3, 0, 3], [6, 5, 1]])
  factors = jnp.float32(rng.normal(size=(2, 3)))

  def together(logits):
    logps, entropy = logprobs.chosen(
      logits, tokens, through_entropy=through_entropy
    )
    bonus = jnp.sum(entropy) if through_entropy else 0.0
    return jnp.sum(factors * logps) + 3 * bonus

  def apart(logits):
    repeated = jnp.repeat(logits, 3, axis=0)
    whole = jax.nn.log_softmax(repeated)
    picked = whole[np.arange(6), tokens.ravel()]
    bonus = -jnp.sum(jnp.exp(whole) * whole) if through_entropy else 0.0
    return jnp.sum(factors.ravel() * picked) + bonus

  found, expected = (jax.value_and_grad(f)(logits) for f in (together, apart))
  np.testing.assert_allclose(found[0], expected[0], **CLOSE)
  np.testing.assert_allclose(found[1], expected[1], **CLOSE)


def test_no_tokens():
  found = logprobs.chosen_in_chunks(
    lambda x: x @ jnp.ones((4, 9)),
    jnp.ones((2, 0, 4)),
    jnp.ones((2, 0, 1), jnp.int32),
    chunk=8,
  )
  assert [x.shape for x in found] == [(2, 0, 1), (2, 0)]


@pytest.mark.parametrize('shift', [0.0, 1e4, -1e4])
def test_chosen_does_not_overflow(shift):
  # A difference of 50 is exact at 1e4, and log(1 + e^-50) is 0 in float32.
  logits = jnp.array([[0.0, -50.0]]) + shift
  logps, entropy = logprobs.chosen(logits, jnp.array([[1]]))
  np.testing.assert_array_equal(logps, [[-50.0]])
  np.testing.assert_allclose(entropy, [0.0], atol=1e-6)


@pytest.mark.parametrize('vocab_size', [1, 37, 48, 300])
@pytest.mark.parametrize('sums', [logprobs._sums, logprobs._sums_in_one_pass])
def test_sums_over_logits(sums, vocab_size):
  logits = np.random.default_rng(0).normal(0, 3, (5, vocab_size)).astype('f')
  logits[:, 1::7] = -np.inf
  highest = logits.max(axis=1)
  below = highest[:, None] - logits.astype('d')
  weights = np.exp(-below)
  total, of_entropy = jax.jit(sums)(logits, highest)
  np.testing.assert_allclose(total, weights.sum(axis=1), rtol=1e-6)
  expected = (weights * np.where(weights > 0, below, 0)).sum(axis=1)
  np.testing.assert_allclose(of_entropy, expected, rtol=1e-5, atol=1e-6)


def test_chosen_equals_log_softmax():
  weights, hidden, tokens, _ = data()
  logps, entropy = logprobs.chosen(hidden @ weights, tokens[:, None])
  expected = reference(weights, hidden, tokens)
  np.testing.assert_allclose(logps[:, 0], expected[0], **CLOSE)
  np.testing.assert_allclose(entropy, expected[1], **CLOSE)


@pytest.mark.parametrize('chunk', CHUNKS)
def test_chunks_equal_log_softmax(chunk):
  weights, hidden, tokens, factors = data()
  got = jax.jit(chunked, static_argnums=3)(weights, hidden, tokens, chunk)
  for one, other in zip(got, reference(weights, hidden, tokens), strict=True):
    assert one.shape == (ROWS,)
    np.testing.assert_allclose(one, other, **CLOSE)
  # Gradients of the unembedding and of the hidden states.
  grad = jax.jit(jax.grad(loss, argnums=(1, 2)), static_argnums=(0, 5))
  got = grad(chunked, weights, hidden, tokens, factors, chunk)
  expected = grad(reference, weights, hidden, tokens, factors)
  for one, other in zip(got, expected, strict=True):
    np.testing.assert_allclose(one, other, **CLOSE)


def test_no_gradient_flows_through_the_entropy():
  weights, hidden, tokens, _ = data()
  grad = jax.grad(lambda h: jnp.sum(chunked(weights, h, tokens, 4)[1]))(hidden)
  np.testing.assert_array_equal(grad, 0)


def test_a_gradient_through_the_entropy_if_asked_for():
  weights, hidden, tokens, factors = data()

  def ours(h):
    return chunked(weights, h, tokens, 4, through_entropy=True)[1]

  def theirs(h):
    return reference(weights, h, tokens)[1]

  def grad(f):
    return jax.jit(jax.grad(lambda h: jnp.sum(f(h) * factors)))(hidden)

  assert np.abs(grad(theirs)).max() > 1e-2
  np.testing.assert_allclose(grad(ours), grad(theirs), **CLOSE)


def shapes_of(jaxpr):
  """Yields the shapes of all results, also of inner computations."""
  for equation in jaxpr.eqns:
    for out in equation.outvars:
      yield tuple(out.aval.shape)
    for inner in core.jaxprs_in_params(equation.params):
      yield from shapes_of(inner)


def rows_of_logits(function, *args):
  """Returns the maximum number of rows of logits in any array."""
  return max(
    (
      int(np.prod(shape)) // VOCABULARY
      for shape in shapes_of(jax.make_jaxpr(function)(*args).jaxpr)
      if VOCABULARY in shape
    ),
    default=0,
  )


@pytest.mark.parametrize('chunk', [2, 3, 6])
def test_never_more_rows_of_logits_than_a_chunk(chunk):
  # Width 1, so that the unembedding itself is as small as a row of logits.
  weights, hidden, tokens, factors = data()
  table, hidden = weights.T[:, :1], hidden[:, :1]

  def value(table, hidden):
    return jnp.sum(chunked(table.T, hidden, tokens, chunk)[0] * factors)

  def whole(table, hidden):
    return jnp.sum(reference(table.T, hidden, tokens)[0] * factors)

  def grad(f):
    return jax.grad(f, argnums=(0, 1))

  most = chunk // GROUPS * GROUPS
  assert rows_of_logits(value, table, hidden) == most
  assert rows_of_logits(grad(value), table, hidden) == most
  # Without chunks, the measure finds all rows.
  assert rows_of_logits(whole, table, hidden) == ROWS
  assert rows_of_logits(grad(whole), table, hidden) == ROWS


@pytest.mark.parametrize('chunk, products', [(4, 4), (64, 3)])
def test_logits_are_computed_again_for_several_chunks_alone(chunk, products):
  # Products are logits, perhaps computed twice, and gradients of both factors.
  weights, hidden, tokens, factors = data()
  grad = jax.grad(functools.partial(loss, chunked), argnums=(0, 1))

  def of_chunk(weights, hidden):
    return grad(weights, hidden, tokens, factors, chunk)

  text = str(jax.make_jaxpr(of_chunk)(weights, hidden))
  assert text.count('dot_general') == products


def test_groups_stay_where_they_are():
  """Groups that are split over devices are not moved to compute logits."""
  mesh = jax.make_mesh(
    (8,), ('groups',), axis_types=(jax.sharding.AxisType.Auto,)
  )
  split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('groups'))
  hidden = jax.ShapeDtypeStruct((16, 12, WIDTH), jnp.float32, sharding=split)
  tokens = jax.ShapeDtypeStruct((16, 12, 1), jnp.int32, sharding=split)

  def value(hidden, tokens):
    found = logprobs.chosen_in_chunks(
      lambda x: x @ jnp.ones((WIDTH, VOCABULARY)), hidden, tokens, chunk=64
    )
    return jax.lax.with_sharding_constraint(found, split)

  text = jax.jit(value).lower(hidden, tokens).compile().as_text()
  assert 'f32[8,37]' in text  # four tokens of each of a device's two groups
  assert not re.search('all-to-all|all-gather|collective-permute', text)
