"""Attention to the stacked keys of all layers, compared with a slice."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sqlm_jax.distributed import sharding
from sqlm_jax.models import attention, stacked_attention

LAYERS, ROWS, HEAD_WIDTH = 3, 4, 8
# float32; both sum the same products in another order.
CLOSE = {'rtol': 1e-5, 'atol': 1e-5}
# A common prefix, two prompts, and four beginnings of an answer.
CHAIN = [(5, [4]), (4, [2, 4]), (3, [3, 1, 0, 2])]


def normal(seed, *shape):
  return jax.random.normal(jax.random.key(seed), shape)


def stacked_segment(seed, slots, lengths):
  shape = LAYERS, len(lengths), 2, slots, HEAD_WIDTH
  return attention.KeyValues(
    normal(seed, *shape), normal(seed + 1, *shape), jnp.array(lengths)
  )


@pytest.mark.parametrize('block_bytes', [pytest.param(1, id='row-by-row'), 512])
@pytest.mark.parametrize(
  'softcap, window', [(0.0, None), (0.5, None), (0.0, 3)]
)
def test_blocks_equal_attention_to_a_slice(
  monkeypatch, block_bytes, softcap, window
):
  query = normal(1, ROWS, 1, 4, HEAD_WIDTH)
  key, value = (normal(i, ROWS, 2, 1, HEAD_WIDTH) for i in (2, 3))
  stacked = tuple(
    stacked_segment(10 * i, slots, lengths)
    for i, (slots, lengths) in enumerate(CHAIN, start=1)
  )
  span = attention.Span(0.7, softcap, window and jnp.array(window))

  @jax.jit
  def by_block(layer):
    return stacked_attention.attend(
      query, key, value, stacked, layer=layer, span=span
    )

  monkeypatch.setattr(stacked_attention, '_BLOCK_BYTES', block_bytes)
  # The rows of responses are read in blocks. With small blocks, the rows of
  # prompts are, too.
  loops = str(jax.make_jaxpr(by_block)(0)).count('scan[')
  assert loops == (2 if block_bytes == 1 else 1)
  for layer in range(LAYERS):
    sliced = tuple(
      attention.KeyValues(x.keys[layer], x.values[layer], x.lengths)
      for x in stacked
    )
    expected = attention.attend(query, key, value, sliced, span=span)
    np.testing.assert_allclose(by_block(layer), expected, **CLOSE)


@pytest.mark.parametrize(
  'rows, max_rows, expected',
  [(8, 8, 8), (8, 7, 4), (12, 5, 4), (7, 6, 1), (1, 0, 1)],
)
def test_a_block_divides_the_rows(monkeypatch, rows, max_rows, expected):
  keys = jnp.zeros((2, rows, 3, 5, 4))
  monkeypatch.setattr(
    stacked_attention, '_BLOCK_BYTES', max_rows * 3 * 5 * 4 * 4
  )
  assert stacked_attention._rows_per_block(keys) == expected


@pytest.mark.parametrize(
  'devices, width, expected', [(1, 1, True), (1, 2, False), (2, 1, False)]
)
def test_it_is_faster_for_one_token_on_one_cpu(devices, width, expected):
  mesh = sharding.make_mesh(
    {'data': devices, 'fsdp': 1, 'tensor': 1}, jax.devices()[:devices]
  )
  assert stacked_attention.is_faster(mesh, width) == expected
  assert not stacked_attention.is_faster(None, width)
