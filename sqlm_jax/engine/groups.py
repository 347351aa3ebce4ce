"""Prompts with G continuations each: what sampler and learner work on."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from sqlm_jax.models import policy as policy_lib


class Prompts(NamedTuple):
  """Q prompts, split into what they have in common and the rest.

  A prompt is its first `prefix_length` tokens, the same for all, followed by
  its own row of `tokens`. Both are right-padded to a bucket.
  """

  prefix_tokens: jax.Array  # [1, C], C = 0 without a common prefix
  prefix_lengths: jax.Array  # [1]
  tokens: jax.Array  # [Q, P]
  lengths: jax.Array  # [Q], at least 1


class Rollout(NamedTuple):
  """G responses to each of Q prompts; beyond a length stands padding."""

  tokens: jax.Array  # [Q, G, R], the stop token included
  logprobs: jax.Array  # [Q, G, R] under the policy
  sampling_logprobs: jax.Array  # [Q, G, R] under what was drawn from
  lengths: jax.Array  # [Q, G]
  finished: jax.Array  # [Q, G], False where the limit cut the response


class GroupBatch(NamedTuple):
  """What the learner needs to know about Q groups.

  A weight is the share of one token's loss in the total, so that the
  weights say how the loss is averaged; 0 leaves a response out.
  """

  prompts: Prompts
  tokens: jax.Array  # [Q, G, R]
  lengths: jax.Array  # [Q, G]
  old_logprobs: jax.Array  # [Q, G, R]
  advantages: jax.Array  # [Q, G]
  weights: jax.Array  # [Q, G]
  num_groups: jax.Array  # [], the first so many groups are learned from


def read_prompts(
  policy: policy_lib.Policy, params: policy_lib.Params, prompts: Prompts
) -> tuple[tuple[policy_lib.KeyValues, ...], jax.Array]:
  """Computes every prompt once, and what all share once for all.

  Returns:
    The context for continuations (common prefix, prompts), and the hidden
    state [Q, D] of each prompt's last token, which predicts the first token
    of its responses.
  """
  context = ()
  if prompts.prefix_tokens.shape[1]:
    _, prefix = policy.forward(
      params, prompts.prefix_tokens, prompts.prefix_lengths
    )
    context = (prefix,)
  hidden_QPD, own = policy.forward(
    params, prompts.tokens, prompts.lengths, context
  )
  last_Q11 = (prompts.lengths - 1)[:, None, None]
  last_QD = jnp.take_along_axis(hidden_QPD, last_Q11, axis=1)[:, 0]
  return (*context, own), last_QD
