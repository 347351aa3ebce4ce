"""Libraries' attention to segments side by side, against the plain path.

cuDNN requires a GPU, so XLA's implementation replaces it here. Splash attention
is interpreted.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo as cudnn

from sqlm_jax.models import attention
from sqlm_jax.ops import fused_attention

ROWS, HEADS, KV_HEADS, WIDTH = 6, 4, 2, 8


def draw(seed, *shape):
  numbers = np.random.default_rng(seed).normal(size=shape)
  return jnp.asarray(numbers, jnp.float32)


@pytest.mark.parametrize('steps', [2, 7])
@pytest.mark.parametrize(
  'attend',
  [
    functools.partial(fused_attention.by_cudnn, implementation='xla'),
    functools.partial(fused_attention.by_splash, interpret=True),
  ],
  ids=['cudnn', 'splash'],
)
def test_values_and_gradients(attend, steps):
  own = (
    draw(1, ROWS, steps, HEADS, WIDTH),
    draw(2, ROWS, KV_HEADS, steps, WIDTH),
    draw(3, ROWS, KV_HEADS, steps, WIDTH),
  )
  sizes = ((1, 4), (3, 9), (6, 6))
  pairs = [
    tuple(draw(10 * i + j, n, KV_HEADS, slots, WIDTH) for j in range(2))
    for i, (n, slots) in enumerate(sizes, 1)
  ]
  lengths = [np.array(x) for x in ([3], [9, 1, 5], [6, 0, 1, 2, 3, 4])]

  def joined(query, key, value, context):
    texts = fused_attention.side_by_side(key, value, context)
    return attend(query, *texts, scale=0.3)

  def plain(*own):
    return attention.attend(*own, span=attention.Span(0.3))

  def gradients(attend):
    def total(own, pairs):
      context = tuple(
        attention.KeyValues(*pair, n)
        for pair, n in zip(pairs, lengths, strict=True)
      )
      out = attend(*own, context)
      return jnp.sum(out * draw(0, *out.shape)), out

    return jax.jit(jax.grad(total, (0, 1), has_aux=True))(own, pairs)

  for a, b in zip(
    *(jax.tree.leaves(gradients(x)) for x in (joined, plain)), strict=True
  ):
    np.testing.assert_allclose(a, b, atol=4e-6)


@pytest.mark.parametrize(
  'length, padded, block',
  [
    *((1, 128, 128), (129, 256, 256), (512, 512, 512), (513, 768, 256)),
    *((1023, 1024, 512), (1535, 1536, 512), (1537, 1792, 256)),
  ],
)
def test_blocks_of_splash_attention(length, padded, block):
  assert fused_attention._padded(length) == padded
  assert fused_attention._block(padded) == block


def test_splash_attention_over_many_blocks():
  steps, slots = 600, 700
  query = draw(1, 1, steps, 2, WIDTH)
  keys, values = draw(2, 1, 1, slots, WIDTH), draw(3, 1, 1, slots, WIDTH)
  live = np.random.default_rng(4).random((1, slots)) < 0.8
  live[:, -steps:] = True
  found = (
    attend(query, keys, values, live, scale=0.3)
    for attend in (
      functools.partial(fused_attention.by_splash, interpret=True),
      functools.partial(fused_attention.by_cudnn, implementation='xla'),
    )
  )
  np.testing.assert_allclose(*found, atol=1e-5)


def test_a_rematerialised_block_keeps_it():
  # The test uses the name of a private primitive of JAX.
  assert fused_attention.is_kept(cudnn._dot_product_attention_fwd_p_wrapper)
  assert not fused_attention.is_kept(jax.lax.dot_general_p)
