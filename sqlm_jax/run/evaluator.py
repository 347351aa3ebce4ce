"""Measures how often the solver is right, with intervals.

1. `plan` collects the questions, prompts and settings of an evaluation, and
   reads the answers of an earlier, interrupted evaluation with the same
   settings.
2. `evaluate` tests the grader on known answers, then answers every remaining
   question: once greedily and, for each seed, with k samples. It samples in
   groups, with the same sampler as in training.
3. The output is one row per question, and a result with figures and intervals
   that are computed from the rows (`evaluation.accuracy`). Both are stored in
   the workdir (`workdir.evaluations`).
"""

import contextlib
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from absl import logging
from etils import epath

from sqlm_jax.distributed import processes
from sqlm_jax.evaluation import accuracy, collapse, reliability, report
from sqlm_jax.game import types
from sqlm_jax.models import policy as policy_lib
from sqlm_jax.run import build, evaluation_sets
from sqlm_jax.selfplay import background_grading, random_streams, responses
from sqlm_jax.workdir import config_json, evaluations


class Plan(NamedTuple):
  """The inputs of an evaluation.

  Attributes:
    parts: Parts of the run.
    evaluation_set: The questions and their true answers.
    prompts: Token ids of one prompt per question.
    files: Directory of the evaluation, and the rows that are already answered.
  """

  parts: build.Parts
  evaluation_set: evaluation_sets.EvaluationSet
  prompts: list[list[int]]
  files: evaluations.Files

  @property
  def is_answered(self) -> bool:
    """True if every question has been answered."""
    return len(self.files.rows) == len(self.prompts)


def plan(
  parts: build.Parts,
  evaluation_set: evaluation_sets.EvaluationSet,
  *,
  step: int,
  workdir: epath.PathLike | None,
) -> Plan:
  """Prepares an evaluation; the parameters are not needed yet.

  Args:
    parts: Parts of the run.
    evaluation_set: The questions and their true answers.
    step: Number of self-play steps that the parameters have been trained for;
      the random keys of the samples are derived from it.
    workdir: Directory of the run, None to store no answers.

  Raises:
    ValueError: If the prompt of a question is too long.
  """
  build.check(parts)
  prompts = [
    _encode(parts, example.question) for example in evaluation_set.examples
  ]
  settings = {
    **_settings(parts, evaluation_set, step),
    'first_prompt': parts.tokens.decode(prompts[0], skip_special=False),
  }
  rows = processes.broadcast_from_first(
    lambda: evaluations.find_files(workdir, settings).rows
  )
  files = evaluations.find_files(
    workdir if processes.is_first() else None, settings
  )
  return Plan(parts, evaluation_set, prompts, files._replace(rows=rows))


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
    The result for eval.jsonl; None if the evaluation was stopped.

  Raises:
    RuntimeError: If the grader fails its self-test, or if another process is
      running the same evaluation.
  """
  parts, files = planned.parts, planned.files
  started = time.perf_counter()
  if planned.is_answered:
    return _finish(planned, 0.0)
  parts.task.prepare()
  parts.task.self_test(planned.evaluation_set.examples)
  total = len(planned.prompts)
  size = min(parts.config.evaluation.batch_questions, total)
  with contextlib.ExitStack() as stack:
    processes.broadcast_from_first(lambda: evaluations.start(files, stack))
    progress(len(files.rows), total)
    while not planned.is_answered:
      if stopped():
        return None
      first = len(files.rows)
      evaluations.append_answers(
        files, _answer(planned, params, range(first, min(first + size, total)))
      )
      progress(len(files.rows), total)
    return _finish(planned, time.perf_counter() - started)


def _answer(
  planned: Plan, params: policy_lib.Params, indices: range
) -> list[evaluations.Row]:
  """Samples answers to a range of questions in one batch, and grades them.

  Answers are graded while others are still being sampled. Each process grades
  its own share; the rows are then exchanged, so that every process has all.
  """
  parts = planned.parts
  size = parts.config.evaluation.batch_questions
  local_rows = processes.local_share(len(indices))
  examples = planned.evaluation_set.examples[indices.start : indices.stop]

  def grade(
    rows: Sequence[int], texts: Sequence[Sequence[str]]
  ) -> list[tuple[types.Graded, ...]]:
    return parts.task.grade(texts, [examples[i] for i in rows])

  with background_grading.BackgroundGrader(grade) as grader:
    sampled = responses.sample(
      parts.samplers['evaluation'],
      params,
      planned.prompts[indices.start : indices.stop],
      path=random_streams.key_path(
        parts.config.seed,
        planned.files.settings['step'],
        random_streams.Stream.EVALUATION,
      ),
      num_rows=min(size, len(planned.prompts)),
      first_row=indices.start,
      local_rows=local_rows,
      on_texts=grader.add,
    )
    graded = grader.finish()
  rows = [
    {
      'index': indices[i],
      'question': examples[i].question,
      'true': examples[i].answer,
      'prompt': parts.tokens.decode(sampled.prompt_ids[i], skip_special=False),
      'responses': sampled.texts[i],
      'answers': [
        None if x.answer is None else str(x.answer) for x in graded[i]
      ],
      'right': [x.right for x in graded[i]],
      'finished': sampled.rollout.finished[i].tolist(),
    }
    for i in local_rows
  ]
  return list(itertools.chain.from_iterable(processes.all_gather(rows)))


def _finish(planned: Plan, seconds: float) -> dict[str, Any]:
  """Computes the result of a completed evaluation, and writes its files."""
  c, files = planned.parts.config.evaluation, planned.files
  votes = planned.parts.task.run_tests is None
  figures = accuracy.summarize(files.rows, c.samples, votes=votes)
  collapsed = collapse.find(files.rows, c.samples)
  _warn_of_collapse(files.settings, collapsed)
  curve = None
  if votes and c.samples > 1:
    curve = reliability.measure(
      files.rows,
      samples=c.samples,
      target=c.vote_precision,
      # Choosing a threshold on test questions would bias the test score.
      suggest=planned.evaluation_set.name == evaluation_sets.VALIDATION,
    )
  if files.directory is not None:
    report.write_result(
      files.directory,
      figures,
      curve=curve,
      settings=files.settings,
      collapsed=collapsed,
    )
  result = {name: files.settings[name] for name in ('step', 'task', 'set')}
  result |= {name: figure['value'] for name, figure in figures.items()}
  result |= {
    'intervals': {n: [x['low'], x['high']] for n, x in figures.items()},
    'collapsed': collapsed,
    'questions': len(files.rows),
    'settings': dict(files.settings),
    'seconds': seconds,
  }
  if curve is not None:
    result['reliability'] = curve
  return result


def _warn_of_collapse(
  settings: Mapping[str, Any], collapsed: Mapping[str, Mapping[str, Any]]
) -> None:
  """Warns about figures whose answers have collapsed, on the first process."""
  for name, value in collapsed.items():
    if processes.is_first():
      logging.warning(
        '%s after %d steps: %s. The solver has collapsed to one answer. A '
        'checkpoint whose validation has collapsed cannot be the best one.',
        settings['set'],
        settings['step'],
        collapse.describe(name, value),
      )


def has_settings(
  result: evaluations.Result,
  parts: build.Parts,
  evaluation_set: evaluation_sets.EvaluationSet,
) -> bool:
  """Returns True if a result is of this evaluation set and the run's config."""
  stored = result.get('settings', {})
  settings = config_json.as_stored(
    _settings(parts, evaluation_set, result['step'])
  )
  return stored | settings == stored


def _settings(
  parts: build.Parts, evaluation_set: evaluation_sets.EvaluationSet, step: int
) -> Mapping[str, Any]:
  """Returns everything that determines the answers, except device rounding."""
  c = parts.config
  settings = {
    'step': step,
    'task': c.task.name,
    'set': evaluation_set.name,
    'origin': evaluation_set.origin,
    'questions': len(evaluation_set.examples),
    'fingerprint': evaluation_set.fingerprint,
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
  prompt = parts.samplers['solver'].encode(
    parts.task.solver_prompts(question)[0]
  )
  if prompt is None:
    raise ValueError(
      f'sampler.max_prompt_tokens={parts.config.sampler.max_prompt_tokens}: '
      f'too small for the prompt of the question {question!r}'
    )
  return prompt
