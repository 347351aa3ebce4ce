"""The functions that `import sqlm_jax` offers to notebooks and programs.

docs/python.md has examples. They call the same `modes` as the command line.
"""

import contextlib
import functools
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath

from sqlm_jax import display, runs
from sqlm_jax.config import schema
from sqlm_jax.evaluation import report, verdict
from sqlm_jax.models import policy as policy_lib
from sqlm_jax.modes import compare as compare_mode
from sqlm_jax.modes import evaluate as evaluate_mode
from sqlm_jax.modes import export as export_mode
from sqlm_jax.modes import pilot as pilot_mode
from sqlm_jax.modes import sample as sample_mode
from sqlm_jax.modes import train as train_mode
from sqlm_jax.run import (
  build,
  compilation_cache,
  evaluation_sets,
  saved_models,
  step_callbacks,
)
from sqlm_jax.workdir import config_json, evaluations, storage

PlayedStep = step_callbacks.PlayedStep
keep_compiled = compilation_cache.keep_compiled


class Trained(NamedTuple):
  """The result of `train`.

  Attributes:
    finished: True if the run has done all its steps; False if it was stopped.
      The same call then resumes it.
    step: Number of steps that the run has done.
    run: The files of the run.
  """

  finished: bool
  step: int
  run: runs.Run


class Model(NamedTuple):
  """A model of a run, or the model before training; `load` returns it.

  Attributes:
    parts: Task, tokenizer and settings of the run.
    saved: The checkpoint. Its parameters are loaded when they are needed.
    workdir: Directory of the run, None without a run.
  """

  parts: build.Parts
  saved: saved_models.SavedModel
  workdir: str | None

  @property
  def step(self) -> int:
    """Number of self-play steps that the model has been trained for."""
    return self.saved.step

  def params(self, role: str = 'solver') -> policy_lib.Params:
    """Returns the parameters of a role."""
    return self.saved.load(role)


class Answer(NamedTuple):
  """An answer of the solver; `answer` is '' if none was parsed."""

  question: str
  response: str
  answer: str


class Evaluation(NamedTuple):
  """The result of `evaluate`.

  Attributes:
    figures: Accuracies by name, such as 'greedy' and 'mean@4'.
    intervals: Ends of their 95% intervals, by the same names.
    rows: Answers to each question.
    result: Everything that eval.jsonl stores.
  """

  figures: dict[str, float]
  intervals: dict[str, tuple[float, float]]
  rows: runs.Rows[dict[str, Any]]
  result: dict[str, Any]


class Comparison(NamedTuple):
  """The result of `compare`.

  Attributes:
    figures: For each figure, both values, and their paired difference with its
      interval and p-value.
    changed: Number of greedy answers that changed, by kind of change.
    directory: Directory with the comparison as JSON, Markdown and a plot.
    result: Everything that comparison.json stores.
  """

  figures: runs.Rows[dict[str, Any]]
  changed: dict[str, int]
  directory: epath.Path
  result: dict[str, Any]

  def _repr_markdown_(self) -> str:
    """Returns what a notebook shows."""
    return report.to_markdown(self.result)


class Pilot(NamedTuple):
  """The result of `pilot`.

  Attributes:
    verdict: The decision, its reason and notes, and settings to train with.
    result: Everything that pilot.json stores.
  """

  verdict: verdict.Verdict
  result: dict[str, Any]


def train(
  config: schema.ConfigLike | None,
  workdir: str | os.PathLike[str],
  *,
  callbacks: Sequence[step_callbacks.Callback] = (),
  quiet: bool = False,
) -> Trained:
  """Trains by self-play, and resumes the run if `workdir` contains one.

  The interrupt of a notebook, Ctrl-C or SIGTERM ends the run after its current
  step, with a checkpoint. The same call then resumes it.

  Args:
    config: Config of the run, such as `configs.quickstart()`. None resumes the
      run in `workdir` with its own config.
    workdir: Directory of the run.
    callbacks: Functions `callback(played)` that are called with a `PlayedStep`
      after each step. A KeyboardInterrupt in a callback stops the run, too.
    quiet: True to print no progress.

  Raises:
    ValueError: If `workdir` contains a run with another config, or the config
      is not valid.
    RuntimeError: If another process is writing to `workdir`.
    OSError: If a file cannot be written.
  """
  path = storage.expand(os.fspath(workdir))
  config = _config_of(path) if config is None else schema.of(config)
  with display.muted() if quiet else contextlib.nullcontext():
    finished = train_mode.train(config, path, callbacks=callbacks)
  run = runs.Run(path)
  metrics = run.metrics()
  step = int(metrics[-1]['step']) + 1 if metrics else 0
  return Trained(finished, step, run)


def pilot(
  config: schema.ConfigLike, workdir: str | os.PathLike[str] | None = None
) -> Pilot:
  """Measures the untrained model, and says whether training is worthwhile.

  Args:
    config: Config of a run.
    workdir: Directory for pilot.json, None to write no file.
  """
  path = None if workdir is None else storage.expand(os.fspath(workdir))
  result = pilot_mode.pilot(config, path)
  return Pilot(verdict.Verdict(**result['verdict']), result)


def load(
  workdir: str | os.PathLike[str] | None = None,
  checkpoint: str | int = saved_models.LATEST,
  *,
  config: schema.ConfigLike | None = None,
) -> Model:
  """Finds a checkpoint of a run, or the model before training.

  Args:
    workdir: Directory of the run; None for the model of `config`.
    checkpoint: 'latest', 'best' by the validation score, or a number of steps.
      0 is the model before training.
    config: Config to use; by default, that of the run.

  Raises:
    ValueError: If there is no such run or checkpoint.
  """
  path = None if workdir is None else storage.expand(os.fspath(workdir))
  if config is None:
    if path is None:
      raise ValueError('workdir=None: expected a run, or a config')
    config = _config_of(path)
  parts = build.build(config, path)
  saved = saved_models.find(parts, path, str(checkpoint))
  # Holds the parameters of one role, because they may be large.
  load_once = functools.lru_cache(maxsize=1)(saved.load)
  return Model(parts, saved._replace(load=load_once), path)


def sample(model: Model, texts: Iterable[str]) -> runs.Rows[Answer]:
  """Answers questions with greedy decoding.

  Args:
    model: The model, from `load`.
    texts: Questions.
  """
  texts = [texts] if isinstance(texts, str) else list(texts)
  answers = sample_mode.answers(model.parts, model.params(), texts)
  return runs.Rows(
    Answer(question.strip(), *answer)
    for question, answer in zip(texts, answers, strict=True)
  )


def propose(model: Model) -> runs.Rows[sample_mode.Proposal]:
  """Samples the questions of one step from the proposer.

  Args:
    model: The model, from `load`.
  """
  params = model.params('proposer')
  return runs.Rows(sample_mode.questions(model.parts, params, model.step))


def evaluate(model: Model, dataset: str = evaluation_sets.TEST) -> Evaluation:
  """Measures the accuracy of the solver on labeled questions.

  The answers and the result are stored in the workdir of the model, and a
  repeated evaluation reads them.

  Args:
    model: The model, from `load`.
    dataset: 'test' or 'validation' for a set of the config, the name of a
      dataset, or a file (docs/evaluate.md).

  Raises:
    ValueError: If there are no such questions.
  """
  evaluated = evaluate_mode.evaluate(
    model.parts,
    model.saved,
    evaluate_mode.find_set(model.parts, dataset),
    workdir=model.workdir,
  )
  result = evaluated.result
  names = evaluations.figure_names(result)
  return Evaluation(
    {name: result[name] for name in names},
    {name: (low, high) for name, (low, high) in result['intervals'].items()},
    runs.Rows(evaluated.rows),
    result,
  )


def compare(
  workdir: str | os.PathLike[str],
  first: str | int = 0,
  second: str | int = saved_models.BEST,
  *,
  dataset: str = evaluation_sets.TEST,
) -> Comparison:
  """Compares two checkpoints on the same questions, question by question.

  Args:
    workdir: Directory of the run.
    first: A checkpoint as in `load`, or 'WORKDIR@CHECKPOINT' of another run.
    second: The checkpoint that is compared with it, in the same form.
    dataset: Questions, see `evaluate`.

  Raises:
    ValueError: If a checkpoint or the questions do not exist.
  """
  path = storage.expand(os.fspath(workdir))
  result, directory = compare_mode.compare(
    build.build(_config_of(path), path),
    (str(first), str(second)),
    dataset=dataset,
    workdir=path,
  )
  return Comparison(
    runs.Rows(_figures(result['figures'])),
    result['changed'],
    directory,
    result,
  )


def export(
  model: Model,
  directory: str | os.PathLike[str],
  *,
  role: str = 'solver',
  dtype: str | None = None,
  as_adapter: bool = False,
) -> pathlib.Path:
  """Writes a model as a Hugging Face directory, or its adapters for PEFT.

  Args:
    model: The model, from `load`.
    directory: Target directory, which must be empty or not exist.
    role: 'solver' or 'proposer'.
    dtype: Dtype of the tensors, 'float32' or 'bfloat16'; by default, that of
      `--export_dtype`.
    as_adapter: True to write the LoRA adapters only.

  Returns:
    The target directory.

  Raises:
    ValueError: If the directory is not empty, or there are no adapters.
  """
  path = storage.expand(os.fspath(directory))
  export_mode.check_target(model.parts, path, as_adapter=as_adapter)
  return export_mode.export_policy(
    model.parts,
    model.params(role),
    path,
    step=model.step,
    role=role,
    dtype=dtype or export_mode.default_dtype(model.parts.config),
    as_adapter=as_adapter,
    workdir=model.workdir,
  )


def _config_of(workdir: str) -> schema.Config:
  stored = config_json.read(workdir)
  if stored is None:
    raise ValueError(
      f'workdir={workdir!r}: expected a directory with a run (config.json)'
    )
  return schema.from_dict(stored)


def _figures(figures: Mapping[str, Any]) -> list[dict[str, Any]]:
  """Returns one row for each figure of a comparison."""
  return [
    {
      'figure': name,
      'first': figure['values'][0]['value'],
      'second': figure['values'][1]['value'],
      'difference': figure['difference']['value'],
      'low': figure['difference']['low'],
      'high': figure['difference']['high'],
      'p': figure['difference']['p'],
    }
    for name, figure in figures.items()
  ]
