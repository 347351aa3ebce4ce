"""Draws against the distribution they are meant to follow."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from sqlm_jax.ops import sampling

INF = float('inf')
BELOW_ONE = float(np.nextafter(np.float32(1), np.float32(0)))
VOCABULARY = 300  # two blocks of 128 and one of 44

nucleus = jax.jit(sampling.nucleus)


@jax.jit
def transform(uniforms, logits):
  """Draws without temperature and top-p."""
  tokens, _ = sampling.inverse_transform(
    uniforms,
    logits,
    scale_B=jnp.ones_like(uniforms),
    lowest_B=jnp.full_like(uniforms, -INF),
  )
  return tokens


@jax.jit
def draw(uniforms, logits, temperature, top_p):
  return sampling.draw(
    uniforms, logits, temperature_B=temperature, top_p_B=top_p
  )


def test_from_the_policy_itself():
  rng = np.random.default_rng(0)
  logits = rng.normal(0, 3, (64, VOCABULARY)).astype('f')
  logits[:, 7] = -INF
  uniforms, ones = rng.uniform(size=64).astype('f'), np.ones(64, 'f')
  found = jax.jit(sampling.draw)(uniforms, logits)
  expected = draw(uniforms, logits, ones, ones)
  np.testing.assert_array_equal(found.tokens, expected.tokens)
  for name in ('logprobs', 'sampling_logprobs'):
    np.testing.assert_allclose(
      getattr(found, name), getattr(expected, name), rtol=1e-6
    )


@functools.cache
def logits_of(seed):
  return np.random.default_rng(seed).normal(0, 1.5, VOCABULARY).astype('f')


@pytest.mark.parametrize('seed', [0, 1])
def test_frequencies_are_those_of_the_softmax(seed):
  rows = 20_000
  logits = logits_of(seed)
  uniforms = jax.random.uniform(jax.random.key(seed), (rows,))
  tokens = transform(uniforms, jnp.broadcast_to(logits, (rows, VOCABULARY)))
  assert tokens.shape == (rows,)
  probs = np.exp(logits.astype('d'))
  expected = rows * probs / probs.sum()
  counts = np.bincount(tokens, minlength=VOCABULARY)
  # The test requires at least five in every class, so rare ones are merged.
  rare = expected < 5

  def merge(x):
    return np.append(x[~rare], x[rare].sum())

  assert stats.chisquare(merge(counts), merge(expected)).pvalue > 1e-3


@pytest.mark.parametrize('size', [1, 2, 127, 128, 129, 256, 300])
def test_token_whose_slice_holds_the_uniform(size):
  """Equal logits: uniform u means token floor(u V)."""
  middles = (np.arange(size, dtype='f') + 0.5) / size
  tokens = transform(middles, jnp.zeros((size, size)))
  np.testing.assert_array_equal(tokens, np.arange(size))


@pytest.mark.parametrize(
  'live',
  [
    [0],
    [299],
    [127],
    [128],
    [5, 255],
    [0, 127, 128, 299],
    [*range(130, 140)],
    [*range(0, 300, 7)],
  ],
)
def test_never_draws_what_has_no_probability(live):
  logits = np.full(VOCABULARY, -INF, 'f')
  logits[live] = logits_of(2)[live]
  uniforms = np.append(np.linspace(0, 1, 510, endpoint=False), BELOW_ONE)
  uniforms = np.append(uniforms, np.finfo('f').tiny).astype('f')
  tokens = np.array(
    transform(uniforms, np.broadcast_to(logits, (512, VOCABULARY)))
  )
  assert set(tokens) <= set(live)
  assert tokens[0] == live[0]
  assert tokens[-2] == live[-1]
  # With few tokens, every slice is wide enough to be hit.
  if len(live) < 5:
    assert set(tokens) == set(live)


@pytest.mark.parametrize('uniform', [0.0, BELOW_ONE])
def test_ends_of_the_unit_interval(uniform):
  """512 distributions have many small weights, so that sums are rounded."""
  rng = np.random.default_rng(5)
  logits = rng.normal(0, 6, (512, VOCABULARY)).astype('f')
  logits[rng.random(logits.shape) < 0.5] = -INF
  tokens = transform(np.full(512, uniform, 'f'), logits)
  assert np.isfinite(logits[np.arange(512), tokens]).all()
  if uniform == 0:
    np.testing.assert_array_equal(tokens, np.isfinite(logits).argmax(axis=1))


def nucleus_by_sorting(logits, top_p):
  """Returns the smallest set of likeliest tokens with `top_p`, including ties.

  Float64 sums over a sorted row: Holtzman et al. (2020), eq. 2.
  """
  probs = np.exp(logits.astype('d') - logits.max())
  probs /= probs.sum()
  falling = np.sort(probs)[::-1]
  enough = np.cumsum(falling) >= top_p - 1e-12
  last = enough.argmax() if enough.any() else len(probs) - 1
  return probs >= falling[last] * (1 - 1e-12)


@pytest.mark.parametrize('top_p', [0.0, 0.05, 0.3, 0.5, 0.9, 0.95, 0.99])
def test_nucleus_equals_that_of_sorting(top_p):
  rng = np.random.default_rng(3)
  # Integers times a half: nearly every logit has many equals.
  logits = np.concatenate(
    [
      rng.normal(0, 2, (16, VOCABULARY)),
      rng.integers(-6, 6, (16, VOCABULARY)) / 2,
    ]
  ).astype('f')
  kept = nucleus(logits, np.full(32, top_p, 'f'))
  expected = np.stack([nucleus_by_sorting(row, top_p) for row in logits])
  np.testing.assert_array_equal(kept, expected)


@pytest.mark.parametrize(
  'probs, top_p, kept',
  [
    # Dyadic probabilities, whose sums are exact.
    ([0.5, 0.25, 0.125, 0.125], 0.5, [1, 0, 0, 0]),
    ([0.5, 0.25, 0.125, 0.125], 0.5625, [1, 1, 0, 0]),
    ([0.5, 0.25, 0.125, 0.125], 0.75, [1, 1, 0, 0]),
    ([0.5, 0.25, 0.125, 0.125], 0.8125, [1, 1, 1, 1]),  # both of the tie
    ([0.25, 0.25, 0.25, 0.25], 0.25, [1, 1, 1, 1]),
    ([0.25, 0.25, 0.25, 0.25], 0.0, [1, 1, 1, 1]),
    ([0.125, 0.125, 0.25, 0.5], 0.0, [0, 0, 0, 1]),
    ([0.125, 0.125, 0.25, 0.5], 1.0, [1, 1, 1, 1]),
    ([0.0, 1.0, 0.0, 0.0], 0.0, [0, 1, 0, 0]),
    ([0.0, 1.0, 0.0, 0.0], 0.5, [0, 1, 0, 0]),
  ],
)
def test_nucleus_by_hand(probs, top_p, kept):
  with np.errstate(divide='ignore'):
    logits = np.log(np.array([probs], 'f'))
  got = nucleus(logits, np.array([top_p], 'f'))
  np.testing.assert_array_equal(got, [np.array(kept, bool)])


def test_rows_have_their_own_top_p():
  logits = np.log(np.array([[0.5, 0.25, 0.25]] * 3, 'f'))
  got = nucleus(logits, np.array([0.25, 0.75, 1.0], 'f'))
  np.testing.assert_array_equal(
    got, np.array([[1, 0, 0], [1, 1, 1], [1, 1, 1]], bool)
  )


def test_temperature_zero_takes_the_likeliest():
  logits = np.stack([logits_of(0), logits_of(1), logits_of(2)])
  got = draw(
    np.array([0, 0.5, BELOW_ONE], 'f'), logits, np.zeros(3), np.ones(3)
  )
  np.testing.assert_array_equal(got.tokens, logits.argmax(axis=1))
  # The draw had probability 1, but the policy's probability is lower.
  np.testing.assert_array_equal(got.sampling_logprobs, 0)
  expected = logits.max(axis=1) - np.log(np.exp(logits).sum(axis=1))
  np.testing.assert_allclose(got.logprobs, expected, rtol=1e-5)


def test_logprobs_of_a_draw():
  """Checks both log-probabilities, of the policy and of the draw, by hand."""
  # At temperature 1/2 odds are squared: 16 : 4 : 1 : 1 of 22. A nucleus of
  # 0.9 is {16, 4}, 20 of 22, as 16 alone is 0.73.
  logits = np.log(np.array([[4, 2, 1, 1]] * 3, 'f'))
  uniforms = np.array([0.1, 0.9, 0.96], 'f')
  got = draw(
    uniforms, logits, np.full(3, 0.5, 'f'), np.array([0.9, 0.9, 1.0], 'f')
  )
  # Slices end at 16/20 and 20/20; uncut at 16/22, 20/22 and 21/22 = 0.954.
  np.testing.assert_array_equal(got.tokens, [0, 1, 3])
  assert got.tokens.dtype == jnp.int32
  np.testing.assert_allclose(
    np.exp(got.logprobs), [4 / 8, 2 / 8, 1 / 8], rtol=1e-5
  )
  np.testing.assert_allclose(
    np.exp(got.sampling_logprobs), [16 / 20, 4 / 20, 1 / 22], rtol=1e-5
  )


def test_a_row_does_not_depend_on_its_neighbours():
  """Nor if another row has a nucleus, which changes the computation."""
  logits = np.stack([logits_of(0)] * 3)
  uniforms = np.full(3, 0.7, 'f')
  ones = np.ones(3, 'f')
  alone = draw(uniforms, logits, ones, ones)
  beside = draw(
    uniforms, logits, np.array([1, 0, 2], 'f'), np.array([1, 1, 0.1], 'f')
  )
  for x, y in zip(alone, beside, strict=True):
    assert x[0] == y[0]


def test_a_sum_that_rounds_up_over_nothing_draws_nothing_there():
  """Prefix sums are not added in order, so they may rise by an ulp."""
  drawn, rose = jax.jit(sampling.draw), 0
  for seed in range(12):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, 49152).astype(np.float32)
    logits[rng.random(len(logits)) < 0.999] = -INF
    sums = np.exp(logits - logits.max()).reshape(-1, 128).sum(axis=1)
    ends = np.asarray(jnp.cumsum(sums))
    (rising,) = np.nonzero((np.diff(ends) > 0) & (sums[1:] == 0))
    near = np.rint(ends[rising] / ends[-1] * 2**23)[:, None] + np.arange(-3, 4)
    near = np.clip(np.unique(near), 0, 2**23 - 1)
    if not len(near):
      continue
    rose += 1
    uniforms = np.resize(near / 2**23, 64).astype(np.float32)
    rows = np.repeat(logits[None], 64, axis=0)
    assert np.isfinite(logits[np.asarray(drawn(uniforms, rows).tokens)]).all()
  assert rose
