"""Samples the answers of a round; a thread grades them at the same time."""

import functools
import itertools
from collections.abc import Sequence

from sqlm_jax.selfplay import (
  background_grading,
  exchange,
  random_streams,
  responses,
  step_types,
)


def solve(
  step: int,
  round_index: int,
  proposed: step_types.ProposedQuestions,
  states: step_types.States,
  game: step_types.GameSetup,
) -> step_types.SampledRound:
  """Samples answers to every readable question.

  Args:
    step: self-play step, counted from 0.
    round_index: index of the round in its step.
    proposed: the questions.
    states: the `TrainState` of each policy.
    game: the constant parts of self-play.

  Returns:
    The round. Its answers may still be being graded.
  """
  readable = [problem for problem in proposed.problems if problem.ok]
  answer_prompts = game.config.prompt_of_answers

  def grade(
    indices: Sequence[int], texts: Sequence[Sequence[str]]
  ) -> list[background_grading.GradedAnswers]:
    problems = [readable[i] for i in indices]
    graded = background_grading.grade_answers(
      problems,
      texts,
      game.task,
      game.gate.exclusion,
      prompts=answer_prompts,
    )
    solver_texts = [group[: game.config.num_answers] for group in texts]
    return [
      background_grading.reward_answers(
        *args, game.reward_functions, trained=game.config.trains_answer
      )
      for args in zip(problems, solver_texts, graded, strict=True)
    ]

  sample = functools.partial(
    _sample_answers,
    step=step,
    round_index=round_index,
    states=states,
    local_questions=proposed.local,
    game=game,
  )
  prompts = proposed.prompts
  if 'voter' in game.samplers:
    # The answers of the solver and of voters are graded together, so grading
    # has to wait for the voters.
    grader = background_grading.BackgroundGrader(grade)
    solutions = sample('solver', prompts)
    voters = sample('voter', [of_question[:1] for of_question in prompts])
    grader.add(_join_answers(len(readable), solutions, voters))
  else:
    variants = len(prompts[0]) if prompts else 1
    with background_grading.BackgroundGrader(grade, variants) as grader:
      solutions = sample('solver', prompts, on_texts=grader.add)
    voters = None
  return step_types.SampledRound(
    proposed.proposals,
    proposed.problems,
    solutions,
    voters,
    grader,
    policy_steps={
      role: int(states[name].step) for role, name in game.state_names.items()
    },
  )


def _sample_answers(
  role: str,
  prompts: Sequence[exchange.Prompts],
  *,
  step: int,
  round_index: int,
  states: step_types.States,
  local_questions: range,
  game: step_types.GameSetup,
  on_texts: responses.OnTexts = responses.ignore_texts,
) -> responses.Responses | None:
  """Samples a role's answers, which are divided among a question's prompts.

  Args:
    role: 'solver' or 'voter'.
    prompts: the prompts of each readable question.
    step: self-play step, counted from 0.
    round_index: index of the round in its step.
    states: the `TrainState` of each policy.
    local_questions: range of the questions whose answers this process grades.
    game: the constant parts of self-play.
    on_texts: called with the answers to local questions by index of the prompt,
      see `responses.sample`.

  Returns:
    The responses, or None if no question is readable.
  """
  if not prompts:
    return None
  variants = len(prompts[0])
  return responses.sample(
    game.samplers[role],
    step_types.params_of(role, states, game),
    list(itertools.chain.from_iterable(prompts)),
    path=random_streams.key_path(
      game.config.seed,
      step,
      random_streams.Stream[role.upper()],
      round_index=round_index,
    ),
    num_rows=game.config.max_solved * variants,
    local_rows=range(
      local_questions.start * variants, local_questions.stop * variants
    ),
    on_texts=on_texts,
  )


def _join_answers(
  num_questions: int, *sampled: responses.Responses | None
) -> dict[int, list[str]]:
  """Returns all answers to each local question, those of the solver first."""
  texts: dict[int, list[str]] = {}
  for role_responses in sampled:
    if role_responses is None:
      continue
    for question in range(num_questions):
      for row in role_responses.rows_of(question, num_questions):
        group = role_responses.texts[row]
        if group is not None:
          texts.setdefault(question, []).extend(group)
  return texts
