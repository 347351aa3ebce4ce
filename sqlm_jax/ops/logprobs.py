"""Log-probabilities of chosen tokens, without a [tokens, V] array."""

import functools
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
from jax import ad_checkpoint

_KEPT = 'log-partition'  # the name of what a chunk's backward pass needs


def chosen(
  logits_MV: jax.Array, tokens_M: jax.Array, *, through_entropy: bool = False
) -> tuple[jax.Array, jax.Array]:
  """Log-probability of each token and entropy of its distribution.

  log p(t) = z_t - logsumexp(z),  entropy = sum_v p_v (logsumexp(z) - z_v).

  Args:
    logits_MV: logits z, of any precision; summed in float32.
    tokens_M: chosen tokens t.
    through_entropy: whether a gradient flows through the entropy, which
      costs a second pass over the logits.

  Returns:
    `(logprobs_M, entropy_M)` in nats.
  """
  chex.assert_rank([logits_MV, tokens_M], [2, 1])
  return _chosen(through_entropy, logits_MV, tokens_M)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _chosen(through_entropy, logits_MV, tokens_M):
  return _chosen_forward(through_entropy, logits_MV, tokens_M)[0]


def _chosen_forward(through_entropy, given_MV, tokens_M):
  logits_MV = given_MV.astype(jnp.float32)
  highest_M1 = jnp.max(logits_MV, axis=-1, keepdims=True)
  weights_MV = jnp.exp(logits_MV - highest_M1)
  total_M = jnp.sum(weights_MV, axis=-1)
  logz_M = highest_M1[:, 0] + jnp.log(total_M)
  picked_M = jnp.take_along_axis(logits_MV, tokens_M[:, None], axis=-1)[:, 0]
  below_MV = highest_M1 - logits_MV
  # A logit of -inf has no weight: 0 times inf is nan.
  below_MV = jnp.where(weights_MV > 0, below_MV, 0)
  entropy_M = jnp.log(total_M) + jnp.sum(weights_MV * below_MV, -1) / total_M
  # Kept by `chosen_in_chunks`, so that its backward pass need not sum again.
  logz_M = ad_checkpoint.checkpoint_name(logz_M, _KEPT)
  entropy_M = ad_checkpoint.checkpoint_name(entropy_M, _KEPT)
  found = (picked_M - logz_M, entropy_M)
  return found, (given_MV, tokens_M, logz_M, entropy_M)


def _chosen_backward(through_entropy, kept, cotangents):
  """With d log p(t) / dz_v = [v = t] - p_v, dH / dz_v = -p_v (log p_v + H)."""
  given_MV, tokens_M, logz_M, entropy_M = kept
  logits_MV = given_MV.astype(jnp.float32)
  d_logprob_M1, d_entropy_M1 = (d[:, None] for d in cotangents)
  logprobs_MV = logits_MV - logz_M[:, None]
  probs_MV = jnp.exp(logprobs_MV)
  is_chosen_MV = jnp.arange(logits_MV.shape[-1])[None] == tokens_M[:, None]
  d_logits_MV = jnp.where(is_chosen_MV, d_logprob_M1, 0.0)
  d_logits_MV -= d_logprob_M1 * probs_MV
  if through_entropy:
    surprise_MV = jnp.where(probs_MV > 0, logprobs_MV, 0)
    d_logits_MV -= d_entropy_M1 * probs_MV * (surprise_MV + entropy_M[:, None])
  return d_logits_MV.astype(given_MV.dtype), None


_chosen.defvjp(_chosen_forward, _chosen_backward)


def chosen_in_chunks(
  logits: Callable[[jax.Array], jax.Array],
  hidden_QMD: jax.Array,
  tokens_QM: jax.Array,
  *,
  chunk: int,
  through_entropy: bool = False,
) -> tuple[jax.Array, jax.Array]:
  """`chosen` of `logits(hidden)`, holding few rows of logits at once.

  The backward pass computes each chunk's logits again, or finds them where one
  chunk holds all. A chunk takes as many tokens of every group, so that groups
  which are split over devices stay where they are.

  Args:
    logits: the unembedding, [rows, D] to [rows, V].
    hidden_QMD: final hidden states, M of each of Q groups.
    tokens_QM: chosen tokens.
    chunk: rows of logits that exist at the same time, but one a group at
      least.
    through_entropy: see `chosen`.

  Returns:
    `(logprobs_QM, entropy_QM)` in nats.
  """
  chex.assert_rank([hidden_QMD, tokens_QM], [3, 2])
  chex.assert_equal_shape_prefix([hidden_QMD, tokens_QM], 2)
  num_groups, width = tokens_QM.shape
  count = -(-width // max(chunk // num_groups, 1))

  def one_chunk(chunk):
    hidden_QMD, tokens_QM = chunk
    found = chosen(
      logits(hidden_QMD.reshape(-1, hidden_QMD.shape[-1])),
      tokens_QM.reshape(-1),
      through_entropy=through_entropy,
    )
    return tuple(x.reshape(tokens_QM.shape) for x in found)

  if count == 1:
    return one_chunk((hidden_QMD, tokens_QM))
  chunks_C = tuple(
    _split(x, count, -(-width // count)) for x in (hidden_QMD, tokens_QM)
  )
  keep = jax.checkpoint_policies.save_only_these_names(_KEPT)
  found_C = jax.lax.map(jax.checkpoint(one_chunk, policy=keep), chunks_C)
  join = lambda x: jnp.moveaxis(x, 0, 1).reshape(num_groups, -1)[:, :width]
  return tuple(map(join, found_C))


def _split(x_QM: jax.Array, count: int, size: int) -> jax.Array:
  """[Q, M, ...] to [count, Q, size, ...], padded with zeros."""
  padding = [(0, 0)] * x_QM.ndim
  padding[1] = (0, count * size - x_QM.shape[1])
  shape = (x_QM.shape[0], count, size, *x_QM.shape[2:])
  return jnp.moveaxis(jnp.pad(x_QM, padding).reshape(shape), 1, 0)
