"""What the processes of a run tell each other about a step.

A group of proposals and the answers to its questions are read, put to a vote
or run by one process. All others learn which questions there are and what
everybody is paid: numbers to learn from. What was answered they never see.
"""

from collections.abc import Mapping, Sequence

from sqlm_jax.distributed import hosts
from sqlm_jax.game import types

Prompts = list[list[int]]  # of one question, as token ids


def questions(
  read: Sequence[tuple[types.Problem, Prompts]],
) -> tuple[list[types.Problem], list[Prompts], range]:
  """Puts the questions of all processes in a row.

  Args:
    read: this process's, each with its prompts if it is readable.

  Returns:
    All problems, those of others without their tests; the prompts of the
    readable ones; and which of these are this process's.
  """
  told = hosts.exchange(
    [(*p._replace(tests=()), prompts) for p, prompts in read]
  )
  problems, all_prompts = [], []
  for process, those in enumerate(told):
    first = len(all_prompts)
    if process == hosts.index():
      problems += [problem for problem, _ in read]
    else:
      problems += [types.Problem(*fields) for *fields, _ in those]
    all_prompts += [prompts for *_, prompts in those if prompts]
    if process == hosts.index():
      own = range(first, len(all_prompts))
  return problems, all_prompts, own


def rewards(verdicts: Sequence[types.Verdict]) -> list[types.Verdict]:
  """Adds what others have paid, where this process has read no answers."""
  own = [
    (v.solver_rewards, v.proposer_reward) if v.answers else None
    for v in verdicts
  ]
  found = []
  for verdict, *told in zip(verdicts, *hosts.exchange(own), strict=True):
    paid = next(filter(None, told), None)
    if paid and not verdict.answers:
      solver_rewards, proposer_reward = paid
      verdict = verdict._replace(
        solver_rewards=tuple(solver_rewards), proposer_reward=proposer_reward
      )
    found.append(verdict)
  return found


def sums(own: Mapping[str, Sequence[float]]) -> dict[str, tuple[float, int]]:
  """Adds up the numbers of all processes.

  Args:
    own: this process's, by name.

  Returns:
    The sum and the count of each name's.
  """
  total: dict[str, tuple[float, int]] = {}
  for told in hosts.exchange(
    {name: (float(sum(v)), len(v)) for name, v in own.items()}
  ):
    for name, (value, number) in told.items():
      before, counted = total.get(name, (0.0, 0))
      total[name] = before + value, counted + number
  return total
