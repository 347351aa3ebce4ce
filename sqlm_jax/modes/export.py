"""Exports a trained policy to a directory that other tools can load."""

import contextlib
import hashlib
import pathlib
import secrets
import shutil
from collections.abc import Generator
from typing import Any

import huggingface_hub
import pyarrow as pa
import pyarrow.compute as pc
import transformers
from absl import logging
from pyarrow import parquet

from sqlm_jax.config import schema as config_lib
from sqlm_jax.evaluation import report
from sqlm_jax.models import lora
from sqlm_jax.models import policy as policy_lib
from sqlm_jax.pretrained import catalog, hf_export, hub, safetensors, tokenizer
from sqlm_jax.run import build
from sqlm_jax.text import json_text
from sqlm_jax.workdir import evaluations, rollouts


def export_policy(
  parts: build.Parts,
  trained: policy_lib.Params,
  directory: str,
  *,
  step: int,
  role: str,
  dtype: str,
  as_adapter: bool = False,
  workdir: str | None = None,
) -> pathlib.Path:
  """Writes a policy as a Hugging Face directory, or as a PEFT adapter.

  All files are first written to a temporary directory next to the target, which
  is then renamed to the target.

  Args:
    parts: Parts of the run.
    trained: Parameters of the train state, or of the model before training.
    directory: Target directory, which must be empty or not exist.
    step: Number of self-play steps that the parameters have been trained for.
    role: Role that the parameters belong to, for the model card.
    dtype: Dtype of the exported tensors; adapters are always float32.
    as_adapter: Exports only the adapters instead of a model with the adapters
      merged into its weights.
    workdir: Directory of the run, for the model card.

  Returns:
    The target directory.

  Raises:
    ValueError: If the directory is not empty, or there are no adapters.
  """
  build.check(parts)
  check_target(parts, directory, as_adapter=as_adapter)
  if as_adapter and not lora.adapters(trained):
    raise ValueError(
      '--export_adapter: expected a checkpoint with adapters; the model before '
      'training has none. Use another --checkpoint'
    )
  target = pathlib.Path(directory).expanduser().absolute()
  with _staging_directory(target) as staging:
    if as_adapter:
      _write_adapter(staging, parts, lora.adapters(trained))
    else:
      _write_model(staging, parts, trained, dtype=dtype)
    parts.tokens.save(staging)
    _check_tokenizer(staging, parts.tokens)
    card = model_card(
      parts.config,
      step=step,
      role=role,
      as_adapter=as_adapter,
      workdir=workdir,
    )
    card.save(staging / 'README.md')
  return target


@contextlib.contextmanager
def _staging_directory(target: pathlib.Path) -> Generator[pathlib.Path]:
  """Yields a temporary directory and renames it to `target` on success."""
  target.parent.mkdir(parents=True, exist_ok=True)
  # `tempfile.mkdtemp` would ignore the user's umask.
  staging = target.with_name(f'.{target.name}.{secrets.token_hex(4)}')
  staging.mkdir()
  try:
    yield staging
    if target.exists():
      target.rmdir()
    staging.rename(target)
  except BaseException:
    shutil.rmtree(staging, ignore_errors=True)
    raise


def _write_adapter(
  directory: pathlib.Path, parts: build.Parts, adapters: policy_lib.Params
) -> None:
  assert parts.lora is not None  # `check_target` has raised otherwise
  path = parts.config.model.path
  hub_id, revision = _on_hub(path)
  hf_export.write_adapter(
    directory,
    parts.policy.config,
    adapters,
    parts.lora,
    base=hub_id or path,
    revision=revision,
  )


def _write_model(
  directory: pathlib.Path,
  parts: build.Parts,
  params: policy_lib.Params,
  *,
  dtype: str,
) -> None:
  """Writes the model and its generation config, with adapters merged."""
  if parts.lora is not None and lora.adapters(params):
    params = lora.merge(params, parts.lora, dtype)
  hf_export.write_model(
    directory, parts.policy.config, parts.hf_config, params, dtype=dtype
  )
  generation = parts.generation | {'eos_token_id': list(parts.tokens.stop_ids)}
  hf_export.write_json(directory / 'generation_config.json', generation)


def default_dtype(config: config_lib.Config) -> str:
  """Returns the default dtype of exported tensors.

  It is the dtype in which the weights are evaluated. Weights that are computed
  in bfloat16 and stored in float32 have random offsets within a bfloat16
  spacing (`ops.rounding.spread`), which rounding to bfloat16 removes. Adapters
  are stored, computed and merged in float32.
  """
  if config.model.lora.rank:
    return 'float32'
  dtypes = (config.model.dtype, config.model.param_dtype)
  return 'bfloat16' if 'bfloat16' in dtypes else 'float32'


# Texts for which tokenizers are likely to give different tokens.
_TEXTS = ('Solve:\n\n12 + 3', '  two\n\n\tx', "I'LL naïve e\u0301 日本語 🙂")


def _check_tokenizer(
  directory: pathlib.Path, tokens: tokenizer.Tokenizer
) -> None:
  """Warns if the installed version of transformers tokenizes differently.

  For some model types, some versions of transformers use the rules of a
  tokenizer class instead of the rules in tokenizer.json.
  """
  try:
    theirs = transformers.AutoTokenizer.from_pretrained(directory)
    assert theirs is not None  # None if transformers has no tokenizer for it
    actual = [theirs.encode(text, add_special_tokens=False) for text in _TEXTS]
  except Exception as error:  # a failed check must not stop the export
    logging.warning('The exported tokenizer could not be checked: %r', error)
    return
  if actual != [tokens.encode(text, allow_special=True) for text in _TEXTS]:
    logging.warning(
      'AutoTokenizer of transformers %s does not follow tokenizer.json, which '
      'the model was trained with. Load the exported tokenizer with '
      'transformers.PreTrainedTokenizerFast.',
      transformers.__version__,
    )


def check_target(
  parts: build.Parts, directory: str, *, as_adapter: bool
) -> None:
  """Checks whether an export is possible, before anything is loaded.

  Raises:
    ValueError: If the directory is not empty, there are no adapters to export,
      or PEFT could not apply the adapters to the model.
  """
  build.check(parts)
  target = pathlib.Path(directory).expanduser()
  if target.exists() and (not target.is_dir() or any(target.iterdir())):
    raise ValueError(
      f'--export_dir={directory}: expected a directory that does not exist, '
      'or an empty one'
    )
  if as_adapter and not parts.lora:
    raise ValueError(
      '--export_adapter: expected a run with model.lora.rank above 0'
    )
  path = parts.config.model.path
  has_files = as_adapter and path != 'random'
  if has_files and safetensors.has_images(catalog.resolve(path)):
    raise ValueError(
      f'--export_adapter: {path} also processes images, and PEFT would find '
      'none of its layers. Export the whole model instead'
    )


def model_card(
  config: config_lib.Config,
  *,
  step: int,
  role: str,
  as_adapter: bool,
  workdir: str | None,
) -> huggingface_hub.ModelCard:
  """Returns a model card with the results, training data and config."""
  path = config.model.path
  packaged = catalog.MODELS.get(path)
  base_model, _ = _on_hub(path)
  data = huggingface_hub.ModelCardData(
    library_name='peft' if as_adapter else 'transformers',
    pipeline_tag='text-generation',
    tags=['sqlm_jax', 'self-play', 'reinforcement-learning'],
    base_model=base_model,
    license=packaged.license if packaged else None,
  )
  sections = [
    f'---\n{data.to_yaml()}\n---\n# {config.task.name or "A policy"}, '
    f'{role}, after {step} steps of self-play',
    'Trained by sqlm_jax with the method of Self-Questioning Language Models '
    '(Chen et al., 2025, arXiv 2508.03682), starting from '
    f'`{path}`.',
    '## Results of the solver\n\n' + _results(workdir, step),
    '## Data\n\n' + _describe_training(config, workdir, step),
    '## Config\n\n```json\n'
    + json_text.dumps(config_lib.to_dict(config), indent=2)
    + '\n```',
  ]
  return huggingface_hub.ModelCard('\n\n'.join(sections) + '\n')


def _on_hub(path: str) -> tuple[str | None, str | None]:
  """Returns a model's id on the Hugging Face hub and its revision, or None."""
  if path in catalog.MODELS:
    return catalog.MODELS[path].hub_id, None
  if not hub.is_id(path) or pathlib.Path(path).exists():
    return None, None
  name, _, revision = path.partition('@')
  return name, revision or None


def _results(workdir: str | None, step: int) -> str:
  """Returns a Markdown table of the evaluations up to a step."""
  results = evaluations.read_results(workdir) if workdir else []
  if not results:
    return 'Not evaluated.'
  rows = [
    [
      str(result['step']),
      result['set'],
      str(result['questions']),
      ', '.join(
        f'{name} {report.figure(result, name)}'
        for name in evaluations.figure_names(result)
      ),
    ]
    for result in results
    if result['step'] <= step
  ]
  return report.table(
    ['steps', 'set', 'questions', 'figures with 95% intervals'], rows
  )


# Descriptions of the terms of `solver.rewards`, for the model card.
_REWARDED_FOR = {
  'majority': "agreement with the majority of the solver's own answers",
  'tests': "passing the proposer's unit tests",
  'format': 'readable answers, right or wrong (a control)',
  'agreement': "the share of the solver's own answers that agree",
  'random': 'nothing: rewards were coin flips (a control)',
  'true': "right answers, according to the task's checker (a control that uses "
  'labels)',
}


def _describe_training(
  config: config_lib.Config, workdir: str | None, step: int
) -> str:
  """Describes the training data: its source, size and SHA-256."""
  text = describe_data(config)
  if not workdir or not step:
    return text
  counts = count_rollouts(workdir, step)
  text += f' In {counts["steps"]} steps, '
  if not config.task.questions:
    text += (
      f'{counts["proposals"]} proposals were sampled. '
      f'{counts["readable"]} of them were readable questions, '
      f'{counts["distinct"]} of which were distinct. For these questions, '
    )
  return text + (
    f'{counts["answers"]} answers were sampled, and {counts["trained_on"]} of '
    'them were trained on. The SHA-256 of the rollout files, in the order of '
    f'their steps, is `{counts["sha256"]}`.'
  )


def describe_data(config: config_lib.Config) -> str:
  """Describes the source of the questions and the solver's rewards."""
  rewarded_for = [
    text
    for name, text in _REWARDED_FOR.items()
    if getattr(config.solver.rewards, name)
    or name in {point[0] for point in config.solver.reward_schedule}
  ]
  topics = '\n'.join(f'- {topic}' for topic in config.task.topics)
  source = (
    'No question came from outside. The proposer generated all questions, on '
    f'these topics:\n\n{topics}\n\n'
  )
  if config.task.questions:
    source = f'All questions came from `{config.task.questions}`. '
  return (
    f'{source}The solver was rewarded for '
    f'{" and ".join(rewarded_for) or "nothing"}. The seed was {config.seed}.'
  )


def count_rollouts(workdir: str, step: int) -> dict[str, Any]:
  """Counts the rollouts that a policy was trained on in `step` steps."""
  files = rollouts.files(workdir, before=step)
  columns = ['role', 'question', 'trained_on']
  schema = pa.schema([rollouts.SCHEMA.field(name) for name in columns])
  tables, digest = [schema.empty_table()], hashlib.sha256()
  for file in files:
    content = file.read_bytes()
    digest.update(content)
    source = pa.BufferReader(content)
    tables.append(parquet.read_table(source, columns=columns))
  rows = pa.concat_tables(tables)
  proposals = rows.filter(pc.field('role') == 'proposer')
  answers = rows.filter(pc.field('role') == 'solver')
  readable = proposals['question'].drop_null()
  return {
    'steps': len(files),
    'proposals': proposals.num_rows,
    'readable': len(readable),
    'distinct': len(readable.unique()),
    'answers': answers.num_rows,
    'trained_on': answers.filter(pc.field('trained_on')).num_rows,
    'sha256': digest.hexdigest(),
  }
