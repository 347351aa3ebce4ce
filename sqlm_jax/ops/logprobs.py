"""Log-probabilities of chosen tokens, without a [tokens, V] array."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp


def chosen(
  logits_MV: jax.Array, tokens_M: jax.Array, *, through_entropy: bool = False
) -> tuple[jax.Array, jax.Array]:
  """Log-probability of each token and entropy of its distribution.

  log p(t) = z_t - logsumexp(z),  entropy = sum_v p_v (logsumexp(z) - z_v).

  Args:
    logits_MV: float32 logits z.
    tokens_M: chosen tokens t.
    through_entropy: whether a gradient flows through the entropy, which
      costs a second pass over the logits.

  Returns:
    `(logprobs_M, entropy_M)` in nats.
  """
  chex.assert_rank([logits_MV, tokens_M], [2, 1])
  logz_M = jax.nn.logsumexp(logits_MV, axis=-1)
  picked_M = jnp.take_along_axis(logits_MV, tokens_M[:, None], axis=-1)[:, 0]
  surprise_MV = logz_M[:, None] - logits_MV
  if not through_entropy:
    surprise_MV = jax.lax.stop_gradient(surprise_MV)
  entropy_M = jnp.sum(jnp.exp(-surprise_MV) * surprise_MV, axis=-1)
  return picked_M - logz_M, entropy_M


def chosen_in_chunks(
  logits: Callable[[jax.Array], jax.Array],
  hidden_MD: jax.Array,
  tokens_M: jax.Array,
  *,
  chunk: int,
  through_entropy: bool = False,
) -> tuple[jax.Array, jax.Array]:
  """`chosen` of `logits(hidden_MD)`, holding `chunk` rows of logits at once.

  The backward pass computes each chunk's logits again.

  Args:
    logits: the unembedding, [chunk, D] to float32 [chunk, V].
    hidden_MD: final hidden states.
    tokens_M: chosen tokens.
    chunk: rows of logits that exist at the same time.
    through_entropy: see `chosen`.

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
    return chosen(logits(hidden), tokens, through_entropy=through_entropy)

  logprobs_CM, entropy_CM = jax.lax.map(one_chunk, (hidden_CMD, tokens_CM))
  return logprobs_CM.reshape(-1)[:rows], entropy_CM.reshape(-1)[:rows]
