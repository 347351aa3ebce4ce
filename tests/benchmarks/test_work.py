"""Numbers of operations and bytes, calculated by hand."""

import pytest

from benchmarks import models, scaling, work
from sqlm_jax.models import model_config

# A block: query 4x4, key and value 4x2 each, output 4x4, gate, up and down
# 4x6 each: 16 + 8 + 8 + 16 + 3 * 24 = 120 parameters; two blocks, 240.
CONFIG = model_config.ModelConfig(
  vocab_size=10,
  num_layers=2,
  width=4,
  mlp_width=6,
  num_heads=2,
  num_kv_heads=1,
  head_width=2,
)
SIZE = work.Groups(groups=2, group_size=3, shared=2, own=1, response=2)


def test_a_token():
  assert work.block_parameters(CONFIG) == 240
  # 2 * 240, and for each token it attends to 4 N H L = 4 * 2 * 2 * 2 = 32.
  assert work.token_flops(CONFIG, seen=3) == 480 + 96
  assert work.unembedding_flops(CONFIG) == 2 * 4 * 10


def test_an_update():
  # Common tokens attend to 1 and 2 tokens: 2 * 480 + 3 * 32 = 1056.
  # Two own tokens attend to 3: 2 * (480 + 96) = 1152.
  # Each of 6 responses has one token that is read, which attends to 4:
  # 6 * 608 = 3648.
  # 2 prompts and these 6 tokens have logits: 8 * 80 = 640.
  assert work.forward_flops(CONFIG, SIZE) == 1056 + 1152 + 3648 + 640
  assert work.update_flops(CONFIG, SIZE) == 3 * 6496


def test_memory():
  # A layer: 4 (norm) + 4 (query) + 2 + 2 (key, value) + 4 (heads) + 4 (norm)
  # + 3 * 6 (gate, up, their product).
  assert work.saved_activations(CONFIG) == 2 * 38
  # 240 + 4 * 10 weights; keys and values of a token 2 * 2 * 1 * 2 numbers.
  num_bytes = work.decode_bytes(
    CONFIG, weight_size=4, cache_size=2, live_tokens=5
  )
  assert num_bytes == 280 * 4 + 5 * 8 * 2


def test_a_published_model_has_the_size_in_its_name():
  shape = models.SHAPES['smollm2-135m']
  count = work.block_parameters(shape) + shape.vocab_size * shape.width
  assert count == pytest.approx(134.5e6, rel=1e-3)  # norms are left out


def test_exponents():
  # The cost 3 n^2, twice that cost, and a constant cost.
  sizes = [2, 4, 8]
  assert scaling.exponent(sizes, [12, 48, 192]) == pytest.approx(2)
  assert scaling.exponent(sizes, [24, 96, 384]) == pytest.approx(2)
  assert scaling.exponent(sizes, [7, 7, 7]) == pytest.approx(0)
