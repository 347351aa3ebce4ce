"""Votes of the untrained solver on labeled questions, counted as in a step."""

from collections.abc import Sequence

import numpy as np

from sqlm_jax.evaluation import labeled_votes
from sqlm_jax.game import exclusion, rewards, types, vote
from sqlm_jax.selfplay import (
  exchange,
  proposing,
  random_streams,
  responses,
  scoring,
  solving,
  step_types,
)
from sqlm_jax.selfplay import step as step_lib

# The rounds of a step have smaller indices, so their random keys differ.
_FIRST_ROUND = 1000


def vote_on(
  examples: Sequence[types.Example],
  states: step_types.States,
  game: step_types.GameSetup,
) -> list[labeled_votes.LabeledVote]:
  """Samples answers to labeled questions and puts them to a vote.

  The prompts, the number of answers, the temperatures, the voters, the excluded
  content and the rules on ties and weights are those of a training step. The
  gate does not apply, because it may refuse the questions of evaluation sets.

  Args:
    examples: The labeled questions.
    states: The `TrainState` of each policy.
    game: The constant parts of self-play.

  Raises:
    ValueError: If the prompt of a question is too long.
  """
  game = game._replace(reward_functions=rewards.NO_FUNCTIONS)
  size = game.config.proposer.num_questions
  votes = []
  for batch, first in enumerate(range(0, len(examples), size)):
    chunk = examples[first : first + size]
    votes += _vote_on_batch(chunk, _FIRST_ROUND + batch, states, game)
  return votes


def _vote_on_batch(
  examples: Sequence[types.Example],
  round_index: int,
  states: step_types.States,
  game: step_types.GameSetup,
) -> list[labeled_votes.LabeledVote]:
  """Returns the votes on as many questions as a round has at most."""
  prompts = [_encode(example.question, game) for example in examples]
  proposed = step_types.ProposedQuestions(
    proposals=None,
    problems=[types.Problem(example.question) for example in examples],
    prompts=prompts,
    local=range(len(examples)),
  )
  sampled = solving.solve(0, round_index, proposed, states, game)
  answers = step_lib.grade(sampled)
  greedy = _greedy_answers(
    [variants[0] for variants in prompts], round_index, states, game
  )
  votes = []
  for i, example in enumerate(examples):
    texts = _texts_of(i, len(examples), sampled)
    right = _find_right(texts, answers[i], example, game)
    ((greedy_graded,),) = game.task.grade([[greedy[i]]], [example])
    winner, agreement = count_votes(answers[i], game)
    votes.append(
      labeled_votes.LabeledVote(
        label=example.answer,
        agreement=agreement,
        vote_is_right=winner is not None and right[winner],
        greedy_is_right=greedy_graded.right,
        share_right=float(np.mean(right[: answers[i].num_solver])),
      )
    )
  return votes


def _find_right(
  texts: Sequence[str],
  answers: scoring.Answers,
  example: types.Example,
  game: step_types.GameSetup,
) -> list[bool]:
  """Returns True for each response with the true answer."""
  if game.task.read_shuffled is None:
    (graded,) = game.task.grade([texts], [example])
    return [answer.right for answer in graded]
  # The letter in a response stands for an option of its own prompt.
  true = game.task.parse_answer(example.answer)
  return [answer == true for answer in answers.graded.answers]


def count_votes(
  answers: scoring.Answers, game: step_types.GameSetup
) -> tuple[int | None, float]:
  """Counts votes as training does, without a minimum agreement.

  Returns:
    The index of an answer that has won, None without a majority, and its share
    of the votes.
  """
  config, graded = game.config.vote, answers.graded
  accepted = exclusion.accepted(graded.answers, graded.excluded)
  weights = None
  if config.weights == 'likelihood':
    weights = exclusion.accepted(answers.likelihoods, graded.excluded)
  result = vote.majority(accepted, weights=weights, ties=config.ties)
  if result.answer is None:
    return None, 0.0
  share = vote.share(accepted, result.answer, weights=weights)
  return graded.answers.index(result.answer), share


def _encode(question: str, game: step_types.GameSetup) -> exchange.Prompts:
  prompts = proposing.encode_prompts(question, game)
  if not prompts:
    limit = game.config.sampler.max_prompt_tokens
    raise ValueError(
      f'sampler.max_prompt_tokens={limit}: too small for the prompt of the '
      f'question {question!r}'
    )
  return prompts


def _texts_of(
  question: int, total: int, sampled: step_types.SampledRound
) -> list[str]:
  """Returns all responses to a question, those of the solver first."""
  return [
    text
    for part in (sampled.solutions, sampled.voters)
    if part is not None
    for row in part.rows_of(question, total)
    for text in part.texts[row] or ()
  ]


def _greedy_answers(
  prompts: Sequence[Sequence[int]],
  round_index: int,
  states: step_types.States,
  game: step_types.GameSetup,
) -> list[str]:
  """Returns the greedy response to each prompt."""
  sampler = game.samplers['solver']
  settings = sampler.settings._replace(
    temperature=np.zeros(1, np.float32), top_p=np.ones(1, np.float32)
  )
  sampled = responses.sample(
    sampler._replace(settings=settings),
    step_types.params_of('solver', states, game),
    prompts,
    path=random_streams.key_path(
      game.config.seed,
      0,
      random_streams.Stream.INTERACTIVE,
      round_index=round_index,
    ),
    num_rows=len(prompts),
  )
  return [text for (text,) in sampled.local_texts()]
