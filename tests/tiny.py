"""A tiny policy, and plain computations to compare results with."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from sqlm_jax.models import model_config, policy

CONFIG = model_config.ModelConfig(
  vocab_size=300,
  num_layers=2,
  width=32,
  mlp_width=64,
  num_heads=4,
  num_kv_heads=2,
  head_width=8,
)
WIDTH = 48  # texts are padded to this width, to compile once


@functools.cache
def tiny_policy(tied: bool = True) -> policy.Policy:
  return policy.make_policy(dataclasses.replace(CONFIG, tied_embeddings=tied))


@functools.cache
def tiny_params(tied: bool = True):
  params = jax.jit(tiny_policy(tied).init)(jax.random.key(0))
  # Larger than at initialization, so that tokens differ in probability.
  return jax.tree.map(lambda x: x * 1.5 if x.ndim > 1 else x, params)


@functools.partial(jax.jit, static_argnames='tied')
def _padded_logits(params, tokens_BT, tied):
  p = tiny_policy(tied)
  lengths_B = jnp.full(tokens_BT.shape[:1], WIDTH)
  hidden_BTD, _ = p.forward(params, tokens_BT, lengths_B)
  return p.logits(params, hidden_BTD)


def plain_logits(params, texts: list[list[int]], tied: bool = True):
  """Computes logits [B, WIDTH, V] with one unshared text per row."""
  padded = np.zeros((len(texts), WIDTH), np.int32)
  for i, text in enumerate(texts):
    padded[i, : len(text)] = text
  return _padded_logits(params, padded, tied)


def plain_logprobs(params, prompt: list[int], response: list[int]):
  """Computes the log-probability of each response token in one pass."""
  logits = plain_logits(params, [[*prompt, *response]])[0]
  logps = jax.nn.log_softmax(logits[len(prompt) - 1 :][: len(response)])
  return logps[np.arange(len(response)), np.array(response)]
