"""Computes the minimum arithmetic and memory traffic of a workload.

A product of [M, K] and [K, N] counts as 2 M K N operations. Only the products
with the weights and those of the attention are counted, and only for real
tokens. Operations for padding, recomputation, norms and activation functions
are not counted.
"""

from typing import NamedTuple

from sqlm_jax.models import model_config


class Groups(NamedTuple):
  """The sizes of a batch: Q prompts with G responses each, of one length."""

  groups: int  # Q
  group_size: int  # G
  shared: int  # tokens of the common prefix of all prompts, read once
  own: int  # other tokens of a prompt, read once per prompt
  response: int  # R


def layer_products(
  config: model_config.ModelConfig,
) -> dict[str, tuple[int, int]]:
  """Returns the weight matrices of a layer: name -> (inputs, outputs)."""
  c = config
  heads = c.num_heads * c.head_width
  kv_heads = c.num_kv_heads * c.head_width
  return {
    'query': (c.width, heads),
    'key': (c.width, kv_heads),
    'value': (c.width, kv_heads),
    'output': (heads, c.width),
    'gate': (c.width, c.mlp_width),
    'up': (c.width, c.mlp_width),
    'down': (c.mlp_width, c.width),
  }


def block_parameters(config: model_config.ModelConfig) -> int:
  """Returns the number of matrix parameters of all layers."""
  sizes = [k * n for k, n in layer_products(config).values()]
  return config.num_layers * sum(sizes)


def token_flops(config: model_config.ModelConfig, *, seen: int) -> int:
  """Returns the FLOPs of all layers for one token.

  The token attends to `seen` tokens, including itself.
  """
  c = config
  attention = 4 * c.num_heads * c.head_width * seen * c.num_layers
  return 2 * block_parameters(c) + attention


def unembedding_flops(config: model_config.ModelConfig) -> int:
  """Returns the FLOPs of the logits at one position."""
  return 2 * config.width * config.vocab_size


def forward_flops(config: model_config.ModelConfig, work: Groups) -> int:
  """Returns the FLOPs of the log-probabilities of all response tokens.

  Every prompt is read once. The logits of a group's first tokens are also
  computed once because all of them follow the prompt. The last token of a
  response is not read because it predicts nothing. Sampling the responses takes
  the same number of operations.
  """

  def read(count, after):
    """Returns the FLOPs of `count` consecutive tokens after `after` others."""
    seen = count * after + count * (count + 1) // 2
    attention = token_flops(config, seen=seen) - token_flops(config, seen=0)
    return count * token_flops(config, seen=0) + attention

  w = work
  responses = w.groups * w.group_size
  predicting = w.groups + responses * (w.response - 1)
  prompt = w.shared + w.own
  return (
    read(w.shared, 0)
    + w.groups * read(w.own, w.shared)
    + responses * read(w.response - 1, prompt)
    + predicting * unembedding_flops(config)
  )


def update_flops(config: model_config.ModelConfig, work: Groups) -> int:
  """Returns the FLOPs of a forward and backward pass.

  The backward pass has two products for each product of the forward pass, one
  for the gradient of each factor.
  """
  return 3 * forward_flops(config, work)


def saved_activations(config: model_config.ModelConfig) -> int:
  """Returns the number of activations per token that the backward pass reads.

  Assumes no recomputation. Counts the inputs of all products with weights, the
  two inputs of the activation function, and queries, keys and values. Attention
  weights are not counted because a fused attention does not store them.
  """
  c = config
  heads = c.num_heads * c.head_width
  kv_heads = c.num_kv_heads * c.head_width
  attention = c.width + heads + 2 * kv_heads + heads
  return c.num_layers * (attention + c.width + 3 * c.mlp_width)


def decode_bytes(
  config: model_config.ModelConfig,
  *,
  weight_size: int,
  cache_size: int,
  live_tokens: int,
) -> int:
  """Returns the bytes that decoding one token of every row has to read.

  Args:
    config: the model's config.
    weight_size: bytes per element of the weights.
    cache_size: bytes per element of the cache.
    live_tokens: the number of tokens whose keys and values are read; a token
      that rows share counts once.
  """
  c = config
  weights = block_parameters(c) + c.width * c.vocab_size
  a_token = 2 * c.num_layers * c.num_kv_heads * c.head_width
  return weights * weight_size + live_tokens * a_token * cache_size
