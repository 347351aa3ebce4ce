"""Log-probabilities of chosen tokens, without a [tokens, V] array."""

import functools
import math
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
from jax import ad_checkpoint

_KEPT = 'log-partition'  # the name of what a chunk's backward pass needs
# Of logits that one loop adds up. XLA takes a loop over more of them for long,
# and then does not vectorise (measured: docs/benchmarks.md, what was tried).
_COLUMNS = 16
# Of the vocabulary, each summed by itself: devices that share it keep theirs.
_PARTS = 8


def chosen(
  logits_MV: jax.Array, tokens_MC: jax.Array, *, through_entropy: bool = False
) -> tuple[jax.Array, jax.Array]:
  """Log-probabilities of tokens and the entropy of their distribution.

  log p(t) = z_t - logsumexp(z),  entropy = sum_v p_v (logsumexp(z) - z_v).

  Args:
    logits_MV: logits z, of any precision; summed in float32.
    tokens_MC: chosen tokens t, C from each distribution.
    through_entropy: whether a gradient flows through the entropy, which
      costs a second pass over the logits.

  Returns:
    `(logprobs_MC, entropy_M)` in nats.
  """
  chex.assert_rank([logits_MV, tokens_MC], 2)
  return _chosen(through_entropy, logits_MV, tokens_MC)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _chosen(through_entropy, logits_MV, tokens_MC):
  return _chosen_forward(through_entropy, logits_MV, tokens_MC)[0]


def _chosen_forward(through_entropy, given_MV, tokens_MC):
  logits_MV = given_MV.astype(jnp.float32)
  highest_M = jnp.max(logits_MV, axis=-1)
  total_M, below_M = jax.lax.platform_dependent(
    logits_MV, highest_M, cpu=_sums_in_one_pass, default=_sums
  )
  logz_M = highest_M + jnp.log(total_M)
  picked_MC = jnp.take_along_axis(logits_MV, tokens_MC, axis=-1)
  entropy_M = jnp.log(total_M) + below_M / total_M
  # Kept by `chosen_in_chunks`, so that its backward pass need not sum again.
  logz_M = ad_checkpoint.checkpoint_name(logz_M, _KEPT)
  entropy_M = ad_checkpoint.checkpoint_name(entropy_M, _KEPT)
  found = (picked_MC - logz_M[:, None], entropy_M)
  return found, (given_MV, tokens_MC, logz_M, entropy_M)


def _sums(logits_MV, highest_M):
  """Of weights w = exp(z - highest), and of w (highest - z), [M] each."""
  weights_MV, below_MV = _weigh(logits_MV, highest_M[:, None])
  return jnp.sum(weights_MV, axis=-1), jnp.sum(below_MV, axis=-1)


def _sums_in_one_pass(logits_MV, highest_M):
  """The same for a CPU: what is summed is not written.

  XLA does not look from one sum to the other. Together, over a few columns at a
  time, they are a loop over rows and columns that it vectorises.
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
  return tuple(jnp.sum(x_MPW, axis=(1, 2)) for x_MPW in sums)


def _weigh(logits, highest):
  weights = jnp.exp(logits - highest)
  # A logit of -inf has no weight: 0 times inf is nan. And not a constant 0, of
  # which XLA may make an array that every chunk of logits reads as well.
  return weights, weights * jnp.where(weights > 0, highest - logits, weights)


def _chosen_backward(through_entropy, kept, cotangents):
  """With d log p(t) / dz_v = [v = t] - p_v, dH / dz_v = -p_v (log p_v + H)."""
  given_MV, tokens_MC, logz_M, entropy_M = kept
  logits_MV = given_MV.astype(jnp.float32)
  d_logprob_MC, d_entropy_M = cotangents
  logprobs_MV = logits_MV - logz_M[:, None]
  probs_MV = jnp.exp(logprobs_MV)
  d_logits_MV = -jnp.sum(d_logprob_MC, axis=1, keepdims=True) * probs_MV
  ids_1V = jnp.arange(logits_MV.shape[-1])[None]
  # One after the other: no [M, C, V] array, and a scatter may add in any order.
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
  logits: Callable[[jax.Array], jax.Array],
  hidden_QMD: jax.Array,
  tokens_QMC: jax.Array,
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
    tokens_QMC: chosen tokens, C from the distribution of each state.
    chunk: rows of logits that exist at the same time, but one a group at
      least.
    through_entropy: see `chosen`.

  Returns:
    `(logprobs_QMC, entropy_QM)` in nats.
  """
  chex.assert_rank([hidden_QMD, tokens_QMC], 3)
  chex.assert_equal_shape_prefix([hidden_QMD, tokens_QMC], 2)
  num_groups, width, picks = tokens_QMC.shape
  if not width:
    return jnp.zeros(tokens_QMC.shape), jnp.zeros(tokens_QMC.shape[:2])
  count = -(-width // max(chunk // num_groups, 1))

  def one_chunk(chunk):
    hidden_QMD, tokens_QMC = chunk
    logprobs_MC, entropy_M = chosen(
      logits(hidden_QMD.reshape(-1, hidden_QMD.shape[-1])),
      tokens_QMC.reshape(-1, picks),
      through_entropy=through_entropy,
    )
    shape = tokens_QMC.shape
    return logprobs_MC.reshape(shape), entropy_M.reshape(shape[:2])

  if count == 1:
    return one_chunk((hidden_QMD, tokens_QMC))
  chunks_C = tuple(
    _split(x, count, -(-width // count)) for x in (hidden_QMD, tokens_QMC)
  )
  keep = jax.checkpoint_policies.save_only_these_names(_KEPT)
  found_C = jax.lax.map(jax.checkpoint(one_chunk, policy=keep), chunks_C)

  def join(x):
    x = jnp.moveaxis(x, 0, 1)
    return x.reshape(num_groups, -1, *x.shape[3:])[:, :width]

  return tuple(map(join, found_C))


def _split(x_QM: jax.Array, count: int, size: int) -> jax.Array:
  """[Q, M, ...] to [count, Q, size, ...], padded with zeros."""
  padding = [(0, 0)] * x_QM.ndim
  padding[1] = (0, count * size - x_QM.shape[1])
  shape = (x_QM.shape[0], count, size, *x_QM.shape[2:])
  return jnp.moveaxis(jnp.pad(x_QM, padding).reshape(shape), 1, 0)
