"""Samples the questions of a round and encodes the solver's prompts."""

from sqlm_jax.distributed import processes
from sqlm_jax.game import types
from sqlm_jax.selfplay import (
  exchange,
  random_streams,
  responses,
  step_types,
)


def propose(
  step: int,
  round_index: int,
  states: step_types.States,
  game: step_types.Game,
) -> step_types.ProposedQuestions:
  """Samples a group of questions for each of the step's topics.

  A question is unreadable if it was cut off, does not match the format, or has
  a prompt over the token limit. Unreadable questions never reach the solver,
  and neither do questions from an evaluation set if these are excluded.

  Args:
    step: self-play step, counted from 0.
    round_index: index of the round in its step.
    states: the `TrainState` of each policy.
    game: the constant parts of self-play.

  Returns:
    The questions. Each process parses its share of them.
  """
  if game.questions:
    proposals = None
    texts = [(text, True) for text in _next_questions(step, round_index, game)]
  else:
    proposals = _sample_questions(step, round_index, states, game)
    texts = _texts_and_finished(proposals)
  parsed = [_parse_question(text, finished, game) for text, finished in texts]
  return step_types.ProposedQuestions(proposals, *exchange.questions(parsed))


def _next_questions(
  step: int, round_index: int, game: step_types.Game
) -> list[str]:
  """Returns this process's share of the given questions of a round."""
  number = game.config.proposer.num_questions
  first = (step * game.config.solver.max_rounds + round_index) * number
  return [
    game.questions[(first + i) % len(game.questions)]
    for i in processes.local_share(number)
  ]


def _sample_questions(
  step: int,
  round_index: int,
  states: step_types.States,
  game: step_types.Game,
) -> responses.Responses:
  sampler = game.samplers['proposer']
  prompts = []
  for topic in game.task.topics(step):
    ids = sampler.encode(game.task.proposer_prompt(topic))
    assert ids is not None  # `build` checks the prompts of all topics
    prompts.append(ids)
  return responses.sample(
    sampler,
    step_types.params_of('proposer', states, game),
    prompts,
    path=random_streams.key_path(
      game.config.seed,
      step,
      random_streams.Stream.PROPOSER,
      round_index=round_index,
    ),
    num_rows=len(prompts),
    local_rows=processes.local_share(len(prompts)),
  )


def _texts_and_finished(
  proposals: responses.Responses,
) -> list[tuple[str, bool]]:
  """Returns this process's responses, each with True if it was not cut off."""
  return [
    (text, bool(finished))
    for group, finished_G in zip(
      proposals.texts, proposals.rollout.finished, strict=True
    )
    if group is not None
    for text, finished in zip(group, finished_G, strict=True)
  ]


def _parse_question(
  text: str, finished: bool, game: step_types.Game
) -> tuple[types.Problem, exchange.Prompts]:
  """Parses a question and encodes its prompts.

  Returns:
    The problem and its prompts, which are empty if it is unreadable.
  """
  problem = game.task.read_question(text)
  if not finished:
    problem = problem._replace(ok=False, reason='unfinished')
  elif problem.ok and game.guard.exclude and game.guard.has(problem.text):
    problem = problem._replace(ok=False, reason=types.CONTAMINATED)
  if not problem.ok:
    return problem, []
  encode = game.samplers['solver'].encode
  prompts = []
  for prompt in game.task.solver_prompts(problem.text):
    ids = encode(prompt)
    if ids is None:
      return problem._replace(ok=False, reason='too_long'), []
    prompts.append(ids)
  return problem, prompts
