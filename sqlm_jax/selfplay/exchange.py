"""Exchanges questions, rewards and metrics between the processes of a run.

One process reads a group of proposals and the answers to its questions, and
takes the vote or runs the programs. The other processes receive the questions
and the rewards, which they need for training, but never the answers.
"""

from collections.abc import Mapping, Sequence

from sqlm_jax.distributed import processes
from sqlm_jax.game import types

Prompts = list[list[int]]  # token ids of the prompts of one question


def questions(
  read: Sequence[tuple[types.Problem, Prompts]],
) -> tuple[list[types.Problem], list[Prompts], range]:
  """Concatenates the questions of all processes.

  Args:
    read: the problems of this process, each with its prompts. The prompts of
      an unreadable question are empty.

  Returns:
    `(problems, prompts, own)`: all problems, where those of other processes
    have no tests; the prompts of each readable problem; and the range of the
    readable problems that belong to this process.
  """
  told = processes.all_gather(
    [(*p._replace(tests=()), prompts) for p, prompts in read]
  )
  problems, all_prompts = [], []
  for process, those in enumerate(told):
    first = len(all_prompts)
    if process == processes.index():
      problems += [problem for problem, _ in read]
    else:
      problems += [types.Problem(*fields) for *fields, _ in those]
    all_prompts += [prompts for *_, prompts in those if prompts]
    if process == processes.index():
      own = range(first, len(all_prompts))
  return problems, all_prompts, own


def rewards(verdicts: Sequence[types.Verdict]) -> list[types.Verdict]:
  """Fills in the rewards of verdicts that other processes have judged.

  Args:
    verdicts: verdicts on all problems of the round. Those that this process
      has judged have answers.

  Returns:
    The verdicts in the same order, with the rewards of all processes.
  """
  own = [
    (v.solver_rewards, v.proposer_reward) if v.answers else None
    for v in verdicts
  ]
  found = []
  for verdict, *told in zip(verdicts, *processes.all_gather(own), strict=True):
    paid = next(filter(None, told), None)
    if paid and not verdict.answers:
      solver_rewards, proposer_reward = paid
      verdict = verdict._replace(
        solver_rewards=tuple(solver_rewards), proposer_reward=proposer_reward
      )
    found.append(verdict)
  return found


def sums(own: Mapping[str, Sequence[float]]) -> dict[str, tuple[float, int]]:
  """Computes sums and counts over the values of all processes.

  Args:
    own: the values of this process, by name.

  Returns:
    The sum and the number of the values of each name.
  """
  total: dict[str, tuple[float, int]] = {}
  for told in processes.all_gather(
    {name: (float(sum(v)), len(v)) for name, v in own.items()}
  ):
    for name, (value, number) in told.items():
      before, counted = total.get(name, (0.0, 0))
      total[name] = before + value, counted + number
  return total
