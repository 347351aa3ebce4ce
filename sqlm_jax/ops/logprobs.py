"""Log-probabilities of chosen tokens, without a [tokens, V] array."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp


def chosen(logits_MV: jax.Array, tokens_M: jax.Array):
  """Log-probability of each token and entropy of its distribution.

  log p(t) = z_t - logsumexp(z),  entropy = logsumexp(z) - sum_v p_v z_v.

  Args:
    logits_MV: float32 logits z.
    tokens_M: chosen tokens t.

  Returns:
    `(logprobs_M, entropy_M)` in nats. No gradient flows through the entropy.
  """
  chex.assert_rank([logits_MV, tokens_M], [2, 1])
  logz_M = jax.nn.logsumexp(logits_MV, axis=-1)
  picked_M = jnp.take_along_axis(logits_MV, tokens_M[:, None], axis=-1)[:, 0]
  fixed_MV = jax.lax.stop_gradient(logits_MV)
  probs_MV = jnp.exp(fixed_MV - jax.lax.stop_gradient(logz_M)[:, None])
  entropy_M = jax.lax.stop_gradient(logz_M) - jnp.sum(
    probs_MV * fixed_MV, axis=-1
  )
  return picked_M - logz_M, entropy_M


def chosen_in_chunks(
  logits: Callable[[jax.Array], jax.Array],
  hidden_MD: jax.Array,
  tokens_M: jax.Array,
  *,
  chunk: int,
):
  """`chosen` of `logits(hidden_MD)`, holding `chunk` rows of logits at once.

  The backward pass computes each chunk's logits again.

  Args:
    logits: the unembedding, [chunk, D] to float32 [chunk, V].
    hidden_MD: final hidden states.
    tokens_M: chosen tokens.
    chunk: rows of logits that exist at the same time.

  Returns:
    `(logprobs_M, entropy_M)` in nats.
  """
  chex.assert_rank([hidden_MD, tokens_M], [2, 1])
  chex.assert_equal_shape_prefix([hidden_MD, tokens_M], 1)
  rows = hidden_MD.shape[0]
  padding = -rows % chunk
  hidden_CMD = jnp.pad(hidden_MD, ((0, padding), (0, 0))).reshape(
    -1, chunk, hidden_MD.shape[-1]
  )
  tokens_CM = jnp.pad(tokens_M, (0, padding)).reshape(-1, chunk)

  @jax.checkpoint
  def one_chunk(hidden_and_tokens):
    hidden, tokens = hidden_and_tokens
    return chosen(logits(hidden), tokens)

  logprobs_CM, entropy_CM = jax.lax.map(one_chunk, (hidden_CMD, tokens_CM))
  return logprobs_CM.reshape(-1)[:rows], entropy_CM.reshape(-1)[:rows]
