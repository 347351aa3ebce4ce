"""Packs prompts, and turns scored responses into batches for the learner.

V here is the number of prompts per question (`task.solver_variants`).
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from sqlm_jax.engine import groups
from sqlm_jax.ops import losses
from sqlm_jax.selfplay import equal_responses, packing_plan

_MIN_PREFIX = 8  # a shorter prefix is not worth a separate forward pass
# Jitted as one program; otherwise each operation is compiled separately.
_token_weights = jax.jit(
  losses.token_weights, static_argnames=('aggregation', 'max_tokens')
)


class ScoredResponses(NamedTuple):
  """The responses of one role in a step, with their rewards.

  The G responses of a group are compared with each other. They continue one
  prompt, or are divided among V prompts that ask the same question. All steps
  of a role have the same shape: missing groups are padded.

  Attributes:
    prompts: [Q V] rows.
    rollout: [Q V, G / V, ...], host arrays.
    rewards: [Q, G], 0 where the mask is False.
    mask: [Q, G], False for padding and for responses without a reward.
  """

  prompts: groups.Prompts[np.ndarray]
  rollout: groups.Rollout[np.ndarray]
  rewards: np.ndarray
  mask: np.ndarray


class Advantages(NamedTuple):
  """Advantages and, if there is a value function, its targets.

  Attributes:
    advantages: [Q V, G / V, 1] if they belong to responses, [Q V, G / V, R] if
      they belong to tokens.
    values: [Q V, G / V, R], the value estimated before each token.
    value_targets: [Q V, G / V, R], what the value function is trained on.
    mean_kl: the mean KL per token, if the reward includes a KL penalty.
  """

  advantages: np.ndarray
  values: np.ndarray | None = None
  value_targets: np.ndarray | None = None
  mean_kl: float | None = None


def pad(rows: Sequence[Sequence[int]], width: int) -> np.ndarray:
  """Right-pads rows of token ids with 0 to [len(rows), width]."""
  padded = np.zeros((len(rows), width), np.int32)
  for i, row in enumerate(rows):
    padded[i, : len(row)] = row
  return padded


def pack_prompts(
  prompts: Sequence[Sequence[int]], num_rows: int | None = None
) -> groups.Prompts[np.ndarray]:
  """Splits prompts into their common prefix and the rest of each prompt.

  Args:
    prompts: token ids of each prompt. No prompt is empty.
    num_rows: number of rows to pad to with dummy prompts, so that the shape
      does not depend on the number of readable questions.

  Returns:
    The prompts. Prefix and rest are padded to a bucket.
  """
  # Every prompt keeps at least its last token, which predicts the response.
  max_common = min(len(prompt) for prompt in prompts) - 1
  starts = np.array([prompt[:max_common] for prompt in prompts])
  differences = np.flatnonzero(np.any(starts != starts[:1], axis=0))
  common = int(differences[0]) if differences.size else max_common
  if common < _MIN_PREFIX:
    common = 0
  rest = [prompt[common:] for prompt in prompts]
  rest += [[0]] * ((num_rows or 0) - len(rest))
  width = packing_plan.bucket(common) if common else 0
  return groups.Prompts(
    prefix_tokens=pad([prompts[0][:common]], width),
    prefix_lengths=np.array([common], np.int32),
    tokens=pad(rest, packing_plan.bucket(max(map(len, rest)))),
    lengths=np.array([len(row) for row in rest], np.int32),
  )


def pad_groups(
  prompt_ids: Sequence[Sequence[int]],
  rollout: groups.Rollout[np.ndarray],
  rewards: np.ndarray,
  *,
  num_groups: int,
) -> ScoredResponses:
  """Packs the prompts and pads the rows to the groups of a full step.

  Args:
    prompt_ids: token ids of the prompts, V per group.
    rollout: the responses to these prompts, host arrays.
    rewards: [Q, G], NaN for a response that is not trained on.
    num_groups: number of groups of a full step.
  """
  is_rewarded = ~np.isnan(rewards)
  variants = len(prompt_ids) // len(rewards)
  missing = num_groups - len(rewards)
  return ScoredResponses(
    pack_prompts(prompt_ids, num_groups * variants),
    jax.tree.map(lambda x: _pad_rows(x, missing * variants), rollout),
    _pad_rows(np.where(is_rewarded, rewards, 0), missing),
    _pad_rows(is_rewarded, missing),
  )


def texts_to_evaluate(
  scored: ScoredResponses, layout: packing_plan.Layout
) -> groups.Texts[np.ndarray]:
  """Returns all rows in order, padded to full microbatches, as host arrays.

  Rows after the last row with a reward and tokens after the end of a response
  are not evaluated.
  """
  tokens = scored.rollout.tokens
  order = fill_microbatches(np.arange(len(tokens)), layout)
  is_rewarded_Q = scored.mask.reshape(len(tokens), -1).any(axis=1)
  last = np.flatnonzero(is_rewarded_Q).max(initial=-1)
  texts = groups.Texts(
    scored.prompts.take(order), tokens[order], np.array(last + 1, np.int32)
  )
  return packing_plan.pack_texts(texts, scored.rollout.lengths[order], layout)


def make_batches(
  scored: ScoredResponses,
  advantages: Advantages,
  layout: packing_plan.Layout,
  *,
  updates: int,
  aggregation: str,
  max_tokens: int,
  keep_neutral: bool,
) -> list[groups.GroupBatch[np.ndarray]]:
  """Makes one batch for each optimizer step.

  Args:
    scored: responses and rewards of the step.
    advantages: their advantages.
    layout: microbatch layout; batches are padded to full microbatches.
    updates: number of optimizer steps, a divisor of the step's groups.
    aggregation: how the loss of an update is aggregated, see
      `losses.token_weights`.
    max_tokens: maximum number of tokens of a response.
    keep_neutral: if True, also train on groups in which every advantage is 0.
      Such groups have a gradient only if there is a KL penalty, an entropy
      bonus or a value function. Otherwise, leaving them out only saves time.
      In either case, they count in the mean.

  Returns:
    At most `updates` batches; a batch with nothing to train on is left out.
    Each batch is as wide as its longest response requires.
  """
  lengths_QG = scored.rollout.lengths
  mask_QG = scored.mask.reshape(lengths_QG.shape)
  batches = []
  for rows in np.split(np.arange(len(mask_QG)), updates):
    weights_QG = _token_weights(
      lengths_QG[rows],
      mask_QG[rows],
      aggregation=aggregation,
      max_tokens=max_tokens,
    )
    useful = np.any(mask_QG[rows], axis=1)
    if not keep_neutral:
      useful &= np.any(advantages.advantages[rows] != 0, axis=(1, 2))
    if useful.any():
      batch = _make_batch(
        scored, advantages, layout, rows, useful, np.asarray(weights_QG)
      )
      batches.append(packing_plan.pack_batch(batch, layout))
  return batches


def _make_batch(
  scored: ScoredResponses,
  advantages: Advantages,
  layout: packing_plan.Layout,
  rows: np.ndarray,
  useful: np.ndarray,
  weights_QG: np.ndarray,
) -> groups.GroupBatch[np.ndarray]:
  """Makes the batch of one optimizer step.

  Args:
    scored: responses and rewards of the step.
    advantages: their advantages.
    layout: microbatch layout.
    rows: indices of the rows of this optimizer step.
    useful: mask of those rows that are trained on.
    weights_QG: the loss weights of the tokens of those rows.
  """
  rollout = scored.rollout
  # Useful groups come first, because the learner stops after them.
  order = fill_microbatches(np.argsort(~useful, kind='stable'), layout)
  weights_QG, order = weights_QG[order], rows[order]
  num_useful = int(useful.sum())
  live_Q1 = np.arange(len(order))[:, None] < num_useful
  width = bucketed_width(rollout.lengths[order[:num_useful]], rollout.tokens)

  def select(x_QGR: np.ndarray) -> np.ndarray:
    return x_QGR[order][..., :width]

  batch = groups.GroupBatch(
    prompts=scored.prompts.take(order),
    tokens=select(rollout.tokens),
    lengths=np.minimum(rollout.lengths[order], width),
    old_logprobs=select(rollout.logprobs),
    advantages=np.where(live_Q1[..., None], select(advantages.advantages), 0),
    weights=np.where(live_Q1, weights_QG, 0),
    num_groups=np.array(num_useful, np.int32),
  )
  if advantages.values is None or advantages.value_targets is None:
    return equal_responses.merge(batch)
  return batch._replace(
    old_values=select(advantages.values),
    value_targets=select(advantages.value_targets),
  )


def bucketed_width(lengths: np.ndarray, tokens: np.ndarray) -> int:
  """Returns a width that holds responses of these lengths, at most R.

  Widths are rounded up to a bucket because every width is compiled separately.
  """
  return min(packing_plan.bucket(int(lengths.max())), tokens.shape[-1])


def fill_microbatches(
  order: np.ndarray, layout: packing_plan.Layout
) -> np.ndarray:
  """Pads row indices with 0 to full microbatches."""
  size = layout.microbatch_size(len(order))
  return np.pad(order, (0, -len(order) % size))


def _pad_rows(x: np.ndarray, count: int) -> np.ndarray:
  return np.pad(x, ((0, count),) + ((0, 0),) * (x.ndim - 1))
