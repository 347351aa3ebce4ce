"""Talking to a model: the solver answers, the proposer asks."""

from collections.abc import Iterable, Iterator

import numpy as np

from sqlm_jax import assemble
from sqlm_jax.models import policy as policy_lib
from sqlm_jax.selfplay import responses

_KEY = 3  # the number of talking in key paths, beside roles and evaluation


def answers(
  parts: assemble.Parts,
  params: policy_lib.Params,
  questions: Iterable[str],
) -> Iterator[tuple[str, str]]:
  """Answers one question after another, greedily.

  Yields:
    `(response, answer)`: what the model wrote, and what is read from it, ''
    for a blank. A question over the limit gets a response that says so.
  """
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


def questions(
  parts: assemble.Parts, params: policy_lib.Params, step: int
) -> list[tuple[str, str]]:
  """What the proposer asks in a step.

  Returns:
    `(text, why_not)` for each proposal; `why_not` is '' for a readable one.
  """
  task = parts.task
  writer = parts.writers['proposer']
  written = responses.write(
    writer,
    params,
    [writer.encode(task.proposer_prompt(topic)) for topic in task.topics(step)],
    path=(parts.config.seed, step, _KEY),
    num_rows=len(task.topics(step)),
  )
  texts = [text for group in written.texts for text in group]
  problems = [task.read_question(text) for text in texts]
  return [(problem.text, problem.why_not) for problem in problems]
