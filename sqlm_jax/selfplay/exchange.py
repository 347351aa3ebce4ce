"""Exchanges questions, rewards and metrics between the processes of a run.

Each group of proposals belongs to one process. This process parses the
questions, grades the answers to them and computes the rewards. The other
processes receive the questions and the rewards, which they need for training,
but never the answers.
"""

from collections.abc import Mapping, Sequence

from sqlm_jax.distributed import processes
from sqlm_jax.game import types

Prompts = list[list[int]]  # token ids of the prompts of one question


def questions(
  local: Sequence[tuple[types.Problem, Prompts]],
) -> tuple[list[types.Problem], list[Prompts], range]:
  """Concatenates the questions of all processes.

  Args:
    local: the problems of this process, each with its prompts. The prompts of
      an unreadable question are empty.

  Returns:
    `(problems, prompts, local_range)`: all problems, where those of other
    processes have no tests; the prompts of each readable problem; and the range
    of the readable problems that belong to this process.
  """
  by_process = processes.all_gather(
    [(*p._replace(tests=()), prompts) for p, prompts in local]
  )
  problems, all_prompts, local_range = [], [], range(0)
  for process, received in enumerate(by_process):
    first = len(all_prompts)
    all_prompts += [prompts for *_, prompts in received if prompts]
    if process == processes.index():
      problems += [problem for problem, _ in local]
      local_range = range(first, len(all_prompts))
    else:
      problems += [types.Problem(*fields) for *fields, _ in received]
  return problems, all_prompts, local_range


def rewards(
  scored: Sequence[types.ScoredQuestion],
) -> list[types.ScoredQuestion]:
  """Fills in the rewards of questions that other processes have scored.

  Args:
    scored: all questions of the round. Those that this process has scored have
      answers.

  Returns:
    The questions in the same order, with the rewards of all processes.
  """
  by_process = processes.all_gather(
    [
      (q.solver_rewards, q.proposer_reward) if q.answers else None
      for q in scored
    ]
  )
  rewarded = []
  for question, *received in zip(scored, *by_process, strict=True):
    reward = next(filter(None, received), None)
    if reward and not question.answers:
      solver_rewards, proposer_reward = reward
      question = question._replace(
        solver_rewards=tuple(solver_rewards), proposer_reward=proposer_reward
      )
    rewarded.append(question)
  return rewarded


def sums(local: Mapping[str, Sequence[float]]) -> dict[str, tuple[float, int]]:
  """Computes sums and counts over the values of all processes.

  Args:
    local: the values of this process, by name.

  Returns:
    The sum and the number of the values of each name.
  """
  totals: dict[str, tuple[float, int]] = {}
  for received in processes.all_gather(
    {name: (float(sum(v)), len(v)) for name, v in local.items()}
  ):
    for name, (value, number) in received.items():
      total, count = totals.get(name, (0.0, 0))
      totals[name] = total + value, count + number
  return totals
