"""The random streams of a run, which all derive from its seed.

No random state is carried from step to step. The random key of a response is
derived from the seed, the step, the stream, the round and the index of the
response, so a resumed run draws what the uninterrupted run would have drawn.
"""

import enum
import random


class Stream(enum.IntEnum):
  """Numbers of the streams that responses are sampled from.

  The numbers are part of the keys. Changing one changes the samples of a run.
  """

  PROPOSER = 0  # questions of a step
  SOLVER = 1  # answers to the questions of a step
  EVALUATION = 2  # answers to the questions of an evaluation set
  INTERACTIVE = 3  # answers and questions of --mode=sample
  VOTER = 4  # answers of an earlier solver, which only vote
  PROBE = 5  # answers to the questions of the probe
  ANCHOR = 6  # answers of the initial model to the prompts of the anchor


# The streams of round r are numbered `stream + 8 r`.
_STREAMS_PER_ROUND = 8


def key_path(
  seed: int, step: int, stream: Stream, *, round_index: int = 0
) -> tuple[int, int, int]:
  """Returns the numbers that the keys of a group of responses derive from.

  Args:
    seed: seed of the run.
    step: self-play step, counted from 0. For an evaluation and the probe, the
      number of steps that the weights have been trained for.
    stream: what is sampled.
    round_index: index of the round in its step.

  Returns:
    The first argument of `sampler.response_keys`.
  """
  return seed, step, int(stream) + _STREAMS_PER_ROUND * round_index


def coin(
  seed: int, step: int, *, round_index: int, question: int
) -> random.Random:
  """Returns the generator of the random rewards of a question.

  Args:
    seed: seed of the run.
    step: self-play step, counted from 0.
    round_index: index of the round in its step.
    question: index of the question among the readable questions of the round.
  """
  return random.Random(f'{seed}/{step}/{round_index}/{question}')


def replay(seed: int, step: int, *, source: str = 'replay') -> random.Random:
  """Returns the generator that draws the questions that a step asks again.

  Args:
    seed: seed of the run.
    step: self-play step, counted from 0.
    source: 'replay' for questions with a verdict, 'history' for others.
  """
  return random.Random(f'{seed}/{step}/{source}')


def leaks(
  seed: int, step: int, *, round_index: int, question: int, share: float
) -> bool:
  """Returns True if a leaky gate lets a question pass.

  Args:
    seed: seed of the run.
    step: self-play step, counted from 0.
    round_index: index of the round in its step.
    question: index of the question among all questions of the round.
    share: share of the questions that pass.
  """
  coin = random.Random(f'{seed}/{step}/{round_index}/{question}/gate')
  return coin.random() < share
