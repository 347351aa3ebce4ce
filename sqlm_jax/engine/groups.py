"""Groups of G responses to a prompt, the data of the sampler and learner.

In this module, A is the number of parts of a packed batch (`ops.packing`), or
the number of groups if the batch is not packed. M is the number of tokens of a
part or a group.
"""

from typing import Any, Generic, NamedTuple, ParamSpec, Protocol, TypeVar

import jax
import jax.numpy as jnp

from sqlm_jax.distributed import sharding
from sqlm_jax.models import policy as policy_lib
from sqlm_jax.ops import integers, masked
from sqlm_jax.ops import packing as packing_lib
from sqlm_jax.ops.arrays import Array


class Prompts(NamedTuple, Generic[Array]):
  """Q prompts, split into their common prefix and the rest.

  A prompt consists of the first `prefix_lengths` tokens of `prefix_tokens`,
  which all prompts share, followed by its own row of `tokens`. Both arrays are
  right-padded to a bucket.
  """

  prefix_tokens: Array  # [1, T], T = 0 without a common prefix
  prefix_lengths: Array  # [1]
  tokens: Array  # [Q, P]
  lengths: Array  # [Q], at least 1

  def take(self, rows: Array) -> 'Prompts[Array]':
    """Returns the prompts of the given rows."""
    tokens, lengths = jax.tree.map(
      lambda x: x[rows], (self.tokens, self.lengths)
    )
    return self._replace(tokens=tokens, lengths=lengths)


class Rollout(NamedTuple, Generic[Array]):
  """G responses to each of Q prompts, padded after their lengths."""

  tokens: Array  # [Q, G, R], including the stop token
  logprobs: Array  # [Q, G, R], under the policy
  # [Q, G, R], under the policy with temperature and top-p applied.
  sampling_logprobs: Array
  lengths: Array  # [Q, G]
  finished: Array  # [Q, G], False where the limit cut off the response


class Texts(NamedTuple, Generic[Array]):
  """Groups to evaluate token by token, without a loss."""

  prompts: Prompts[Array]
  tokens: Array  # [Q, G, R]
  num_groups: Array  # [], number of groups to evaluate, from the first on
  packing: packing_lib.Packing[Array] | None = None  # as in `GroupBatch`


class GroupBatch(NamedTuple, Generic[Array]):
  """A batch of Q groups for the learner.

  A weight is the share of one token's loss in the total. The weights therefore
  define how the loss is aggregated, and a weight of 0 excludes a response.
  Advantages are per response, or per token with a value function. The fields
  of the value function are None if there is none.

  A row may represent several equal responses; its weight is then the sum of
  their weights. With a packing, only the tokens that it assigns to one of its
  parts are processed. Every microbatch has the same number of parts, and the
  groups to learn from are distributed over the microbatches.
  """

  prompts: Prompts[Array]
  tokens: Array  # [Q, G, R]
  lengths: Array  # [Q, G]
  old_logprobs: Array  # [Q, G, R]
  advantages: Array  # [Q, G, R], or [Q, G, 1] for a whole response
  weights: Array  # [Q, G]
  # [], number of groups to learn from, which come first. Microbatches that
  # contain only other groups are not computed.
  num_groups: Array
  old_values: Array | None = None  # [Q, G, R]
  value_targets: Array | None = None  # [Q, G, R]
  # [Q, G], number of responses that a row represents; None means 1.
  counts: Array | None = None
  # Packing of Q * G rows of R - 1 tokens.
  packing: packing_lib.Packing[Array] | None = None


Batch = TypeVar('Batch', Texts, GroupBatch)
Params = ParamSpec('Params')  # parameter trees
Metrics = dict[str, tuple[jax.Array, jax.Array]]  # name -> (sum, count)


class TokenFunction(Protocol[Params]):
  """Computes one number per response token of a microbatch."""

  def __call__(
    self, texts: Texts, *params: Params.args, **named: Params.kwargs
  ) -> jax.Array:
    """Returns one number per token, [q, G, R].

    Args:
      texts: q groups.
      *params: parameter trees.
      **named: parameter trees by name.
    """


class Evaluate(Protocol[Params]):
  """Computes one number per response token, in microbatches."""

  def __call__(
    self, texts: Texts, *params: Params.args, **named: Params.kwargs
  ) -> jax.Array:
    """Returns one number per token, [Q, G, R].

    Args:
      texts: Q groups. The result is 0 for the groups after the first
        `texts.num_groups`. Microbatches that contain only such groups are not
        computed.
      *params: parameter trees.
      **named: parameter trees by name.
    """


def read_prompts(
  policy: policy_lib.Policy, params: policy_lib.Params, prompts: Prompts
) -> tuple[tuple[policy_lib.KeyValues, ...], jax.Array]:
  """Computes every prompt once, and the common prefix once for all prompts.

  Returns:
    The context for continuations (common prefix, prompts), and the hidden
    state [Q, D] of each prompt's last token, which predicts the first token
    of its responses.
  """
  hidden, context = policy.forward_chain(params, _segments(prompts))
  return context, _at_end(hidden[-1], prompts.lengths)


def _segments(prompts: Prompts) -> tuple[policy_lib.Segment, ...]:
  """Returns the common prefix, if any, and the rest of the prompts."""
  prefix = policy_lib.Segment(prompts.prefix_tokens, prompts.prefix_lengths)
  rest = policy_lib.Segment(prompts.tokens, prompts.lengths)
  return (prefix, rest) if prefix.tokens.shape[1] else (rest,)


def _at_end(hidden_QPD: jax.Array, lengths_Q: jax.Array) -> jax.Array:
  """Returns the hidden state [Q, D] of the last token of each row."""
  last_Q11 = (lengths_Q - 1)[:, None, None]
  return jnp.take_along_axis(hidden_QPD, last_Q11, axis=1)[:, 0]


def response_hidden(
  policy: policy_lib.Policy, params: policy_lib.Params, batch: Batch
) -> tuple[jax.Array, jax.Array]:
  """Computes the hidden state that predicts each response token.

  The distribution and the value of a token are computed from the hidden state
  of the previous token. For the first token of a response, this is the last
  token of the prompt. Each prompt is computed once and shared by its G
  responses. Values and gradients equal those of G separate sequences.

  Returns:
    `(first_QD, later_AMD)`. `first_QD` predicts the first token of every
    response of a group. `later_AMD` predicts the later tokens, in the layout of
    `side_by_side`.
  """
  segments = _segments(batch.prompts)
  last = len(segments) - 1
  num_groups, group_size, width = batch.tokens.shape
  if width > 1:
    # The last token of a response does not predict a token of the batch.
    tokens = side_by_side(batch, batch.tokens[:, :, :-1])
    if batch.packing is None:
      tokens = tokens.reshape(-1, width - 1)
    lengths_B = jnp.full((num_groups * group_size,), width - 1)
    responses = policy_lib.Segment(tokens, lengths_B, batch.packing)
    segments = (*segments, responses)
  hidden, _ = policy.forward_chain(params, segments)
  first_QD = _at_end(hidden[last], batch.prompts.lengths)
  if width == 1:
    return first_QD, jnp.zeros((num_groups, 0, first_QD.shape[1]))
  later = hidden[-1]
  if batch.packing is None:
    later = later.reshape(num_groups, -1, later.shape[-1])
  return first_QD, later


def side_by_side(batch: Batch, x_QGT: jax.Array) -> jax.Array:
  """Lays out values of the tokens after each response's first, [A, M]."""
  if batch.packing is None:
    return x_QGT.reshape(len(x_QGT), -1)
  return packing_lib.pack(x_QGT.reshape(-1, x_QGT.shape[-1]), batch.packing)


def by_response(
  batch: Batch, first_QG: jax.Array, later_AM: jax.Array
) -> jax.Array:
  """Joins the values of first tokens and of later tokens to [Q, G, R]."""
  num_groups, group_size, width = batch.tokens.shape
  if batch.packing is not None:
    later_AM = packing_lib.unpack(later_AM, batch.packing)
  later_QGT = later_AM.reshape(num_groups, group_size, width - 1)
  return jnp.concatenate([first_QG[..., None], later_QGT], axis=2)


def learned_tokens(batch: GroupBatch) -> jax.Array:
  """Returns the mask [Q, G, R] of the tokens that contribute to the loss."""
  within_QGR = masked.up_to(batch.lengths, batch.tokens.shape[-1])
  return within_QGR & (batch.weights != 0)[..., None]


def make_evaluate(
  of_microbatch: TokenFunction[Params],
  mesh: jax.sharding.Mesh,
  *,
  groups_per_microbatch: int,
) -> Evaluate[Params]:
  """Returns the program that computes one number per token, in microbatches.

  Args:
    of_microbatch: computes the numbers of one microbatch.
    mesh: mesh that microbatches are split over.
    groups_per_microbatch: maximum number of groups in memory at once.
  """

  @jax.jit
  def evaluate(
    texts: Texts, *params: Params.args, **named: Params.kwargs
  ) -> jax.Array:
    microbatches = split(texts, groups_per_microbatch, mesh)
    size = microbatches.tokens.shape[1]

    def evaluate_one(i: jax.Array, values: jax.Array) -> jax.Array:
      microbatch = jax.tree.map(lambda x: x[i], microbatches)
      return values.at[i].set(of_microbatch(microbatch, *params, **named))

    values = jax.lax.fori_loop(
      0,
      integers.ceil_div(texts.num_groups, size),
      evaluate_one,
      jnp.zeros(microbatches.tokens.shape),
    )
    values_QGR = values.reshape(texts.tokens.shape)
    # The last microbatch may contain groups beyond `num_groups`.
    within_Q = jnp.arange(values_QGR.shape[0]) < texts.num_groups
    return jnp.where(within_Q[:, None, None], values_QGR, 0)

  return evaluate


def split(
  batch: Batch, groups_per_microbatch: int, mesh: jax.sharding.Mesh
) -> Batch:
  """Splits a batch [Q, ...] into microbatches [Q / q, q, ...].

  The microbatch size q is the smaller of `groups_per_microbatch` and Q, so that
  a few large groups do not need padding. The common prefix is repeated for each
  microbatch.

  Raises:
    ValueError: if Q is not a multiple of q.
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
  fields: dict[str, Any] = batch._asdict()
  fields['prompts'] = (batch.prompts.tokens, batch.prompts.lengths)
  fields['num_groups'] = None  # belongs to the whole batch
  rows = jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), fields)
  rows = sharding.constrain_rows(rows, mesh, axis=1)
  tokens, lengths = rows['prompts']
  rows['prompts'] = Prompts(**shared, tokens=tokens, lengths=lengths)
  return type(batch)(**rows)
