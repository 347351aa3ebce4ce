"""Interactive sampling: the solver's answers and the proposer's questions."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from sqlm_jax.models import policy as policy_lib
from sqlm_jax.run import build
from sqlm_jax.selfplay import responses

_KEY = 3  # this mode's number in random key paths, see `evaluate._KEY`


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
  writer = parts.writers['solver']
  one_greedy = writer.settings._replace(
    temperature=np.zeros(1, np.float32), top_p=np.ones(1, np.float32)
  )
  for question in questions:
    prompt = writer.encode(parts.task.solver_prompts(question.strip())[0])
    if prompt is None:
      limit = parts.config.sampler.max_prompt_tokens
      yield f'(over sampler.max_prompt_tokens={limit})', ''
      continue
    written = responses.write(
      writer._replace(settings=one_greedy),
      params,
      [prompt],
      path=(parts.config.seed, 0, _KEY),
      num_rows=1,
    )
    text = written.texts[0][0]
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
  task, writer = parts.task, parts.writers['proposer']
  topics = task.topics(step)
  written = responses.write(
    writer,
    params,
    [writer.encode(task.proposer_prompt(topic)) for topic in topics],
    path=(parts.config.seed, step, _KEY),
    num_rows=len(topics),
  )
  finished = written.rollout.finished.reshape(-1)
  texts = [text for group in written.texts for text in group]
  read = map(task.read_question, texts)
  return [
    Proposal(text, problem.text, problem.reason if complete else 'unfinished')
    for text, problem, complete in zip(texts, read, finished, strict=True)
  ]
