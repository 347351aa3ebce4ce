"""Describes what a run was made with, for the footers of its rollouts."""

import importlib.metadata
import pathlib
import subprocess

import jax

from sqlm_jax.config import schema as config_lib
from sqlm_jax.pretrained import catalog
from sqlm_jax.run import build
from sqlm_jax.workdir import config_json

_GIT_SECONDS = 10


def collect(parts: build.Parts) -> dict[str, str]:
  """Returns hashes of config and model, the version, and the devices.

  Args:
    parts: Parts of the run.

  Returns:
    A dict with 'config_sha256', the hash of config.json; 'code_version'; the
    'model' as in the config; 'model_sha256', see `catalog.digest`, or 'random'
    for a model with random weights; and the number and the kind of 'devices'.
  """
  config = parts.config
  model_sha256 = 'random'
  if packaged := catalog.MODELS.get(config.model.path):
    model_sha256 = packaged.sha256  # verified when the model was opened
  elif parts.model_path is not None:
    model_sha256 = catalog.digest(parts.model_path)
  return {
    'config_sha256': config_json.digest(config_lib.to_dict(config)),
    'code_version': code_version(),
    'model': config.model.path,
    'model_sha256': model_sha256,
    'devices': str(jax.device_count()),
    'device_kind': jax.devices()[0].device_kind,
  }


def code_version() -> str:
  """Returns the version of the package and, in a clone, the Git revision.

  Examples are '0.1.0' and '0.1.0+git.ba4b9d5f...-dirty', where '-dirty' means
  that files differ from the revision.
  """
  try:
    version = importlib.metadata.version('sqlm_jax')
  except importlib.metadata.PackageNotFoundError:
    version = 'unknown'
  directory = pathlib.Path(__file__).parent.parent
  # An installed package may be inside a repository of something else.
  if _git(directory, 'ls-files', '--error-unmatch', '__init__.py') is None:
    return version
  revision = _git(
    directory, 'describe', '--always', '--abbrev=40', '--dirty', '--exclude=*'
  )
  return f'{version}+git.{revision}' if revision else version


def _git(directory: pathlib.Path, *arguments: str) -> str | None:
  """Returns the output of a Git command, None if it fails."""
  try:
    process = subprocess.run(
      ['git', '-C', str(directory), *arguments],
      capture_output=True,
      text=True,
      check=True,
      timeout=_GIT_SECONDS,
    )
  except (OSError, subprocess.SubprocessError):
    return None
  return process.stdout.strip()
