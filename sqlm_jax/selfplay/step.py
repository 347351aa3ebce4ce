"""One step of self-play: propose, solve, judge, learn.

1. The proposer continues the step's topic prompts. The responses are groups of
   questions (`Responses`), and each is read into a `Problem`.
2. The solver answers every readable question G times (`Responses`).
3. The answers to a question are read and put to a vote, or they are programs
   and are run against the question's tests. The result determines the rewards
   of both roles (`Verdict`).
4. Rewards are turned into advantages. Together with the tokens and
   log-probabilities of the responses they form one `GroupBatch` per update.
   `train_step` maps a `TrainState` and a batch to the next `TrainState`. The
   solver learns in every step, the proposer in every k-th step. With PPO, the
   values of a critic are computed first, and the critic learns from the same
   batches.

Stages 1 to 3 form a round. A step has one round, or repeats rounds up to a
maximum until enough questions have answers with different rewards. The first
round of the next step may be sampled before this step's first round is judged,
so that no device waits for tests to finish.
"""

import contextlib
import functools
import itertools
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from sqlm_jax.distributed import processes
from sqlm_jax.game import repetition, types, vote
from sqlm_jax.selfplay import (
  background_grading,
  exchange,
  learning,
  responses,
  scoring,
  step_metrics,
)
from sqlm_jax.selfplay import rounds as rounds_lib

# Number of each role in key paths. Evaluation uses 2, and --mode=sample uses 3.
_KEYS = {'proposer': 0, 'solver': 1, 'voter': 4}
_KEYS_A_ROUND = 8


def self_play_step(
  step: int,
  states: rounds_lib.States,
  memory: repetition.Memory,
  game: rounds_lib.Game,
  asked: rounds_lib.Asked | None = None,
  *,
  look_ahead: bool = False,
) -> tuple[rounds_lib.States, repetition.Memory, rounds_lib.Outcome]:
  """Plays one step and trains on it.

  All randomness derives from the seed and `step`.

  Args:
    step: self-play step, counted from 0.
    states: the `TrainState` of each policy; trained states are donated.
    memory: questions of earlier steps.
    game: the fixed parts of self-play.
    asked: the first round of this step, if it was sampled ahead.
    look_ahead: if True, also sample the first round of the next step, with the
      weights before this step's update, while the answers of this step are
      being read.

  Returns:
    `(states, memory, outcome)` after the step.
  """
  clock = _Clock()
  rounds, coming = [], None
  while True:
    asked = asked or ask(step, len(rounds), states, game, clock)
    with asked.grading:
      if look_ahead and not rounds:
        coming = ask(step + 1, 0, states, game, clock)
      rounds.append(judge(step, len(rounds), asked, memory, game, clock))
    asked = None
    memory = memory.add(
      v.problem.text for v in rounds[-1].verdicts if v.problem.ok
    )
    useful = sum(learning.tells_apart(v) for r in rounds for v in r.verdicts)
    if len(rounds) == game.rules.rounds or useful >= game.rules.questions:
      break
  learned = learning.to_learn(rounds, game.rules)
  with clock('learn'):
    states, trained, found = learning.learn(step, states, rounds, learned, game)
  found |= describe(rounds, game)
  found |= {f'time/{name}': value for name, value in clock.seconds.items()}
  if 'solver' not in trained:
    learned = []
  return (
    states,
    memory,
    rounds_lib.Outcome(rounds, trained, frozenset(learned), found, coming),
  )


def ask(
  step: int,
  number: int,
  states: rounds_lib.States,
  game: rounds_lib.Game,
  clock: '_Clock',
) -> rounds_lib.Asked:
  """Samples a round: questions, and answers to them.

  Args:
    step: self-play step, counted from 0.
    number: index of the round in its step.
    states: the `TrainState` of each policy.
    game: the fixed parts of self-play.
    clock: accumulates the seconds of each stage.

  Returns:
    The round. Its answers may still be being read in a thread.
  """
  with clock('propose'):
    proposals = propose(step, number, states, game)
    problems, prompts, own = exchange.questions(
      read_questions(step, number, proposals, game)
    )
  answer = functools.partial(
    solve, step=step, number=number, states=states, own=own, game=game
  )
  readable = [problem for problem in problems if problem.ok]
  read = lambda numbers, texts: background_grading.read(
    [readable[i] for i in numbers], texts, game.task
  )
  variants = len(prompts[0]) if prompts else 1
  with contextlib.ExitStack() as stack, clock('solve'):
    ahead = stack.enter_context(background_grading.Ahead(read, variants))
    if 'voter' in game.writers:
      # The voters' answers are read together with the solver's.
      solutions = answer('solver', prompts)
      voters = answer('voter', [some[:1] for some in prompts])
    else:
      solutions, voters = answer('solver', prompts, on_text=ahead.add), None
    stack.pop_all()  # keep reading after the return
  return rounds_lib.Asked(proposals, problems, solutions, voters, ahead)


def judge(
  step: int,
  number: int,
  asked: rounds_lib.Asked,
  memory: repetition.Memory,
  game: rounds_lib.Game,
  clock: '_Clock',
) -> rounds_lib.Round:
  """Judges a round and computes its rewards.

  Args:
    step: self-play step, counted from 0.
    number: index of the round in its step.
    asked: the sampled round.
    memory: questions asked before this round.
    game: the fixed parts of self-play.
    clock: accumulates the seconds of each stage.
  """
  with clock('grade'):
    verdicts = scoring.judge(
      asked.problems,
      _answers(
        sum(problem.ok for problem in asked.problems),
        asked.solutions,
        asked.voters,
      ),
      game.task,
      game.rules.scoring,
      step=step,
      coin=lambda i: random.Random(f'{game.rules.seed}/{step}/{number}/{i}'),
      asked_before=memory,
      known=asked.grading.finish(),
    )
    verdicts = exchange.rewards(verdicts)
  return rounds_lib.Round(
    asked.proposals, asked.solutions, asked.voters, verdicts
  )


def propose(
  step: int, number: int, states: rounds_lib.States, game: rounds_lib.Game
) -> responses.Responses | None:
  """Samples a group of questions for each of the step's topics.

  Returns:
    The responses of the proposer, or None if the questions are given.
  """
  if game.questions:
    return None
  writer = game.writers['proposer']
  prompts = [
    writer.encode(game.task.proposer_prompt(topic))
    for topic in game.task.topics(step)
  ]
  return responses.write(
    writer,
    rounds_lib.params_of('proposer', states, game),
    prompts,
    path=_path('proposer', step, number, game),
    num_rows=len(prompts),
    own=processes.local_share(len(prompts)),
  )


def read_questions(
  step: int,
  number: int,
  proposals: responses.Responses | None,
  game: rounds_lib.Game,
) -> list[tuple[types.Problem, list[list[int]]]]:
  """Reads this process's proposals and encodes the prompts of their questions.

  A question is unreadable if it was cut off, does not match the format, or has
  a prompt over the token limit. Unreadable questions never reach the solver,
  and neither do questions from an evaluation set if these are excluded.

  Returns:
    Each problem with its solver prompts, which are empty if it is unreadable.
  """
  if proposals is None:
    first = (step * game.rules.rounds + number) * game.rules.questions
    written = [
      (game.questions[(first + i) % len(game.questions)], True)
      for i in processes.local_share(game.rules.questions)
    ]
  else:
    written = [
      pair
      for texts, finished in zip(
        proposals.texts, proposals.rollout.finished, strict=True
      )
      if texts is not None
      for pair in zip(texts, finished, strict=True)
    ]
  return [_read_question(text, finished, game) for text, finished in written]


def _read_question(
  text: str, finished: bool, game: rounds_lib.Game
) -> tuple[types.Problem, list[list[int]]]:
  problem, prompts = game.task.read_question(text), []
  refused = lambda reason: problem._replace(ok=False, reason=reason)
  if not finished:
    problem = refused('unfinished')
  if problem.ok and game.guard.exclude and game.guard.has(problem.text):
    problem = refused(types.CONTAMINATED)
  if problem.ok:
    encode = game.writers['solver'].encode
    prompts = [encode(p) for p in game.task.solver_prompts(problem.text)]
    if None in prompts:
      problem, prompts = refused('too_long'), []
  return problem, prompts


def solve(
  role: str,
  prompts: list[exchange.Prompts],
  *,
  step: int,
  number: int,
  states: rounds_lib.States,
  own: range,
  game: rounds_lib.Game,
  on_text: Callable[[Mapping[int, list[str]]], None] = lambda texts: None,
) -> responses.Responses | None:
  """Samples answers to every readable question.

  The answers to a question are divided among its prompts.

  Args:
    role: 'solver' or 'voter'.
    prompts: the prompts of each readable question.
    step: self-play step, counted from 0.
    number: index of the round in its step.
    states: the `TrainState` of each policy.
    own: range of the questions whose answers this process reads.
    game: the fixed parts of self-play.
    on_text: called with the answers to own questions by index of the prompt,
      see `responses.write`.

  Returns:
    The responses, or None if no question is readable.
  """
  if not prompts:
    return None
  variants = len(prompts[0])
  return responses.write(
    game.writers[role],
    rounds_lib.params_of(role, states, game),
    list(itertools.chain.from_iterable(prompts)),
    path=_path(role, step, number, game),
    num_rows=game.rules.questions * variants,
    own=range(own.start * variants, own.stop * variants),
    on_text=on_text,
  )


def describe(
  rounds: Sequence[rounds_lib.Round], game: rounds_lib.Game
) -> dict[str, float]:
  """Computes the metrics of a step, except those of the updates."""
  verdicts = [v for one in rounds for v in one.verdicts]
  found = step_metrics.of_verdicts(verdicts, game.task)
  found |= step_metrics.of_contamination(verdicts, game.guard)
  if len(rounds) > 1:
    found['sample/rounds'] = float(len(rounds))
  for role, written in (
    ('proposer', [one.proposals for one in rounds]),
    ('solver', [one.solutions for one in rounds]),
  ):
    found |= step_metrics.of_responses(role, responses.join(written))
  return found


def _path(
  role: str, step: int, number: int, game: rounds_lib.Game
) -> tuple[int, int, int]:
  return (game.rules.seed, step, _KEYS[role] + number * _KEYS_A_ROUND)


def _answers(
  num_questions: int,
  solutions: responses.Responses | None,
  voters: responses.Responses | None,
) -> list[scoring.Answers | None]:
  """Returns the answers of solver and voters to each question.

  The entry of a question that another process reads is None.
  """
  said = _by_question(solutions, num_questions)
  if voters is None:
    return [one and scoring.Answers(*one) for one in said]
  votes = _by_question(voters, num_questions)
  return [
    one and scoring.Answers(*one, *more)
    for one, more in zip(said, votes, strict=True)
  ]


def _by_question(
  written: responses.Responses | None, num_questions: int
) -> list[tuple[list[str], list[float]] | None]:
  """Returns texts and likelihoods of each question, over all its prompts.

  The entry of a question that another process reads is None.
  """
  if written is None:
    return []
  variants = len(written.texts) // num_questions
  found = []
  for first in range(0, len(written.texts), variants):
    rows = range(first, first + variants)
    if written.texts[first] is None:
      found.append(None)
      continue
    texts = [text for row in rows for text in written.texts[row]]
    likelihoods = [
      vote.likelihood(float(logprobs[:length].sum()), length)
      for row in rows
      for logprobs, length in zip(
        written.rollout.logprobs[row],
        written.rollout.lengths[row].tolist(),
        strict=True,
      )
    ]
    found.append((texts, likelihoods))
  return found


class _Clock:
  """Accumulates seconds by name."""

  def __init__(self):
    self.seconds: dict[str, float] = {}

  @contextlib.contextmanager
  def __call__(self, name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    elapsed = time.perf_counter() - start
    self.seconds[name] = self.seconds.get(name, 0.0) + elapsed
