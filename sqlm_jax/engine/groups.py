"""Prompts with G continuations each: what sampler and learner work on."""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from sqlm_jax.distributed import sharding
from sqlm_jax.models import policy as policy_lib
from sqlm_jax.ops import masked
from sqlm_jax.ops import packing as packing_lib


class Prompts(NamedTuple):
  """Q prompts, split into what they have in common and the rest.

  A prompt is its first `prefix_length` tokens, the same for all, followed by
  its own row of `tokens`. Both are right-padded to a bucket.
  """

  prefix_tokens: jax.Array  # [1, C], C = 0 without a common prefix
  prefix_lengths: jax.Array  # [1]
  tokens: jax.Array  # [Q, P]
  lengths: jax.Array  # [Q], at least 1

  def take(self, rows: jax.Array) -> 'Prompts':
    """Those of the given rows."""
    return self._replace(tokens=self.tokens[rows], lengths=self.lengths[rows])


class Rollout(NamedTuple):
  """G responses to each of Q prompts; beyond a length stands padding."""

  tokens: jax.Array  # [Q, G, R], the stop token included
  logprobs: jax.Array  # [Q, G, R] under the policy
  sampling_logprobs: jax.Array  # [Q, G, R] under what was drawn from
  lengths: jax.Array  # [Q, G]
  finished: jax.Array  # [Q, G], False where the limit cut the response


class Texts(NamedTuple):
  """Groups that are evaluated token by token, not learned from."""

  prompts: Prompts
  tokens: jax.Array  # [Q, G, R]
  num_groups: jax.Array  # [], the first so many groups are evaluated
  packing: packing_lib.Packing | None = None  # as that of `GroupBatch`


class GroupBatch(NamedTuple):
  """What the learner needs to know about Q groups.

  A weight is the share of one token's loss in the total, so that the
  weights say how the loss is averaged; 0 leaves a response out. Advantages
  are a response's, or a token's where there is a value function; that one's
  own fields are None where there is none. A row may stand for several equal
  responses, whose weights it bears together. With a packing those tokens are
  read that stand in one of its parts, of which every microbatch has as many;
  groups that are learned from are then spread over microbatches.
  """

  prompts: Prompts
  tokens: jax.Array  # [Q, G, R]
  lengths: jax.Array  # [Q, G]
  old_logprobs: jax.Array  # [Q, G, R]
  advantages: jax.Array  # [Q, G, R], or [Q, G, 1] for a whole response
  weights: jax.Array  # [Q, G]
  num_groups: jax.Array  # [], learned from, in as few microbatches as hold them
  old_values: jax.Array | None = None  # [Q, G, R]
  value_targets: jax.Array | None = None  # [Q, G, R]
  counts: jax.Array | None = None  # [Q, G], responses of a row; default, 1
  packing: packing_lib.Packing | None = None  # of Q G rows of R - 1


Batch = TypeVar('Batch', Texts, GroupBatch)


def read_prompts(
  policy: policy_lib.Policy, params: policy_lib.Params, prompts: Prompts
) -> tuple[tuple[policy_lib.KeyValues, ...], jax.Array]:
  """Computes every prompt once, and what all share once for all.

  Returns:
    The context for continuations (common prefix, prompts), and the hidden
    state [Q, D] of each prompt's last token, which predicts the first token
    of its responses.
  """
  hidden, context = policy.forward_chain(params, _segments(prompts))
  return context, _at_end(hidden[-1], prompts.lengths)


def _segments(prompts: Prompts) -> tuple[policy_lib.Segment, ...]:
  """The common prefix, if any, and the rest of the prompts."""
  prefix = policy_lib.Segment(prompts.prefix_tokens, prompts.prefix_lengths)
  own = policy_lib.Segment(prompts.tokens, prompts.lengths)
  return (prefix, own) if prefix.tokens.shape[1] else (own,)


def _at_end(hidden_QPD: jax.Array, lengths_Q: jax.Array) -> jax.Array:
  """The hidden state [Q, D] of the last token of each row."""
  last_Q11 = (lengths_Q - 1)[:, None, None]
  return jnp.take_along_axis(hidden_QPD, last_Q11, axis=1)[:, 0]


def response_hidden(
  policy: policy_lib.Policy, params: policy_lib.Params, batch: Batch
) -> tuple[jax.Array, jax.Array]:
  """The hidden states before every response token.

  What a token's distribution and value are read from: the state of the token
  before it, for the first one that of the prompt's last token. Each prompt is
  computed once and shared by its G responses; values and gradients are those
  of G separate sequences.

  Returns:
    `(first_QD, later_AMD)`: before first tokens, the same for a group; and
    before those behind, as `side_by_side` has them.
  """
  segments = _segments(batch.prompts)
  last = len(segments) - 1
  num_groups, group_size, width = batch.tokens.shape
  if width > 1:
    # The last token of a response predicts nothing that is learned.
    tokens = side_by_side(batch, batch.tokens[:, :, :-1])
    if batch.packing is None:
      tokens = tokens.reshape(-1, width - 1)
    lengths_B = jnp.full((num_groups * group_size,), width - 1)
    own = policy_lib.Segment(tokens, lengths_B, batch.packing)
    segments = (*segments, own)
  hidden, _ = policy.forward_chain(params, segments)
  first_QD = _at_end(hidden[last], batch.prompts.lengths)
  if width == 1:
    return first_QD, jnp.zeros((num_groups, 0, first_QD.shape[1]))
  later = hidden[-1]
  if batch.packing is None:
    later = later.reshape(num_groups, -1, later.shape[-1])
  return first_QD, later


def side_by_side(batch: Batch, x_QGT: jax.Array) -> jax.Array:
  """What belongs to the tokens behind the first ones, [A, M].

  A are the parts of the packing, or without one groups, and M their tokens.
  """
  if batch.packing is None:
    return x_QGT.reshape(len(x_QGT), -1)
  return packing_lib.pack(x_QGT.reshape(-1, x_QGT.shape[-1]), batch.packing)


def by_response(
  batch: Batch, first_QG: jax.Array, later_AM: jax.Array
) -> jax.Array:
  """[Q, G, R] of what belongs to first tokens and to those behind."""
  num_groups, group_size, width = batch.tokens.shape
  if batch.packing is not None:
    later_AM = packing_lib.unpack(later_AM, batch.packing)
  later_QGT = later_AM.reshape(num_groups, group_size, width - 1)
  return jnp.concatenate([first_QG[..., None], later_QGT], axis=2)


def learned_tokens(batch: GroupBatch) -> jax.Array:
  """The mask [Q, G, R] of the tokens that are learned from."""
  within_QGR = masked.up_to(batch.lengths, batch.tokens.shape[-1])
  return within_QGR & (batch.weights != 0)[..., None]


def make_evaluate(
  of_batch: Callable[..., jax.Array],
  mesh: jax.sharding.Mesh,
  *,
  groups_per_microbatch: int,
) -> Callable[..., jax.Array]:
  """Builds `evaluate(texts, *params) -> [Q, G, R]`, one number a token.

  Args:
    of_batch: `(texts, *params) -> [q, G, R]`, of one microbatch.
    mesh: where microbatches are split over.
    groups_per_microbatch: groups in memory at once. Those from
      `texts.num_groups` on cost nothing and are 0.
  """

  @jax.jit
  def evaluate(texts: Texts, *params):
    micro = split(texts, groups_per_microbatch, mesh)
    size = micro.tokens.shape[1]

    def one_microbatch(i, found):
      one = jax.tree.map(lambda x: x[i], micro)
      return found.at[i].set(of_batch(one, *params))

    found = jax.lax.fori_loop(
      0,
      -(-texts.num_groups // size),
      one_microbatch,
      jnp.zeros(micro.tokens.shape),
    )
    found_QGR = found.reshape(texts.tokens.shape)
    # The last microbatch may hold some that are not asked for.
    asked_Q = jnp.arange(found_QGR.shape[0]) < texts.num_groups
    return jnp.where(asked_Q[:, None, None], found_QGR, 0)

  return evaluate


def split(batch: Batch, groups_per_microbatch: int, mesh) -> Batch:
  """[Q, ...] to [Q / q, q, ...], the common prefix repeated for each.

  q is `groups_per_microbatch`, or Q if that is less: a few large groups are
  not padded to many.

  Raises:
    ValueError: if Q is no multiple of q.
  """
  num_groups = batch.tokens.shape[0]
  size = min(groups_per_microbatch, num_groups)
  if num_groups % size:
    raise ValueError(
      f'a batch of {num_groups} groups: expected a multiple of '
      f'groups_per_microbatch={groups_per_microbatch}'
    )
  count = num_groups // size
  shared = {
    'prefix_tokens': batch.prompts.prefix_tokens,
    'prefix_lengths': batch.prompts.prefix_lengths,
  }
  shared = {k: jnp.stack([v] * count) for k, v in shared.items()}
  cut = lambda x: x.reshape(count, -1, *x.shape[1:])
  rows = jax.tree.map(
    cut,
    batch._replace(
      prompts=(batch.prompts.tokens, batch.prompts.lengths), num_groups=None
    ),
  )
  rows = sharding.constrain_rows(rows, mesh, axis=1)
  tokens, lengths = rows.prompts
  prompts = Prompts(**shared, tokens=tokens, lengths=lengths)
  return rows._replace(prompts=prompts)
