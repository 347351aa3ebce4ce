"""Attention by `jax.nn` to segments side by side, against the plain path.

cuDNN takes a GPU; here the same arrays go to the implementation of XLA.
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
def test_values_and_gradients(steps, monkeypatch):
  by_xla = functools.partial(fused_attention.attend, implementation='xla')
  monkeypatch.setattr(fused_attention, 'attend', by_xla)
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

  def total(own, pairs, fused):
    context = tuple(
      attention.KeyValues(*pair, n)
      for pair, n in zip(pairs, lengths, strict=True)
    )
    out = attention.attend(*own, context, span=attention.Span(0.3), fused=fused)
    return jnp.sum(out * draw(0, *out.shape)), out

  run = jax.jit(jax.grad(total, (0, 1), has_aux=True), static_argnames='fused')
  for a, b in zip(
    *(jax.tree.leaves(run(own, pairs, fused=x)) for x in (True, False)),
    strict=True,
  ):
    np.testing.assert_allclose(a, b, atol=2e-6)


def test_a_rematerialised_block_keeps_it():
  # The name is of a private part of JAX.
  assert fused_attention.is_kept(cudnn._dot_product_attention_fwd_p_wrapper)
  assert not fused_attention.is_kept(jax.lax.dot_general_p)
