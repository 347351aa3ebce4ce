"""From the outcome of a step to what is written down and shown of it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlm_jax import display
from sqlm_jax.game import types
from sqlm_jax.selfplay import responses, step

_SHOWN_SAMPLES = 2


def rollout_rows(
  outcome: step.Outcome,
  *,
  seed: int,
  policy_steps: Mapping[str, int],
  show: Callable[[Sequence[int]], str],
) -> list[dict[str, Any]]:
  """Rows for `writers.RunWriter.rollouts`, proposals before solutions.

  Args:
    outcome: of a self-play step.
    seed: of the run.
    policy_steps: role -> optimizer steps of the weights that it used.
    show: turns a prompt's token ids into text, special tokens included.
  """
  rows = []
  group_size = len(outcome.proposals.texts[0])
  for i, verdict in enumerate(outcome.verdicts):
    group, sample = divmod(i, group_size)
    row = _response_row(outcome.proposals, group, sample, show)
    row |= _vote_columns(verdict) | {
      'role': 'proposer',
      'reward': verdict.proposer_reward,
      'counted': 'proposer' in outcome.trained,
    }
    rows.append(row)
  asked = [v for v in outcome.verdicts if v.problem.ok]
  for group, verdict in enumerate(asked):
    for sample, (answer, reward) in enumerate(
      zip(verdict.answers, verdict.solver_rewards, strict=True)
    ):
      row = _response_row(outcome.solutions, group, sample, show)
      row |= _vote_columns(verdict) | {
        'role': 'solver',
        'answer': None if answer is None else str(answer),
        'reward': reward,
        'counted': 'solver' in outcome.trained,
      }
      rows.append(row)
  for row in rows:
    row |= {'seed': seed, 'policy_step': policy_steps[row['role']]}
  return rows


def sample_questions(outcome: step.Outcome) -> list[display.Sample]:
  """The step's first questions that were asked, with their votes."""
  asked = [v for v in outcome.verdicts if v.problem.ok]
  return [
    display.Sample(
      question=v.problem.text,
      vote=None if v.vote.answer is None else str(v.vote.answer),
      count=v.vote.count,
      size=v.vote.size,
    )
    for v in asked[:_SHOWN_SAMPLES]
  ]


def _response_row(
  written: responses.Responses,
  group: int,
  sample: int,
  show: Callable[[Sequence[int]], str],
) -> dict[str, Any]:
  rollout = written.rollout
  length = int(rollout.lengths[group, sample])
  return {
    'group': group,
    'sample': sample,
    'prompt': show(written.prompt_ids[group]),
    'response': written.texts[group][sample],
    'finished': bool(rollout.finished[group, sample]),
    'num_tokens': length,
    'logprob': float(rollout.logprobs[group, sample, :length].sum()),
  }


def _vote_columns(verdict: types.Verdict) -> dict[str, Any]:
  vote = verdict.vote
  labelled = vote is not None and vote.answer is not None
  why_not = verdict.problem.why_not or (vote.why_not if vote else '')
  return {
    'question': verdict.problem.text if verdict.problem.ok else None,
    'vote': str(vote.answer) if labelled else None,
    'vote_share': vote.count / vote.size if labelled else None,
    'why_not': why_not or None,
  }
