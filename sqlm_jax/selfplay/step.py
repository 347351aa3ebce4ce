"""One step of self-play: propose, solve, grade, score, learn.

1. Propose: the proposer continues the step's topic prompts. Each response is
   parsed into a `Problem` (`ProposedQuestions`).
2. Solve: the solver answers every readable question G times (`SampledRound`).
3. Grade: the answers to a question are parsed, or they are programs and are run
   against the question's tests (`GradedAnswers`). A thread does this while
   other answers are still being sampled.
4. Score: a vote on the answers, or the results of the tests, determine the
   rewards of both roles (`ScoredQuestion`).
5. Learn: rewards are turned into advantages. Together with the tokens and
   log-probabilities of the responses, they form one `GroupBatch` per update.
   `train_step` maps a `TrainState` and a batch to the next `TrainState`. The
   solver learns in every step, the proposer in every k-th step. With PPO, the
   values of a critic are computed first, and the critic learns from the same
   batches.

Stages 1 to 4 form a round. A step has one round, or repeats rounds up to a
maximum until enough questions have answers with different rewards.
"""

import random
from collections.abc import Callable, Mapping, Sequence

from sqlm_jax.config import schema
from sqlm_jax.game import repetition, types
from sqlm_jax.selfplay import (
  exchange,
  learning,
  proposing,
  random_streams,
  responses,
  scoring,
  solving,
  step_metrics,
  step_types,
)


def self_play_step(
  step: int,
  states: step_types.States,
  memory: repetition.Memory,
  game: step_types.GameSetup,
  first_round: step_types.SampledRound | None = None,
  *,
  on_stage: Callable[[str], None] = lambda stage: None,
) -> tuple[step_types.States, repetition.Memory, step_types.Outcome]:
  """Plays one step and trains on it.

  All randomness derives from the seed and `step`.

  Args:
    step: self-play step, counted from 0.
    states: the `TrainState` of each policy; trained states are donated.
    memory: questions of earlier steps.
    game: the constant parts of self-play.
    first_round: the first round of this step, if it was sampled ahead, see
      `prefetch.Prefetcher`.
    on_stage: called with the name of each stage when it begins.

  Returns:
    `(states, memory, outcome)` after the step.
  """
  clock = step_metrics.StageClock(on_stage)
  rounds: list[step_types.Round] = []
  while not rounds or _needs_another_round(rounds, game.config):
    sampled = None if rounds else first_round
    if sampled is None:
      with clock('propose'):
        proposed = proposing.propose(step, len(rounds), states, memory, game)
      with clock('solve'):
        sampled = solving.solve(step, len(rounds), proposed, states, game)
    clock.add(sampled.seconds)
    with clock('grade'):
      answers = grade(sampled)
    with clock('score'):
      questions = score(step, len(rounds), sampled, answers, memory, game)
    memory = memory.add(
      question.problem.text
      for question in questions
      if question.problem.ok and not question.problem.replayed
    )
    rounds.append(
      step_types.Round(
        sampled.proposals,
        sampled.solutions,
        sampled.voters,
        questions,
        sampled.policy_steps,
      )
    )
  with clock('learn'):
    states, learned = learning.learn(step, states, rounds, game)
  metrics = learned.metrics | step_metrics.of_rounds(rounds, game)
  metrics |= clock.metrics()
  outcome = step_types.Outcome(
    rounds,
    learned.trained,
    learned.trained_on,
    metrics,
    learned.advantages,
  )
  return states, memory, outcome


def _needs_another_round(
  rounds: Sequence[step_types.Round], config: schema.Config
) -> bool:
  """Returns True if too few questions have answers with different rewards."""
  readable = step_types.readable_questions(rounds)
  useful = sum(map(learning.rewards_differ, readable))
  return (
    len(rounds) < config.solver.max_rounds
    and useful < config.proposer.num_questions
  )


def grade(sampled: step_types.SampledRound) -> dict[int, scoring.Answers]:
  """Waits until the answers of a round are graded.

  Returns:
    The answers to this process's questions, by index of the readable question.
  """
  num_questions = sum(problem.ok for problem in sampled.problems)
  answers = {}
  for question, graded in sampled.grader.finish().items():
    solver = responses.likelihoods(sampled.solutions, question, num_questions)
    voters = responses.likelihoods(sampled.voters, question, num_questions)
    answers[question] = scoring.Answers(graded, [*solver, *voters], len(solver))
  return answers


def score(
  step: int,
  round_index: int,
  sampled: step_types.SampledRound,
  answers: Mapping[int, scoring.Answers],
  memory: repetition.Memory,
  game: step_types.GameSetup,
) -> list[types.ScoredQuestion]:
  """Computes the rewards of a round, and exchanges them between processes.

  Args:
    step: self-play step, counted from 0.
    round_index: index of the round in its step.
    sampled: the round.
    answers: the graded answers, from `grade`.
    memory: questions of earlier steps and rounds.
    game: the constant parts of self-play.

  Returns:
    One scored question per problem of the round.
  """

  def coin_of(question: int) -> random.Random:
    return random_streams.coin(
      game.config.seed, step, round_index=round_index, question=question
    )

  def leaks(question: int) -> bool:
    return random_streams.leaks(
      game.config.seed,
      step,
      round_index=round_index,
      question=question,
      share=game.config.gate.leak,
    )

  questions = scoring.score_questions(
    sampled.problems,
    answers,
    game.task,
    config=game.config,
    step=step,
    memory=memory,
    coin_of=coin_of,
    check_vote=game.gate.check_vote,
    functions=game.reward_functions,
    leaks=leaks,
    kinds_of=game.kinds_of,
  )
  return exchange.rewards(questions)
