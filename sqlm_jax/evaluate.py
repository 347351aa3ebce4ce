"""Evaluation: true accuracy on the task's labelled questions."""

import time
from collections.abc import Callable

import numpy as np

from sqlm_jax import assemble
from sqlm_jax.models import policy as policy_lib
from sqlm_jax.selfplay import responses

_KEY = 2  # the number of evaluation in key paths, beside the roles' 0 and 1


def evaluate(
  parts: assemble.Parts,
  params: policy_lib.Params,
  step: int,
  *,
  progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict:
  """Answers every labelled question, once greedily and k times sampled.

  Args:
    parts: of the run.
    params: of the solver.
    step: self-play steps that the parameters have seen; the samples' random
      keys derive from it.
    progress: is told how many questions of how many are done.

  Returns:
    A record for eval.jsonl: the share of right answers, greedy and sampled at
    temperature 1 (mean over k answers a question), and how it was measured.
  """
  start = time.perf_counter()
  questions = parts.task.evaluation
  size = min(parts.config.evaluation.batch_questions, len(questions))
  right = []
  for first in range(0, len(questions), size):
    batch = questions[first : first + size]
    written = responses.write(
      parts.writers['evaluation'],
      params,
      [encode(parts, question) for question, _ in batch],
      path=(parts.config.seed, step, _KEY, first),
      num_rows=size,
    )
    right += [
      parts.task.grade(group, true)
      for group, (_, true) in zip(written.texts, batch, strict=True)
    ]
    progress(len(right), len(questions))
  right_QG = np.array(right, np.float64)
  return {
    'step': step,
    'task': parts.task.name,
    'greedy': float(right_QG[:, 0].mean()),
    'sampled': float(right_QG[:, 1:].mean()),
    'samples': parts.config.evaluation.samples,
    'questions': len(questions),
    'max_tokens': parts.writers['evaluation'].slots,
    'seconds': time.perf_counter() - start,
  }


def encode(parts: assemble.Parts, question: str) -> list[int]:
  """Token ids of the solver's prompt.

  Raises:
    ValueError: for a question whose prompt is over the limit.
  """
  prompt = parts.writers['solver'].encode(
    parts.task.solver_prompts(question)[0]
  )
  if prompt is None:
    raise ValueError(
      f'sampler.max_prompt_tokens={parts.config.sampler.max_prompt_tokens}: '
      f'expected room for the question {question!r}'
    )
  return prompt
