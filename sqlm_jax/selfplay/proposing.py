"""Samples the questions of a round and encodes the solver's prompts."""

from collections.abc import Sequence

from sqlm_jax.distributed import processes
from sqlm_jax.game import gate, repetition, types
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
  memory: repetition.Memory,
  game: step_types.GameSetup,
) -> step_types.ProposedQuestions:
  """Samples a group of questions for each of the step's topics.

  A question that the gate refuses never reaches the solver.

  Args:
    step: self-play step, counted from 0.
    round_index: index of the round in its step.
    states: the `TrainState` of each policy.
    memory: questions of earlier steps and rounds.
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
  leaks = [
    random_streams.leaks(
      game.config.seed,
      step,
      round_index=round_index,
      question=i,
      share=game.config.gate.leak,
    )
    for i in range(game.config.proposer.num_questions)
  ]
  first = _first_question(proposals, game)
  parsed = [
    _parse_question(text, finished, leaks[first + i], memory, game)
    for i, (text, finished) in enumerate(texts)
  ]
  problems, prompts, local = exchange.questions(parsed)
  checked = game.gate.check_repeats(problems, memory, leaks)
  prompts, local = _drop_refused(problems, checked, prompts, local)
  if round_index == 0:
    replayed = _replayed_questions(step, memory, game)
    checked = [*checked, *(problem for problem, _ in replayed)]
    prompts = [*prompts, *(prompts for _, prompts in replayed)]
    if processes.index() == processes.count() - 1:
      # The last process grades them, because they come last.
      local = range(local.start, local.stop + len(replayed))
  return step_types.ProposedQuestions(proposals, checked, prompts, local)


def _replayed_questions(
  step: int, memory: repetition.Memory, game: step_types.GameSetup
) -> list[tuple[types.Problem, exchange.Prompts]]:
  """Draws questions that are asked again in a step.

  The first process draws them for all processes, because functions of the user
  and patterns with a time limit may decide differently in another process.
  """
  received = processes.broadcast_from_first(
    lambda: _draw_replayed(step, memory, game)
  )
  return [
    (types.Problem(question, replayed=True), prompts)
    for question, prompts in received
  ]


def _draw_replayed(
  step: int, memory: repetition.Memory, game: step_types.GameSetup
) -> list[tuple[str, exchange.Prompts]]:
  """Returns questions that are asked again and that pass the gate.

  Questions with known answers come before other questions of earlier steps.
  """
  config, seed = game.config, game.config.seed
  known = memory.verdicts.answered()
  coin = random_streams.replay(seed, step)
  drawn = coin.sample(known, min(config.review.replay, len(known)))
  if config.solver.replay:
    # Each question is drawn with the same probability, however often the
    # proposer has asked it.
    earlier = [q for q in dict.fromkeys(memory.questions) if q not in drawn]
    coin = random_streams.replay(seed, step, source='history')
    drawn += coin.sample(earlier, min(config.solver.replay, len(earlier)))
  replayed = []
  for question in drawn:
    prompts = encode_prompts(question, game)
    # A label may be about a question that the gate would refuse.
    problem = game.gate.check_question(
      gate.Candidate(
        types.Problem(question, replayed=True),
        question,
        finished=True,
        fits=bool(prompts),
        verdict=memory.verdicts.refusal(question),
      )
    )
    if problem.ok:
      replayed.append((question, prompts))
  return replayed


def _first_question(
  proposals: responses.Responses | None, game: step_types.GameSetup
) -> int:
  """Returns the index of the first question that this process parses."""
  proposer = game.config.proposer
  if proposals is None:
    return processes.local_share(proposer.num_questions).start
  groups = processes.local_share(len(proposals.prompt_ids))
  return groups.start * proposer.group_size


def _drop_refused(
  problems: Sequence[types.Problem],
  checked: Sequence[types.Problem],
  prompts: Sequence[exchange.Prompts],
  local: range,
) -> tuple[list[exchange.Prompts], range]:
  """Drops the prompts of questions that were refused as repeats.

  Args:
    problems: all problems before the check.
    checked: all problems after the check.
    prompts: the prompts of each problem that was readable before the check.
    local: range of those problems that belong to this process.

  Returns:
    The prompts of the readable problems after the check, and the range of those
    that belong to this process.
  """
  kept = [
    after.ok
    for before, after in zip(problems, checked, strict=True)
    if before.ok
  ]
  return (
    [row for row, is_kept in zip(prompts, kept, strict=True) if is_kept],
    range(sum(kept[: local.start]), sum(kept[: local.stop])),
  )


def _next_questions(
  step: int, round_index: int, game: step_types.GameSetup
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
  game: step_types.GameSetup,
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
  text: str,
  finished: bool,
  leaks: bool,
  memory: repetition.Memory,
  game: step_types.GameSetup,
) -> tuple[types.Problem, exchange.Prompts]:
  """Parses a question, encodes its prompts and passes it through the gate.

  Returns:
    The problem and its prompts, which are empty if it is refused.
  """
  problem = game.task.read_question(text)
  prompts = []
  if finished and problem.ok:
    prompts = encode_prompts(problem.text, game)
  problem = game.gate.check_question(
    gate.Candidate(
      problem,
      text,
      finished,
      fits=bool(prompts),
      leaks=leaks,
      verdict=memory.verdicts.refusal(problem.text) if problem.ok else '',
    )
  )
  return problem, prompts if problem.ok else []


def encode_prompts(
  question: str, game: step_types.GameSetup
) -> exchange.Prompts:
  """Encodes the solver's prompts; returns [] if one is over the limit."""
  prompts = []
  for form in game.task.forms(question):
    for prompt in game.task.solver_prompts(form):
      ids = game.samplers['solver'].encode(prompt)
      if ids is None:
        return []
      prompts.append(ids)
  return prompts
