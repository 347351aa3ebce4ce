"""Packs prompts, and turns scored rollouts into batches for the learner."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from sqlm_jax.engine import groups
from sqlm_jax.ops import losses
from sqlm_jax.selfplay import equal_responses, packing_plan

_SHORTEST_PREFIX = 8  # a shorter prefix is not worth a separate forward pass
# Jitted as one program; otherwise each operation is compiled separately.
_token_weights = jax.jit(
  losses.token_weights, static_argnames=('aggregation', 'max_tokens')
)


class Scored(NamedTuple):
  """The responses of one role in a step, and their rewards.

  The G responses of a group are compared with each other. They continue one
  prompt, or are divided among V prompts that ask the same question.
  """

  prompt_ids: Sequence[Sequence[int]]  # [Q V]
  rollout: groups.Rollout  # [Q V, G / V, ...], host arrays
  rewards: np.ndarray  # [Q, G], NaN for a response that is not trained on
  num_groups: int  # Q of a full step; missing groups are padded


class Rows(NamedTuple):
  """A role's step, padded to the shape that all of its steps share.

  Attributes:
    prompts: [Q V] rows.
    rollout: [Q V, G / V, ...].
    rewards: [Q, G].
    counted: [Q, G], False for padding and for responses without a reward.
  """

  prompts: groups.Prompts
  rollout: groups.Rollout
  rewards: np.ndarray
  counted: np.ndarray


class Estimate(NamedTuple):
  """Advantages and, if there is a value function, its targets.

  Attributes:
    advantages: [Q V, G / V, 1] if they belong to responses, [Q V, G / V, R] if
      they belong to tokens.
    values: [Q V, G / V, R], the value estimated before each token.
    targets: [Q V, G / V, R], the regression targets of the value function.
    kl: the mean KL per token, if the reward includes a KL penalty.
  """

  advantages: np.ndarray
  values: np.ndarray | None = None
  targets: np.ndarray | None = None
  kl: float | None = None


def pad(rows: Sequence[Sequence[int]], width: int) -> np.ndarray:
  """Right-pads rows of token ids with 0 to [len(rows), width]."""
  padded = np.zeros((len(rows), width), np.int32)
  for i, row in enumerate(rows):
    padded[i, : len(row)] = row
  return padded


def pack_prompts(
  prompts: Sequence[Sequence[int]], num_rows: int | None = None
) -> groups.Prompts:
  """Splits prompts into their common prefix and the rest of each prompt.

  Args:
    prompts: token ids of each prompt. No prompt is empty.
    num_rows: number of rows to pad to with dummy prompts, so that the shape
      does not depend on the number of readable questions.

  Returns:
    The prompts. Prefix and rest are padded to a bucket.
  """
  # Every prompt keeps at least its last token, which predicts the response.
  shortest = min(len(prompt) for prompt in prompts) - 1
  first = np.array([prompt[:shortest] for prompt in prompts])
  differs = np.flatnonzero(np.any(first != first[:1], axis=0))
  common = int(differs[0]) if differs.size else shortest
  if common < _SHORTEST_PREFIX:
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


def pad_groups(scored: Scored) -> Rows:
  """Packs the prompts and pads the rows to the groups of a full step."""
  size = len(scored.rewards)
  paid = ~np.isnan(scored.rewards)
  variants = len(scored.prompt_ids) // size
  missing = scored.num_groups - size
  return Rows(
    pack_prompts(scored.prompt_ids, scored.num_groups * variants),
    jax.tree.map(lambda x: _pad_rows(x, missing * variants), scored.rollout),
    _pad_rows(np.where(paid, scored.rewards, 0), missing),
    _pad_rows(paid, missing),
  )


def to_evaluate(rows: Rows, layout: packing_plan.Layout) -> groups.Texts:
  """Returns all rows in order, padded to whole microbatches, as host arrays.

  Rows after the last counted row and tokens after the end of a response are
  not evaluated.
  """
  tokens = rows.rollout.tokens
  order = _whole(np.arange(len(tokens)), layout)
  counted_Q = rows.counted.reshape(len(tokens), -1).any(axis=1)
  last = np.flatnonzero(counted_Q).max(initial=-1)
  texts = groups.Texts(
    rows.prompts.take(order), tokens[order], np.int32(last + 1)
  )
  return packing_plan.pack_texts(texts, rows.rollout.lengths[order], layout)


def make_batches(
  rows: Rows,
  estimate: Estimate,
  layout: packing_plan.Layout,
  *,
  updates: int,
  average: str,
  longest: int,
  keep_neutral: bool,
) -> list[groups.GroupBatch]:
  """Makes one batch for each optimizer step.

  Args:
    rows: responses and rewards of the step.
    estimate: their advantages.
    layout: microbatch layout; batches are padded to whole microbatches.
    updates: number of optimizer steps, a divisor of the step's groups.
    average: how the loss of an update is averaged, see `losses.token_weights`.
    longest: maximum number of tokens of a response.
    keep_neutral: if True, also train on groups in which every advantage is 0.
      Such groups have a gradient only if there is a KL penalty, an entropy
      bonus or a value function. Otherwise, leaving them out only saves time.
      They count in the average in either case.

  Returns:
    At most `updates` batches; a batch with nothing to train on is left out.
    Each batch is as wide as its longest response requires.
  """
  rollout = rows.rollout
  counted_QG = rows.counted.reshape(rollout.lengths.shape)
  batches = []
  for part in np.split(np.arange(len(counted_QG)), updates):
    weights_QG = np.asarray(
      _token_weights(
        rollout.lengths[part],
        counted_QG[part],
        aggregation=average,
        max_tokens=longest,
      )
    )
    useful = counted_QG[part].any(axis=1)
    if not keep_neutral:
      useful &= (estimate.advantages[part] != 0).any(axis=(1, 2))
    if not useful.any():
      continue
    # Useful groups come first, because the learner stops after them.
    order = np.argsort(~useful, kind='stable')
    order = _whole(order, layout)
    weights_QG, order = weights_QG[order], part[order]
    num_useful = int(useful.sum())
    live_Q1 = np.arange(len(order))[:, None] < num_useful
    width = _width(rollout.lengths[order[:num_useful]], rollout.tokens)
    advantages = np.where(
      live_Q1[..., None], estimate.advantages[order][..., :width], 0
    )
    batch = groups.GroupBatch(
      prompts=rows.prompts.take(order),
      tokens=rollout.tokens[order][..., :width],
      lengths=np.minimum(rollout.lengths[order], width),
      old_logprobs=rollout.logprobs[order][..., :width],
      advantages=advantages,
      weights=np.where(live_Q1, weights_QG, 0),
      num_groups=np.int32(num_useful),
      old_values=_in_order(estimate.values, order, width),
      value_targets=_in_order(estimate.targets, order, width),
    )
    if estimate.values is None:
      batch = equal_responses.merge(batch)
    batches.append(packing_plan.pack_batch(batch, layout))
  return batches


def _in_order(
  x: np.ndarray | None, order: np.ndarray, width: int
) -> np.ndarray | None:
  return None if x is None else x[order][..., :width]


def _width(lengths: np.ndarray, tokens: np.ndarray) -> int:
  """Returns a width that holds responses of these lengths, at most R.

  Widths are rounded up to a bucket because every width is compiled separately.
  """
  return min(packing_plan.bucket(int(lengths.max())), tokens.shape[-1])


def _whole(order: np.ndarray, layout: packing_plan.Layout) -> np.ndarray:
  """Pads row indices with 0 to whole microbatches."""
  size = layout.at_once(len(order))
  return np.pad(order, (0, -len(order) % size))


def _pad_rows(x: np.ndarray, count: int) -> np.ndarray:
  return np.pad(x, ((0, count),) + ((0, 0),) * (x.ndim - 1))
