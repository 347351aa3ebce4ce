"""Interactive sampling: the solver's answers and the proposer's questions."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from etils import epath

from sqlm_jax import display
from sqlm_jax.models import policy as policy_lib
from sqlm_jax.run import build
from sqlm_jax.selfplay import random_streams, responses
from sqlm_jax.text import json_text


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
  greedy = sampler.settings._replace(
    temperature=np.zeros(1, np.float32), top_p=np.ones(1, np.float32)
  )
  for question in questions:
    prompt = sampler.encode(parts.task.solver_prompts(question.strip())[0])
    if prompt is None:
      limit = parts.config.sampler.max_prompt_tokens
      yield f'(longer than sampler.max_prompt_tokens={limit})', ''
      continue
    sampled = responses.sample(
      sampler._replace(settings=greedy),
      params,
      [prompt],
      path=random_streams.key_path(
        parts.config.seed, 0, random_streams.Stream.INTERACTIVE
      ),
      num_rows=1,
    )
    ((text,),) = sampled.local_texts()
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
  prompts = []
  for topic in topics:
    ids = sampler.encode(task.proposer_prompt(topic))
    assert ids is not None  # `build` checks the prompts of all topics
    prompts.append(ids)
  sampled = responses.sample(
    sampler,
    params,
    prompts,
    path=random_streams.key_path(
      parts.config.seed, step, random_streams.Stream.INTERACTIVE
    ),
    num_rows=len(topics),
  )
  finished = sampled.rollout.finished.reshape(-1)
  texts = [text for group in sampled.local_texts() for text in group]
  problems = map(task.read_question, texts)
  return [
    Proposal(text, problem.text, problem.reason if complete else 'unfinished')
    for text, problem, complete in zip(texts, problems, finished, strict=True)
  ]


def check_questions_file(path: epath.PathLike) -> None:
  """Raises ValueError if `write_questions` cannot create the file."""
  path = epath.Path(path)
  if path.suffix != '.jsonl' or path.exists() or not path.parent.is_dir():
    raise ValueError(
      f'--questions_file={path}: expected a new .jsonl file in an existing '
      'directory'
    )


def write_questions(
  parts: build.Parts, params: policy_lib.Params, path: epath.PathLike
) -> int:
  """Writes the usable questions of `num_steps` steps to a .jsonl file.

  Returns:
    The number of questions.
  """
  count, num_steps = 0, parts.config.num_steps
  with (
    epath.Path(path).open('w', encoding='utf-8') as file,
    display.progress('Sampling questions', num_steps) as show_progress,
  ):
    for step in range(num_steps):
      for proposal in questions(parts, params, step):
        if not proposal.reason:
          line = json_text.dumps({'question': proposal.response})
          file.write(f'{line}\n')
          count += 1
      show_progress(step + 1, num_steps)
  return count
