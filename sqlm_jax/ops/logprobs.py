"""Log-probabilities of chosen tokens without a [tokens, V] array in memory.

M here is the number of distributions (of each of Q groups), and C the number of
tokens chosen from each.
"""

import functools
import math
from typing import Protocol

import chex
import jax
import jax.numpy as jnp
from jax import ad_checkpoint

from sqlm_jax.ops import integers

_KEPT = 'log-partition'  # checkpoint name of a chunk's saved residuals
# Number of columns of logits that one loop sums. XLA does not vectorize longer
# loops (measured in docs/dev/speed_notes.md).
_COLUMNS = 16
# Number of parts of the vocabulary that are summed separately, so that devices
# that shard the vocabulary sum their own logits.
_PARTS = 8


class Unembed(Protocol):
  """Computes logits from hidden states."""

  def __call__(self, hidden_MD: jax.Array, /) -> jax.Array:
    """Returns the logits [M, V]."""


def chosen(
  logits_MV: jax.Array, tokens_MC: jax.Array, *, through_entropy: bool = False
) -> tuple[jax.Array, jax.Array]:
  """Computes log-probabilities of tokens and the entropy of each distribution.

  log p(t) = z_t - logsumexp(z),  entropy = sum_v p_v (logsumexp(z) - z_v).

  Args:
    logits_MV: logits z of any precision; sums are in float32.
    tokens_MC: chosen tokens t, C from each distribution.
    through_entropy: if True, a gradient flows through the entropy, which
      requires a second pass over the logits.

  Returns:
    `(logprobs_MC, entropy_M)` in nats.
  """
  chex.assert_rank([logits_MV, tokens_MC], 2)
  return _chosen(through_entropy, logits_MV, tokens_MC)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _chosen(
  through_entropy: bool, logits_MV: jax.Array, tokens_MC: jax.Array
) -> tuple[jax.Array, jax.Array]:
  return _chosen_forward(through_entropy, logits_MV, tokens_MC)[0]


def _chosen_forward(
  through_entropy: bool, given_MV: jax.Array, tokens_MC: jax.Array
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, ...]]:
  del through_entropy  # used by the backward pass
  logits_MV = given_MV.astype(jnp.float32)
  highest_M = jnp.max(logits_MV, axis=-1)
  total_M, below_M = jax.lax.platform_dependent(
    logits_MV, highest_M, cpu=_sums_in_one_pass, default=_sums
  )
  logz_M = highest_M + jnp.log(total_M)
  picked_MC = jnp.take_along_axis(logits_MV, tokens_MC, axis=-1)
  entropy_M = jnp.log(total_M) + below_M / total_M
  # `chosen_in_chunks` saves these, so that its backward pass skips the sums.
  logz_M = ad_checkpoint.checkpoint_name(logz_M, _KEPT)
  entropy_M = ad_checkpoint.checkpoint_name(entropy_M, _KEPT)
  results = (picked_MC - logz_M[:, None], entropy_M)
  return results, (given_MV, tokens_MC, logz_M, entropy_M)


def _sums(
  logits_MV: jax.Array, highest_M: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Sums w = exp(z - highest) and w (highest - z) over V, [M] each."""
  weights_MV, below_MV = _weigh(logits_MV, highest_M[:, None])
  return jnp.sum(weights_MV, axis=-1), jnp.sum(below_MV, axis=-1)


def _sums_in_one_pass(
  logits_MV: jax.Array, highest_M: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Computes `_sums` on a CPU without storing the summed arrays.

  XLA does not fuse two separate sums. One reduction of both, over a few columns
  at a time, becomes a single loop over rows and columns, which XLA vectorizes.
  """
  rows, vocab_size = logits_MV.shape
  parts = math.gcd(vocab_size, _PARTS)
  width = vocab_size // parts
  columns = max(n for n in range(1, _COLUMNS + 1) if width % n == 0)
  sums = jax.lax.reduce(
    _weigh(
      logits_MV.reshape(rows, parts, columns, width // columns),
      highest_M[:, None, None, None],
    ),
    (jnp.zeros(()), jnp.zeros(())),
    lambda a, b: (a[0] + b[0], a[1] + b[1]),
    dimensions=(2,),
  )
  total_M, below_M = (jnp.sum(x, axis=(1, 2)) for x in sums)
  return total_M, below_M


def _weigh(
  logits: jax.Array, highest: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Returns w = exp(z - highest) and w (highest - z) for each logit z."""
  weights = jnp.exp(logits - highest)
  # For a logit of -inf, 0 * inf would be nan. The alternative is `weights`, not
  # the constant 0, which XLA may store as an array that every chunk reads.
  return weights, weights * jnp.where(weights > 0, highest - logits, weights)


def _chosen_backward(
  through_entropy: bool,
  residuals: tuple[jax.Array, ...],
  cotangents: tuple[jax.Array, jax.Array],
) -> tuple[jax.Array, None]:
  """Computes the gradient of the logits.

  d log p(t) / dz_v = [v = t] - p_v,  dH / dz_v = -p_v (log p_v + H).
  """
  given_MV, tokens_MC, logz_M, entropy_M = residuals
  logits_MV = given_MV.astype(jnp.float32)
  d_logprob_MC, d_entropy_M = cotangents
  logprobs_MV = logits_MV - logz_M[:, None]
  probs_MV = jnp.exp(logprobs_MV)
  d_logits_MV = -jnp.sum(d_logprob_MC, axis=1, keepdims=True) * probs_MV
  ids_1V = jnp.arange(logits_MV.shape[-1])[None]
  # The loop avoids an [M, C, V] array and the arbitrary order of a scatter-add.
  for c in range(tokens_MC.shape[1]):
    is_chosen_MV = ids_1V == tokens_MC[:, c, None]
    d_logits_MV += jnp.where(is_chosen_MV, d_logprob_MC[:, c, None], 0.0)
  if through_entropy:
    surprise_MV = jnp.where(probs_MV > 0, logprobs_MV, probs_MV)
    d_entropy_M1, entropy_M1 = d_entropy_M[:, None], entropy_M[:, None]
    d_logits_MV -= d_entropy_M1 * probs_MV * (surprise_MV + entropy_M1)
  return d_logits_MV.astype(given_MV.dtype), None


_chosen.defvjp(_chosen_forward, _chosen_backward)


def chosen_in_chunks(
  logits: Unembed,
  hidden_QMD: jax.Array,
  tokens_QMC: jax.Array,
  *,
  chunk: int,
  through_entropy: bool = False,
) -> tuple[jax.Array, jax.Array]:
  """Computes `chosen` of `logits(hidden)`, one chunk of logits at a time.

  The backward pass recomputes the logits of each chunk. If a single chunk holds
  all tokens, their logits are saved instead. Every chunk takes the same number
  of tokens from each group, so that groups sharded over devices are not moved.

  Args:
    logits: the unembedding.
    hidden_QMD: final hidden states, M for each of Q groups.
    tokens_QMC: chosen tokens, C from the distribution of each hidden state.
    chunk: number of rows of logits that are in memory at the same time. Each
      chunk has at least one row per group, even if that exceeds `chunk`.
    through_entropy: see `chosen`.

  Returns:
    `(logprobs_QMC, entropy_QM)` in nats.
  """
  chex.assert_rank([hidden_QMD, tokens_QMC], 3)
  chex.assert_equal_shape_prefix([hidden_QMD, tokens_QMC], 2)
  num_groups, width, picks = tokens_QMC.shape
  if not width:
    return jnp.zeros(tokens_QMC.shape), jnp.zeros(tokens_QMC.shape[:2])
  num_chunks = integers.ceil_div(width, max(chunk // num_groups, 1))

  def of_chunk(
    arrays: tuple[jax.Array, jax.Array],
  ) -> tuple[jax.Array, jax.Array]:
    hidden_QMD, tokens_QMC = arrays
    logprobs_MC, entropy_M = chosen(
      logits(hidden_QMD.reshape(-1, hidden_QMD.shape[-1])),
      tokens_QMC.reshape(-1, picks),
      through_entropy=through_entropy,
    )
    shape = tokens_QMC.shape
    return logprobs_MC.reshape(shape), entropy_M.reshape(shape[:2])

  if num_chunks == 1:
    return of_chunk((hidden_QMD, tokens_QMC))
  size = integers.ceil_div(width, num_chunks)
  chunks = tuple(_split(x, num_chunks, size) for x in (hidden_QMD, tokens_QMC))
  keep = jax.checkpoint_policies.save_only_these_names(_KEPT)
  logprobs, entropies = jax.lax.map(
    jax.checkpoint(of_chunk, policy=keep), chunks
  )

  def join(x: jax.Array) -> jax.Array:
    x = jnp.moveaxis(x, 0, 1)
    return x.reshape(num_groups, -1, *x.shape[3:])[:, :width]

  return join(logprobs), join(entropies)


def _split(x_QM: jax.Array, count: int, size: int) -> jax.Array:
  """Splits [Q, M, ...] into [count, Q, size, ...], padded with zeros."""
  padding = [(0, 0)] * x_QM.ndim
  padding[1] = (0, count * size - x_QM.shape[1])
  shape = (x_QM.shape[0], count, size, *x_QM.shape[2:])
  return jnp.moveaxis(jnp.pad(x_QM, padding).reshape(shape), 1, 0)
