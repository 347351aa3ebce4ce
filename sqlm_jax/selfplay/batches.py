"""Between text and arrays: prompts in, responses out, batches to learn from."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from sqlm_jax.engine import groups
from sqlm_jax.ops import losses
from sqlm_jax.selfplay import merging, packing

_SHORTEST_PREFIX = 8  # a shorter one is not worth a pass of its own
# As one program: each of its operations would be compiled on its own.
_token_weights = jax.jit(
  losses.token_weights, static_argnames=('average', 'longest')
)


class Scored(NamedTuple):
  """What one role wrote in a step, and what it was paid.

  A group of G responses is compared with each other. It continues one prompt
  or, shared out among them, V prompts that ask the same.
  """

  prompt_ids: Sequence[Sequence[int]]  # [Q V]
  rollout: groups.Rollout  # [Q V, G / V, ...], host arrays
  rewards: np.ndarray  # [Q, G], NaN for a response that nobody learns from
  num_groups: int  # Q of a full step: the rest is padding


class Rows(NamedTuple):
  """A role's step in the shape that every one of its steps has.

  Attributes:
    prompts: [Q V] rows.
    rollout: [Q V, G / V, ...].
    rewards: [Q, G].
    counted: [Q, G], False for what only fills the shape, or was not paid.
  """

  prompts: groups.Prompts
  rollout: groups.Rollout
  rewards: np.ndarray
  counted: np.ndarray


class Estimate(NamedTuple):
  """Advantages, and what a value function learns where there is one.

  Attributes:
    advantages: [Q V, G / V, 1] of responses, or [.., .., R] of their tokens.
    values: [Q V, G / V, R], what was expected before each token.
    targets: of the same shape, what should have been.
    kl: the mean a token, where the rewards pay for it.
  """

  advantages: np.ndarray
  values: np.ndarray | None = None
  targets: np.ndarray | None = None
  kl: float | None = None


def pad(rows: Sequence[Sequence[int]], width: int) -> np.ndarray:
  """Rows of token ids, right-padded with 0 to [len(rows), width]."""
  padded = np.zeros((len(rows), width), np.int32)
  for i, row in enumerate(rows):
    padded[i, : len(row)] = row
  return padded


def pack_prompts(
  prompts: Sequence[Sequence[int]], num_rows: int | None = None
) -> groups.Prompts:
  """Splits prompts into their common prefix and the rest.

  Args:
    prompts: token ids of each prompt, none empty.
    num_rows: rows to pad to with dummy prompts, so that the shape does not
      depend on how many questions were readable.
  """
  # Every prompt keeps at least its last token: it predicts the response.
  shortest = min(len(prompt) for prompt in prompts) - 1
  first = np.array([prompt[:shortest] for prompt in prompts])
  differs = np.flatnonzero(np.any(first != first[:1], axis=0))
  common = int(differs[0]) if differs.size else shortest
  if common < _SHORTEST_PREFIX:
    common = 0
  rest = [prompt[common:] for prompt in prompts]
  rest += [[0]] * ((num_rows or 0) - len(rest))
  width = packing.bucket(common) if common else 0
  return groups.Prompts(
    prefix_tokens=pad([prompts[0][:common]], width),
    prefix_lengths=np.array([common], np.int32),
    tokens=pad(rest, packing.bucket(max(map(len, rest)))),
    lengths=np.array([len(row) for row in rest], np.int32),
  )


def pad_groups(scored: Scored) -> Rows:
  """Packs the prompts, and fills up to the groups of a full step."""
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


def to_evaluate(rows: Rows, layout: packing.Layout) -> groups.Texts:
  """All prompts in order, padded to whole microbatches; host arrays.

  What stands behind the last one that counts, or behind a response's end, is
  not evaluated.
  """
  tokens = rows.rollout.tokens
  order = _whole(np.arange(len(tokens)), layout)
  counted_Q = rows.counted.reshape(len(tokens), -1).any(axis=1)
  last = np.flatnonzero(counted_Q).max(initial=-1)
  texts = groups.Texts(
    rows.prompts.take(order), tokens[order], np.int32(last + 1)
  )
  return packing.pack_texts(texts, rows.rollout.lengths[order], layout)


def make_batches(
  rows: Rows,
  estimate: Estimate,
  layout: packing.Layout,
  *,
  updates: int,
  average: str,
  longest: int,
  keep_neutral: bool,
) -> list[groups.GroupBatch]:
  """Makes one batch for each optimizer step.

  Args:
    rows: what was written and paid.
    estimate: its advantages.
    layout: how many groups are computed at once; batches are padded to it.
    updates: optimizer steps, a divisor of the step's groups.
    average: over what the loss of an update is averaged, see
      `losses.token_weights`.
    longest: tokens that a response may have.
    keep_neutral: learn from groups in which every advantage is 0 too. Only a
      KL penalty, an entropy bonus or a value function has a gradient there;
      without one, leaving them out changes nothing but the time it takes.
      They count in the average either way.

  Returns:
    The batches from which something can be learned, at most `updates`. Each is
    as wide as its longest response wants.
  """
  rollout = rows.rollout
  counted_QG = rows.counted.reshape(rollout.lengths.shape)
  batches = []
  for part in np.split(np.arange(len(counted_QG)), updates):
    weights_QG = np.asarray(
      _token_weights(
        rollout.lengths[part],
        counted_QG[part],
        average=average,
        longest=longest,
      )
    )
    useful = counted_QG[part].any(axis=1)
    if not keep_neutral:
      useful &= (estimate.advantages[part] != 0).any(axis=(1, 2))
    if not useful.any():
      continue
    # Useful groups first: the learner stops behind them.
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
      batch = merging.merge(batch)
    batches.append(packing.pack_batch(batch, layout))
  return batches


def _in_order(
  x: np.ndarray | None, order: np.ndarray, width: int
) -> np.ndarray | None:
  return None if x is None else x[order][..., :width]


def _width(lengths: np.ndarray, tokens: np.ndarray) -> int:
  """Room for the longest response that counts, not for the longest there is.

  In buckets: each width costs a compilation.
  """
  return min(packing.bucket(int(lengths.max())), tokens.shape[-1])


def _whole(order: np.ndarray, layout: packing.Layout) -> np.ndarray:
  """Row numbers, filled up to whole microbatches."""
  size = layout.at_once(len(order))
  return np.pad(order, (0, -len(order) % size))


def _pad_rows(x: np.ndarray, count: int) -> np.ndarray:
  return np.pad(x, ((0, count),) + ((0, 0),) * (x.ndim - 1))
