"""Evaluation: measures how often the solver is right, with intervals.

1. `plan` collects the questions, prompts and settings of an evaluation, and
   reads the answers of an earlier, interrupted evaluation with the same
   settings.
2. `evaluate` tests the grader on known answers, then answers every remaining
   question: once greedily and, for each seed, with k samples. It samples in
   groups, with the same sampler as the training.
3. The result is one row per question (`evaluation_files`), and a record with
   figures and intervals computed from the rows (`evaluation.metrics`).
"""

import contextlib
import itertools
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from absl import logging
from etils import epath

from sqlm_jax.distributed import processes
from sqlm_jax.evaluation import accuracy, collapse, reliability, report
from sqlm_jax.models import policy as policy_lib
from sqlm_jax.run import build, evaluation_sets
from sqlm_jax.selfplay import background_grading, responses
from sqlm_jax.workdir import evaluation_files, run_writer

_KEY = 2  # evaluation's number in random key paths; the roles have 0 and 1


class Plan(NamedTuple):
  """The inputs of an evaluation.

  Attributes:
    parts: Parts of the run.
    asked: The evaluation set.
    prompts: Token ids of one prompt per question.
    files: Directory of the evaluation, and the rows that are already answered.
  """

  parts: build.Parts
  asked: evaluation_sets.EvaluationSet
  prompts: list[list[int]]
  files: evaluation_files.Files

  @property
  def is_answered(self) -> bool:
    """True if every question has been answered."""
    return len(self.files.rows) == len(self.prompts)


def plan(
  parts: build.Parts,
  asked: evaluation_sets.EvaluationSet,
  *,
  step: int,
  workdir: epath.PathLike | None,
) -> Plan:
  """Prepares an evaluation; the parameters are not needed yet.

  Args:
    parts: Parts of the run.
    asked: The evaluation set.
    step: Number of self-play steps that the parameters have been trained for;
      the random keys of the samples are derived from it.
    workdir: Directory of the run, None to store no answers.

  Raises:
    ValueError: If the prompt of a question is too long.
  """
  build.check(parts)
  prompts = [_encode(parts, example.question) for example in asked.examples]
  settings = _settings(parts, asked, step) | {
    'first_prompt': parts.tokens.decode(prompts[0], skip_special=False)
  }
  rows = processes.broadcast_from_first(
    lambda: evaluation_files.find(workdir, settings).rows
  )
  files = evaluation_files.find(
    workdir if processes.is_first() else None, settings
  )
  return Plan(parts, asked, prompts, files._replace(rows=rows))


def evaluate(
  planned: Plan,
  params: policy_lib.Params | None,
  *,
  progress: Callable[[int, int], None] = lambda done, total: None,
  stopped: Callable[[], bool] = lambda: False,
) -> dict[str, Any] | None:
  """Answers every question that is not answered yet, and summarizes the rows.

  Args:
    planned: The evaluation, from `plan`.
    params: Parameters of the solver; None if everything is answered.
    progress: Called with the number of answered questions and the total.
    stopped: Returns True if the remaining questions should be left to a later
      start.

  Returns:
    A record for eval.jsonl; None if the evaluation was stopped.

  Raises:
    RuntimeError: If the grader fails its self-test, or if another process is
      running the same evaluation.
  """
  parts, files = planned.parts, planned.files
  started = time.perf_counter()
  if planned.is_answered:
    return _record(planned, 0.0)
  parts.task.prepare()
  parts.task.self_test(planned.asked.examples)
  total = len(planned.prompts)
  size = min(parts.config.evaluation.batch_questions, total)
  with contextlib.ExitStack() as stack:
    processes.broadcast_from_first(lambda: evaluation_files.start(files, stack))
    progress(len(files.rows), total)
    while not planned.is_answered:
      if stopped():
        return None
      first = len(files.rows)
      evaluation_files.append(
        files, _answer(planned, params, range(first, min(first + size, total)))
      )
      progress(len(files.rows), total)
    return _record(planned, time.perf_counter() - started)


def _answer(
  planned: Plan, params: policy_lib.Params, indices: range
) -> list[evaluation_files.Row]:
  """Samples answers to a range of questions in one batch, and grades them.

  Answers are graded while others are still being sampled. Each process grades
  its own share; the rows are then exchanged, so that every process has all.
  """
  parts = planned.parts
  size = parts.config.evaluation.batch_questions
  own = processes.local_share(len(indices))
  examples = planned.asked.examples[indices.start : indices.stop]
  grade = lambda numbers, texts: parts.task.grade(
    texts, [examples[i] for i in numbers]
  )
  with background_grading.Ahead(grade) as ahead:
    written = responses.write(
      parts.writers['evaluation'],
      params,
      planned.prompts[indices.start : indices.stop],
      path=(parts.config.seed, planned.files.settings['step'], _KEY),
      num_rows=min(size, len(planned.prompts)),
      first_row=indices.start,
      own=own,
      on_text=ahead.add,
    )
    graded = ahead.finish()
  rows = [
    {
      'index': indices[i],
      'question': examples[i].question,
      'true': examples[i].answer,
      'prompt': parts.tokens.decode(written.prompt_ids[i], skip_special=False),
      'responses': written.texts[i],
      'answers': [
        None if one.answer is None else str(one.answer) for one in graded[i]
      ],
      'right': [one.right for one in graded[i]],
      'finished': written.rollout.finished[i].tolist(),
    }
    for i in own
  ]
  return list(itertools.chain.from_iterable(processes.all_gather(rows)))


def _record(planned: Plan, seconds: float) -> dict[str, Any]:
  """Returns the record of a completed evaluation, and writes its files."""
  c, files = planned.parts.config.evaluation, planned.files
  votes = planned.parts.task.run_tests is None
  result = accuracy.summarize(files.rows, c.samples, votes=votes)
  collapsed = collapse.find(files.rows, c.samples)
  _warn_of_collapse(files.settings, collapsed)
  curve = None
  if votes and c.samples > 1:
    curve = reliability.measure(
      files.rows,
      samples=c.samples,
      target=c.vote_precision,
      # Choosing a threshold on test questions would bias the test score.
      suggest=planned.asked.name == evaluation_sets.VALIDATION,
    )
  if files.directory is not None:
    report.write_result(
      files.directory, result, curve, files.settings, collapsed
    )
  record = {name: files.settings[name] for name in ('step', 'task', 'set')}
  record |= {name: figure['value'] for name, figure in result.items()}
  record |= {
    'intervals': {n: [x['low'], x['high']] for n, x in result.items()},
    'collapsed': collapsed,
    'questions': len(files.rows),
    'settings': dict(files.settings),
    'seconds': seconds,
  }
  if curve is not None:
    record['reliability'] = curve
  return record


def _warn_of_collapse(
  settings: Mapping[str, Any], collapsed: Mapping[str, Mapping[str, Any]]
) -> None:
  """Warns about figures whose answers have collapsed, on the first process."""
  for name, value in collapsed.items():
    if processes.is_first():
      logging.warning(
        '%s after %d steps: %s. The solver has collapsed to one answer. Such '
        'an evaluation on the validation set makes no checkpoint the best.',
        settings['set'],
        settings['step'],
        collapse.describe(name, value),
      )


def asks_the_same(
  record: Mapping[str, Any],
  parts: build.Parts,
  asked: evaluation_sets.EvaluationSet,
) -> bool:
  """Returns True if a record has this evaluation set and the run's settings."""
  stored = record.get('settings', {})
  now = run_writer.as_stored(_settings(parts, asked, record['step']))
  return stored | now == stored


def _settings(
  parts: build.Parts, asked: evaluation_sets.EvaluationSet, step: int
) -> Mapping[str, Any]:
  """Returns everything that determines the answers, except device rounding."""
  c = parts.config
  settings = {
    'step': step,
    'task': c.task.name,
    'set': asked.name,
    'origin': asked.origin,
    'questions': len(asked.examples),
    'fingerprint': asked.fingerprint,
    'model': c.model.path,
    'dtype': c.sampler.dtype or c.model.dtype,
    'seed': c.seed,
    'style': c.task.style,
    'solver_prompt': c.task.solver_prompt,
    'solver_stop': list(c.task.solver_stop),
    'answer_kind': c.task.answer_kind,
    'answer_pattern': c.task.answer_pattern,
    'options': list(c.task.options),
    'max_tokens': c.solver.max_tokens,
    'samples': c.evaluation.samples,
    'seeds': c.evaluation.seeds,
    'temperature': c.evaluation.temperature,
    'top_p': c.evaluation.top_p,
  }
  if parts.task.run_tests:
    settings |= {
      'program': c.tests.program,
      'cpu_seconds': c.sandbox.cpu_seconds,
      'wall_seconds': c.sandbox.wall_seconds,
      'memory_mib': c.sandbox.memory_mib,
    }
  return settings


def _encode(parts: build.Parts, question: str) -> list[int]:
  prompt = parts.writers['solver'].encode(
    parts.task.solver_prompts(question)[0]
  )
  if prompt is None:
    raise ValueError(
      f'sampler.max_prompt_tokens={parts.config.sampler.max_prompt_tokens}: '
      f'expected room for the question {question!r}'
    )
  return prompt
