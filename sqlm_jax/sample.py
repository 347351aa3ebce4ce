"""Interactive sampling: the solver's answers and the proposer's questions."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from sqlm_jax.models import policy as policy_lib
from sqlm_jax.run import build
from sqlm_jax.selfplay import random_streams, responses


def answers(
  parts: build.Parts,
  params: policy_lib.Params,
  questions: Iterable[str],
) -> Iterator[tuple[str, str]]:
  """Answers questions one at a time with greedy decoding.

  Yields:
    Pairs of a response and the answer parsed from it, '' if there is none. If
    a prompt is too long, the response is a message that names the limit.
  """
  build.check(parts)
  sampler = parts.samplers['solver']
  one_greedy = sampler.settings._replace(
    temperature=np.zeros(1, np.float32), top_p=np.ones(1, np.float32)
  )
  for question in questions:
    prompt = sampler.encode(parts.task.solver_prompts(question.strip())[0])
    if prompt is None:
      limit = parts.config.sampler.max_prompt_tokens
      yield f'(over sampler.max_prompt_tokens={limit})', ''
      continue
    sampled = responses.sample(
      sampler._replace(settings=one_greedy),
      params,
      [prompt],
      path=random_streams.key_path(
        parts.config.seed, 0, random_streams.Stream.INTERACTIVE
      ),
      num_rows=1,
    )
    text = sampled.texts[0][0]
    (answer,) = parts.task.read_answers([text])
    yield text.strip(), '' if answer is None else str(answer)


class Proposal(NamedTuple):
  """A response of the proposer, and the question parsed from it."""

  response: str
  text: str
  reason: str  # reason if the question cannot be used, otherwise ''


def questions(
  parts: build.Parts, params: policy_lib.Params, step: int
) -> list[Proposal]:
  """Samples the proposer's questions of a step."""
  build.check(parts)
  task, sampler = parts.task, parts.samplers['proposer']
  topics = task.topics(step)
  sampled = responses.sample(
    sampler,
    params,
    [sampler.encode(task.proposer_prompt(topic)) for topic in topics],
    path=random_streams.key_path(
      parts.config.seed, step, random_streams.Stream.INTERACTIVE
    ),
    num_rows=len(topics),
  )
  finished = sampled.rollout.finished.reshape(-1)
  texts = [text for group in sampled.texts for text in group]
  read = map(task.read_question, texts)
  return [
    Proposal(text, problem.text, problem.reason if complete else 'unfinished')
    for text, problem, complete in zip(texts, read, finished, strict=True)
  ]
