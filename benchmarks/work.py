"""How much arithmetic and memory traffic a piece of work needs at least.

A product of [M, K] and [K, N] counts 2 M K N operations. Counted are the
products with the weights and those of the attention, for real tokens alone:
what is spent on padding, on computing something twice, on norms and
activations is nobody's use.
"""

from typing import NamedTuple

from sqlm_jax.models import config as model_config


class Groups(NamedTuple):
  """What is learned from: Q prompts with G responses of one length each."""

  groups: int  # Q
  group_size: int  # G
  shared: int  # tokens that all prompts begin with, read once
  own: int  # further tokens of a prompt, read once a prompt
  response: int  # R


def layer_products(
  config: model_config.ModelConfig,
) -> dict[str, tuple[int, int]]:
  """The weight matrices of a block: name -> (inputs, outputs)."""
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
  """Parameters of all blocks that a token is multiplied with."""
  sizes = [k * n for k, n in layer_products(config).values()]
  return config.num_layers * sum(sizes)


def token_flops(config: model_config.ModelConfig, *, seen: int) -> int:
  """A token through all blocks that attends to `seen` tokens, itself too."""
  c = config
  attention = 4 * c.num_heads * c.head_width * seen * c.num_layers
  return 2 * block_parameters(c) + attention


def unembedding_flops(config: model_config.ModelConfig) -> int:
  """The logits of one position."""
  return 2 * config.width * config.vocab_size


def forward_flops(config: model_config.ModelConfig, work: Groups) -> int:
  """Log-probabilities of all response tokens, every prompt read once.

  So are the logits of a group's first tokens, which all come from the prompt.
  The last token of a response predicts nothing, so it is not read. Drawing the
  responses takes the same.
  """

  def read(count, after):
    """`count` tokens in a row behind `after` others."""
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
  """Forward and backward: each product once more for either factor."""
  return 3 * forward_flops(config, work)


def saved_activations(config: model_config.ModelConfig) -> int:
  """Numbers a token that the backward pass reads, if none is computed anew.

  The inputs of all products with weights, the two of the activation, and
  queries, keys and values; of the attention's weights, which a fused attention
  does not keep, none.
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
  """What one decoded token of every row has to read.

  Args:
    config: sizes of the model.
    weight_size: bytes a number of the weights.
    cache_size: bytes a number of the cache.
    live_tokens: tokens whose keys and values are read, a shared one once.
  """
  c = config
  weights = block_parameters(c) + c.width * c.vocab_size
  a_token = 2 * c.num_layers * c.num_kv_heads * c.head_width
  return weights * weight_size + live_tokens * a_token * cache_size
