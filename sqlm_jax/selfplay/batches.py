"""Between text and arrays: prompts in, responses out, batches to learn from."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from sqlm_jax.engine import groups
from sqlm_jax.ops import advantages as advantage_ops
from sqlm_jax.ops import losses

_SHORTEST_PREFIX = 8  # a shorter one is not worth a pass of its own


class Scored(NamedTuple):
  """What one role wrote in a step, and what it was paid.

  A group of G responses is compared with each other. It continues one prompt
  or, shared out among them, V prompts that ask the same.
  """

  prompt_ids: Sequence[Sequence[int]]  # [Q V]
  rollout: groups.Rollout  # [Q V, G / V, ...], host arrays
  rewards: np.ndarray  # [Q, G]
  num_groups: int  # Q of a full step: the rest is padding


def bucket(length: int) -> int:
  """The next of 8, 12, 16, 24, 32, 48, ...: at most a third is padding."""
  sizes = (size << k for k in itertools.count() for size in (8, 12))
  return next(size for size in sizes if size >= length)


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
  width = bucket(common) if common else 0
  return groups.Prompts(
    prefix_tokens=pad([prompts[0][:common]], width),
    prefix_lengths=np.array([common], np.int32),
    tokens=pad(rest, bucket(max(map(len, rest)))),
    lengths=np.array([len(row) for row in rest], np.int32),
  )


def make_batches(
  scored: Scored,
  *,
  updates: int,
  groups_per_microbatch: int,
  estimator: str,
  average: str,
  longest: int,
  keep_neutral: bool,
) -> list[groups.GroupBatch]:
  """Turns scored rollouts into one batch for each optimizer step.

  Args:
    scored: what was written and paid.
    updates: optimizer steps, `num_groups` is a multiple of it.
    groups_per_microbatch: larger batches are padded to a multiple of it.
    estimator: of the advantages, a key of `advantages.ESTIMATORS`. What it
      calls the batch is all Q groups, not those of one update.
    average: over what the loss of an update is averaged, see
      `losses.token_weights`.
    longest: tokens that a response may have.
    keep_neutral: learn from groups in which every advantage is 0 too. Only a
      KL penalty has a gradient there; without one, leaving them out changes
      nothing but the time it takes. They count in the average either way.

  Returns:
    The batches from which something can be learned, at most `updates`.
  """
  size, group_size = scored.rewards.shape
  variants = len(scored.prompt_ids) // size
  prompts = pack_prompts(scored.prompt_ids, scored.num_groups * variants)
  missing = scored.num_groups - size
  rollout = jax.tree.map(
    lambda x: _pad_rows(x, missing * variants), scored.rollout
  )
  counted_QG = _pad_rows(np.ones((size, group_size), bool), missing)
  estimate = advantage_ops.ESTIMATORS[estimator]
  advantages_QG = estimate(_pad_rows(scored.rewards, missing), counted_QG)
  # From questions to prompts.
  advantages_QG = np.asarray(advantages_QG).reshape(rollout.lengths.shape)
  counted_QG = counted_QG.reshape(rollout.lengths.shape)
  batches = []
  for part in np.split(np.arange(len(advantages_QG)), updates):
    weights_QG = np.asarray(
      losses.token_weights(
        rollout.lengths[part],
        counted_QG[part],
        average=average,
        longest=longest,
      )
    )
    useful = counted_QG[part].any(axis=1)
    if not keep_neutral:
      useful &= (advantages_QG[part] != 0).any(axis=1)
    if not useful.any():
      continue
    # Useful groups first: the learner stops behind them.
    order = np.argsort(~useful, kind='stable')
    order = np.pad(
      order, (0, -len(order) % min(groups_per_microbatch, len(order)))
    )
    weights_QG, order = weights_QG[order], part[order]
    num_useful = int(useful.sum())
    rows = np.arange(len(order))[:, None]
    live_Q1 = rows < num_useful
    batches.append(
      groups.GroupBatch(
        prompts=prompts._replace(
          tokens=prompts.tokens[order], lengths=prompts.lengths[order]
        ),
        tokens=rollout.tokens[order],
        lengths=rollout.lengths[order],
        old_logprobs=rollout.logprobs[order],
        advantages=np.where(live_Q1, advantages_QG[order], 0),
        weights=np.where(live_Q1, weights_QG, 0),
        num_groups=np.int32(num_useful),
      )
    )
  return batches


def _pad_rows(x: np.ndarray, count: int) -> np.ndarray:
  return np.pad(x, ((0, count),) + ((0, 0),) * (x.ndim - 1))
