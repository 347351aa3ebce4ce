"""The interpreted decoding kernel against the plain path."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sqlm_jax.models import attention
from sqlm_jax.ops import decode_attention

LAYER, LAYERS = 1, 3
attend = functools.partial(
  decode_attention.attend, layer=LAYER, scale=0.25, interpret=True
)


def draw(seed, *shape):
  numbers = np.random.default_rng(seed).normal(size=shape)
  return jnp.asarray(numbers, jnp.bfloat16)


def token(rows, heads, kv_heads, width):
  return (
    draw(1, rows, heads, width),
    draw(2, rows, kv_heads, width),
    draw(3, rows, kv_heads, width),
  )


def segment(seed, kv_heads, width, slots, lengths):
  shape = (LAYERS, len(lengths), kv_heads, slots, width)
  return draw(seed, *shape), draw(seed + 1, *shape), np.array(lengths, np.int32)


def plain(query, key, value, segments):
  context = tuple(
    attention.KeyValues(keys[LAYER], values[LAYER], lengths)
    for keys, values, lengths in segments
  )

  def exact(tree):
    return jax.tree.map(
      lambda x: x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x, tree
    )

  out = attention.attend(
    *exact((query[:, None], key[:, :, None], value[:, :, None], context)),
    span=attention.Span(0.25),
  )
  return out[:, 0]


@pytest.mark.parametrize(
  'heads, kv_heads, width', [(14, 2, 16), (3, 3, 32), (20, 1, 16)]
)
def test_chain_of_segments(heads, kv_heads, width):
  given = token(6, heads, kv_heads, width)
  make = functools.partial(segment, kv_heads=kv_heads, width=width)
  segments = (
    make(10, slots=24, lengths=[17]),  # common to all
    make(20, slots=100, lengths=[100, 3, 64]),  # of two rows each
    make(30, slots=130, lengths=[0, 1, 63, 65, 128, 130]),
    make(40, slots=8, lengths=[8] * 6),
  )
  # The weights and the output are rounded to 8 bits.
  np.testing.assert_allclose(
    attend(*given, segments).astype(jnp.float32),
    plain(*given, segments),
    atol=0.02,
  )


def test_a_token_alone_attends_to_itself():
  query, key, value = token(2, 4, 2, 16)
  out = attend(query, key, value, ())
  np.testing.assert_array_equal(out, jnp.repeat(value, 2, axis=1))
  nothing = segment(5, 2, 16, 32, [0, 0])
  np.testing.assert_array_equal(attend(query, key, value, (nothing,)), out)


def test_what_is_not_live_is_not_read():
  given = token(2, 4, 2, 16)
  keys, values, lengths = segment(5, 2, 16, 70, [65, 2])
  dead = np.arange(70) >= lengths[:, None]

  def poison(x):
    return jnp.where(dead[None, :, None, :, None], jnp.nan, x)

  np.testing.assert_array_equal(
    attend(*given, ((poison(keys), poison(values), lengths),)),
    attend(*given, ((keys, values, lengths),)),
  )


def test_large_scores():
  query, key, value = token(2, 4, 2, 16)
  segments = (segment(5, 2, 16, 70, [70, 70]),)
  np.testing.assert_allclose(
    attend(query * 100, key, value, segments).astype(jnp.float32),
    plain(query * 100, key, value, segments),
    atol=0.02,
  )
