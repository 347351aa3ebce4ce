"""Models with random weights in published shapes, and prompts for them."""

from typing import Any

import jax
import numpy as np
import optax

from sqlm_jax.distributed import sharding
from sqlm_jax.engine import decoding, groups, learner, sampler
from sqlm_jax.models import model_config
from sqlm_jax.models import policy as policy_lib
from sqlm_jax.selfplay import batches

SHAPES = {
  # For checking that a benchmark runs.
  'tiny': model_config.ModelConfig(
    vocab_size=512,
    num_layers=2,
    width=32,
    mlp_width=64,
    num_heads=4,
    num_kv_heads=2,
    head_width=8,
  ),
  'smollm2-135m': model_config.ModelConfig(
    vocab_size=49152,
    num_layers=30,
    width=576,
    mlp_width=1536,
    num_heads=9,
    num_kv_heads=3,
    head_width=64,
    rope=model_config.Rope(theta=1e5),
    context_length=8192,
  ),
  'qwen2.5-0.5b': model_config.ModelConfig(
    vocab_size=151936,
    num_layers=24,
    width=896,
    mlp_width=4864,
    num_heads=14,
    num_kv_heads=2,
    head_width=64,
    rope=model_config.Rope(theta=1e6),
    qkv_bias=True,
    context_length=32768,
  ),
  'qwen3-0.6b': model_config.ModelConfig(
    vocab_size=151936,
    num_layers=28,
    width=1024,
    mlp_width=3072,
    num_heads=16,
    num_kv_heads=8,
    head_width=128,
    rope=model_config.Rope(theta=1e6),
    qk_norm='head',
    context_length=40960,
  ),
  'qwen2.5-3b': model_config.ModelConfig(
    vocab_size=151936,
    num_layers=36,
    width=2048,
    mlp_width=11008,
    num_heads=16,
    num_kv_heads=2,
    head_width=128,
    rope=model_config.Rope(theta=1e6),
    qkv_bias=True,
    context_length=32768,
  ),
}


def one_device() -> jax.sharding.Mesh:
  return sharding.make_mesh(dict.fromkeys(sharding.AXES, 1), jax.devices()[:1])


def random_params(policy: policy_lib.Policy, mesh: jax.sharding.Mesh):
  """Returns random parameters with the shardings of training."""
  abstract = jax.eval_shape(policy.init, jax.random.key(0))
  init = jax.jit(
    policy.init, out_shardings=sharding.shard_parameters(abstract, mesh)
  )
  return jax.block_until_ready(init(jax.random.key(0)))


def random_state(
  policy: policy_lib.Policy,
  optimizer: optax.GradientTransformation,
  mesh: jax.sharding.Mesh,
) -> learner.TrainState:
  """Returns a random initial train state with the shardings of training."""
  params = jax.eval_shape(policy.init, jax.random.key(0))

  def init_state(params):
    return learner.init_state(params, optimizer)

  shardings = sharding.shard_like_parameters(
    jax.eval_shape(init_state, params), params, mesh
  )
  init = jax.jit(init_state, out_shardings=shardings, donate_argnums=0)
  return jax.block_until_ready(init(random_params(policy, mesh)))


def prompt_ids(
  count: int, own: int, *, shared: int = 0, vocab_size: int
) -> list[list[int]]:
  """Returns random prompts: `shared` common tokens, then `own` tokens each."""
  rng = np.random.default_rng(0)
  common = rng.integers(vocab_size, size=shared).tolist()
  rows = rng.integers(vocab_size, size=(count, own)).tolist()
  return [common + row for row in rows]


def prompts(
  count: int, own: int, *, shared: int = 0, vocab_size: int
) -> groups.Prompts:
  """Returns the prompts of `prompt_ids`, packed for sampler and learner."""
  rows = prompt_ids(count, own, shared=shared, vocab_size=vocab_size)
  return batches.pack_prompts(rows)


def endless(group_size: int, vocab_size: int, limit: int):
  """Returns settings with which only the limit ends a response."""
  table = np.zeros((16, vocab_size), np.uint8)
  table[decoding.STOPPED :] = decoding.STOPPED
  return sampler.SamplerSettings(
    temperature=np.ones((group_size,), np.float32),
    top_p=np.ones((group_size,), np.float32),
    limit=np.int32(limit),
    stop_table=table,
  )


def hf_config(config: model_config.ModelConfig) -> dict[str, Any]:
  """Returns the Hugging Face config of a model."""
  kind, name = 'llama', 'LlamaForCausalLM'
  if config.qkv_bias:
    kind, name = 'qwen2', 'Qwen2ForCausalLM'
  elif config.qk_norm == 'head':
    kind, name = 'qwen3', 'Qwen3ForCausalLM'
  return {
    'model_type': kind,
    'architectures': [name],
    'vocab_size': config.vocab_size,
    'hidden_size': config.width,
    'intermediate_size': config.mlp_width,
    'num_hidden_layers': config.num_layers,
    'num_attention_heads': config.num_heads,
    'num_key_value_heads': config.num_kv_heads,
    'head_dim': config.head_width,
    'max_position_embeddings': config.context_length,
    'rope_parameters': {
      'rope_type': 'default',
      'rope_theta': config.rope.theta,
    },
    'tie_word_embeddings': config.tied_embeddings,
    'bos_token_id': None,
    'eos_token_id': None,
  }
