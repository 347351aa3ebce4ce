"""Attention over segments against attention over the concatenated text."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sqlm_jax.models import attention
from sqlm_jax.ops import segment_attention

ROWS, WIDTH, HEAD_WIDTH = 4, 3, 8
# float32; both sum the same products in another order.
CLOSE = {'rtol': 1e-5, 'atol': 1e-5}

SPAN = attention.Span(HEAD_WIDTH**-0.5)


def by_token(query, key, value, context=(), *, span):
  """Calls `attend` with keys and values [.., S, K, H]."""

  def stored(x):
    return jnp.swapaxes(x, 1, 2)

  context = tuple(
    part._replace(keys=stored(part.keys), values=stored(part.values))
    for part in context
  )
  return attention.attend(query, stored(key), stored(value), context, span=span)


attend = jax.jit(functools.partial(by_token, span=SPAN))


def normal(seed, *shape):
  return jax.random.normal(jax.random.key(seed), shape)


def key_shape(rows, slots):
  return rows, 2, slots, HEAD_WIDTH


def segment(seed, slots, num_kv_heads, lengths):
  shape = (len(lengths), slots, num_kv_heads, HEAD_WIDTH)
  return attention.KeyValues(
    normal(seed, *shape), normal(seed + 1, *shape), jnp.array(lengths)
  )


def concatenated(query, key, value, context):
  """Computes unshared attention with jax.nn.dot_product_attention."""
  keys, values, live = [], [], []
  for part in context:
    share = ROWS // part.keys.shape[0]
    slots = np.arange(part.keys.shape[1])
    seen = slots[None] < np.array(part.lengths)[:, None]
    keys.append(jnp.repeat(part.keys, share, axis=0))
    values.append(jnp.repeat(part.values, share, axis=0))
    seen = np.repeat(seen, share, axis=0)[:, None, None]
    live.append(np.broadcast_to(seen, (ROWS, 1, WIDTH, len(slots))))
  causal = np.tril(np.ones((WIDTH, WIDTH), bool))[None, None]
  live.append(np.broadcast_to(causal, (ROWS, 1, WIDTH, WIDTH)))
  return jax.nn.dot_product_attention(
    query,
    jnp.concatenate([*keys, key], axis=1),
    jnp.concatenate([*values, value], axis=1),
    mask=jnp.concatenate(live, axis=-1),
  )


def value_and_gradients(function, query, key, value, context):
  lengths = [part.lengths for part in context]
  factors = normal(99, *query.shape)

  @functools.partial(jax.value_and_grad, argnums=(0, 1, 2, 3), has_aux=True)
  def scalar(query, key, value, arrays):
    parts = tuple(
      attention.KeyValues(*pair, length)
      for pair, length in zip(arrays, lengths, strict=True)
    )
    out = function(query, key, value, parts)
    return jnp.sum(out * factors), out

  arrays = tuple((part.keys, part.values) for part in context)
  (_, out), gradients = jax.jit(scalar)(query, key, value, arrays)
  return out, gradients


# A common prefix, two prompts, and four beginnings of an answer.
CHAIN = [(5, [4]), (4, [2, 4]), (3, [3, 1, 0, 2])]


@pytest.mark.parametrize(
  'segments, num_heads, num_kv_heads',
  [
    pytest.param([], 4, 2, id='alone'),
    pytest.param([(5, [4])], 4, 2, id='prefix-of-all'),
    pytest.param([(4, [0, 3]), (2, [0, 0, 0, 0])], 4, 2, id='empty'),
    pytest.param(CHAIN, 4, 2, id='chain'),
    pytest.param(CHAIN, 3, 1, id='chain-one-key-head'),
  ],
)
def test_equals_attention_over_the_concatenation(
  segments, num_heads, num_kv_heads
):
  query = normal(1, ROWS, WIDTH, num_heads, HEAD_WIDTH)
  key = normal(2, ROWS, WIDTH, num_kv_heads, HEAD_WIDTH)
  value = normal(3, ROWS, WIDTH, num_kv_heads, HEAD_WIDTH)
  context = tuple(
    segment(10 * i, slots, num_kv_heads, lengths)
    for i, (slots, lengths) in enumerate(segments, start=1)
  )
  args = query, key, value, context
  out, gradients = value_and_gradients(attend, *args)
  expected, expected_gradients = value_and_gradients(concatenated, *args)
  np.testing.assert_allclose(out, expected, **CLOSE)
  jax.tree.map(
    lambda one, other: np.testing.assert_allclose(one, other, **CLOSE),
    gradients,
    expected_gradients,
  )


def test_by_hand():
  """Scores 0 and log 3 have weights 1/4 and 3/4; the values are 0 and 8."""
  key = jnp.zeros((1, 1, 1, 4)).at[..., 0].set(2 * jnp.log(3.0))
  query = jnp.zeros((1, 1, 1, 4)).at[..., 0].set(1.0)  # width 4: halved
  context = attention.KeyValues(
    jnp.zeros((1, 1, 1, 4)), jnp.zeros((1, 1, 1, 4)), jnp.array([1])
  )
  out = by_token(
    query,
    key,
    jnp.full((1, 1, 1, 4), 8.0),
    (context,),
    span=attention.Span(0.5),
  )
  np.testing.assert_allclose(out, np.full((1, 1, 1, 4), 6.0), rtol=1e-6)


def test_what_is_behind_a_length_may_be_anything():
  query = normal(1, 2, WIDTH, 2, HEAD_WIDTH)
  key, value = normal(2, *query.shape), normal(3, *query.shape)
  part = segment(4, 4, 2, [1, 3])
  behind = (jnp.arange(4)[None] >= part.lengths[:, None])[..., None, None]
  other = part._replace(
    keys=jnp.where(behind, 1e4, part.keys),
    values=jnp.where(behind, -1e4, part.values),
  )
  np.testing.assert_array_equal(
    attend(query, key, value, (part,)),
    attend(query, key, value, (other,)),
  )


def test_nothing_to_see_is_finite():
  query, key, value = (normal(i, 1, 2, 2, 4) for i in range(3))
  nothing = jnp.zeros((1, 1, 2), bool)
  out, lse = segment_attention.attend_to_segment(
    jnp.swapaxes(query, 1, 2),
    segment_attention.MaskedKeys(key, value, nothing),
    scale=0.5,
  )
  assert jnp.isfinite(out).all()
  assert jnp.isfinite(lse).all()
  assert (lse < -1e37).all()
  empty = attention.KeyValues(key, value, jnp.zeros((1,), jnp.int32))

  def total(query, key, value):
    return jnp.sum(attend(query, key, value, (empty._replace(keys=key),)))

  for gradient in jax.grad(total, argnums=(0, 1, 2))(query, key, value):
    assert jnp.isfinite(gradient).all()


@pytest.mark.parametrize('softcap, window', [(0.5, None), (0.0, 3), (0.5, 2)])
def test_caps_and_windows_equal_plain_attention(softcap, window):
  query = normal(1, ROWS, WIDTH, 4, HEAD_WIDTH)
  key = normal(2, ROWS, WIDTH, 2, HEAD_WIDTH)
  value = normal(3, ROWS, WIDTH, 2, HEAD_WIDTH)
  # Two prompts without padding, so that positions equal those of the text.
  context = (segment(10, 4, 2, [4, 4]),)
  span = attention.Span(0.7, softcap, window and jnp.array(window))

  def plain(query, key, value, context):
    (part,) = context
    keys = jnp.concatenate([jnp.repeat(part.keys, 2, axis=0), key], axis=1)
    values = [jnp.repeat(part.values, 2, axis=0), value]
    values = jnp.repeat(jnp.concatenate(values, axis=1), 2, axis=2)
    scores = jnp.einsum('btnh,bsnh->bnts', query, jnp.repeat(keys, 2, axis=2))
    scores = scores * 0.7
    if softcap:
      scores = softcap * jnp.tanh(scores / softcap)
    back = 4 + jnp.arange(WIDTH)[:, None] - jnp.arange(4 + WIDTH)[None]
    seen = (back >= 0) & (back < (window or 100))
    scores = jnp.where(seen[None, None], scores, -jnp.inf)
    return jnp.einsum('bnts,bsnh->btnh', jax.nn.softmax(scores), values)

  args = (query, key, value, context)
  got, got_grads = value_and_gradients(
    functools.partial(by_token, span=span), *args
  )
  want, want_grads = value_and_gradients(plain, *args)
  np.testing.assert_allclose(got, want, **CLOSE)
  for one, other in zip(
    jax.tree.leaves(got_grads), jax.tree.leaves(want_grads), strict=True
  ):
    np.testing.assert_allclose(one, other, **CLOSE)


def test_bfloat16_in_bfloat16_out():
  query = normal(1, 2, WIDTH, 2, HEAD_WIDTH)
  key, value = normal(2, *query.shape), normal(3, *query.shape)
  for context in [(), (segment(4, 4, 2, [1, 0]),)]:
    halves = jax.tree.map(
      lambda x: x.astype(jnp.bfloat16) if x.dtype == jnp.float32 else x,
      (query, key, value, context),
    )
    out = attend(*halves)
    assert out.dtype == jnp.bfloat16
    # Eight bits of mantissa: 2^-8 in the inputs and once more in the output.
    np.testing.assert_allclose(
      out.astype(jnp.float32),
      attend(query, key, value, context),
      rtol=0.03,
      atol=0.05,
    )
