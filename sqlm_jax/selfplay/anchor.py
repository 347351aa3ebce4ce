"""Answers of the initial model, which keep an update from changing others.

Training on some prompts also changes the answers to all others. The anchor is a
set of prompts that are not trained on, with answers that the initial model gave
to them. Every update of the solver's weights has the additional loss

  kl_coef KL(initial model || policy)

on some of these prompts, see `policy_loss.anchor_loss`. The answers are sampled
once, so the initial model need not be kept in memory.
"""

from typing import NamedTuple

import numpy as np

from sqlm_jax.config import training_schema
from sqlm_jax.engine import groups
from sqlm_jax.selfplay import batches, packing_plan, responses


class Anchor(NamedTuple):
  """The answers of the initial model to N prompts, on the host.

  Attributes:
    prompts: [N] rows.
    tokens: [N, G, R].
    lengths: [N, G].
    logprobs: [N, G, R], log-probabilities under the initial model.
  """

  prompts: groups.Prompts[np.ndarray]
  tokens: np.ndarray
  lengths: np.ndarray
  logprobs: np.ndarray


def scored(sampled: responses.Responses) -> batches.ScoredResponses:
  """Returns all responses, to compute their log-probabilities.

  Args:
    sampled: answers of the initial model, one group per prompt.
  """
  rewards_QG = np.zeros(sampled.rollout.lengths.shape, np.float32)
  return batches.pad_groups(
    sampled.prompt_ids, sampled.rollout, rewards_QG, num_groups=len(rewards_QG)
  )


def make_anchor(
  answers: batches.ScoredResponses, logprobs_QGR: np.ndarray
) -> Anchor:
  """Joins answers and their log-probabilities, without unused capacity.

  Args:
    answers: answers of the initial model, from `scored`.
    logprobs_QGR: their log-probabilities under the initial model.
  """
  rollout = answers.rollout
  width = batches.bucketed_width(rollout.lengths, rollout.tokens)
  return Anchor(
    answers.prompts,
    rollout.tokens[..., :width],
    rollout.lengths,
    logprobs_QGR[..., :width],
  )


def update_number(
  step: int, role: str, number: int, optimizer: training_schema.Optimizer
) -> int:
  """Returns the number of an update in the run.

  Args:
    step: self-play step, counted from 0.
    role: the role that is updated. The proposer follows the solver.
    number: index of the update among the role's updates in this step.
    optimizer: number of updates of a step.
  """
  first = optimizer.solver_updates if role == 'proposer' else 0
  per_step = optimizer.solver_updates + optimizer.proposer_updates
  return step * per_step + first + number


def batch(
  anchor: Anchor, number: int, size: int, layout: packing_plan.Layout
) -> groups.GroupBatch[np.ndarray]:
  """Returns the groups of an update.

  Updates take turns: each takes the next groups, and the first group follows
  the last. All batches have the same shape.

  Args:
    anchor: all groups.
    number: number of the update in the run.
    size: number of groups per update; larger than N counts as N.
    layout: microbatch layout; the batch is padded to full microbatches.
  """
  total = len(anchor.tokens)
  size = min(size, total)
  rows = batches.fill_microbatches(
    (number * size + np.arange(size)) % total, layout
  )
  lengths_QG = anchor.lengths[rows]
  is_used_QG = np.zeros(lengths_QG.shape, bool)
  is_used_QG[:size] = True
  num_tokens = np.where(is_used_QG, lengths_QG, 0).sum()
  return groups.GroupBatch(
    prompts=anchor.prompts.take(rows),
    tokens=anchor.tokens[rows],
    lengths=lengths_QG,
    old_logprobs=anchor.logprobs[rows],
    advantages=np.zeros((*lengths_QG.shape, 1), np.float32),
    weights=(is_used_QG / num_tokens).astype(np.float32),
    num_groups=np.array(size, np.int32),
  )
