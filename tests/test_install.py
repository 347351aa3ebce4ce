"""Tests of the sdist, the wheel and the installed package outside a clone."""

import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest

from sqlm_jax.workdir import run_reader

ROOT = pathlib.Path(__file__).parent.parent
CONFIGS = {path.name for path in (ROOT / 'configs').glob('*.py')}


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
  """Builds an sdist of the sources, and a wheel of the sdist."""
  directory = tmp_path_factory.mktemp('build')
  sources = directory / 'sources'
  ignored = shutil.ignore_patterns('__pycache__', '*.pyc')
  for name in ('configs', 'sqlm_jax'):
    shutil.copytree(ROOT / name, sources / name, ignore=ignored)
  for name in ('LICENSE', 'README.md', 'pyproject.toml', 'setup.py'):
    shutil.copy(ROOT / name, sources)
  build(sources, f'build_sdist({str(directory)!r})')
  (sdist,) = directory.glob('*.tar.gz')
  with tarfile.open(sdist) as archive:
    archive.extractall(directory, filter='data')
  unpacked = directory / sdist.name.removesuffix('.tar.gz')
  build(unpacked, f'build_wheel({str(directory)!r})')
  (path,) = directory.glob('*.whl')
  return path


def build(sources, call):
  command = f'from setuptools import build_meta; build_meta.{call}'
  subprocess.run(
    [sys.executable, '-c', command],
    cwd=sources,
    check=True,
    capture_output=True,
    timeout=120,
  )


@pytest.fixture(scope='module')
def installed(wheel, tmp_path_factory):
  """Returns a directory with nothing but the installed wheel."""
  target = tmp_path_factory.mktemp('installed')
  command = [sys.executable, '-m', 'pip', 'install', '--no-deps', '--no-index']
  command += ['--no-warn-conflicts', '--target', str(target), str(wheel)]
  subprocess.run(command, check=True, capture_output=True, timeout=120)
  return target


def run(installed, cwd, *words):
  """Runs a command that can import the wheel, but not the clone."""
  return subprocess.run(
    words,
    cwd=cwd,
    env=os.environ | {'PYTHONPATH': str(installed)},
    capture_output=True,
    text=True,
    timeout=300,
  )


def test_a_wheel_has_the_configs_and_no_other_top_level_package(wheel):
  paths = [pathlib.PurePath(name) for name in zipfile.ZipFile(wheel).namelist()]
  top = {path.parts[0] for path in paths}
  assert top == {'sqlm_jax', f'{"-".join(wheel.name.split("-")[:2])}.dist-info'}
  shipped = {path.name for path in paths if path.parts[1] == 'shipped_configs'}
  assert shipped == CONFIGS


def test_the_command_trains_a_config_by_name(installed, tmp_path):
  process = run(
    installed,
    tmp_path,
    str(installed / 'bin' / 'sqlm-jax'),
    '--config=smoke',
    '--workdir=run',
    '--config.num_steps=1',
    '--config.evaluation.samples=1',
  )
  assert process.returncode == 0, process.stderr
  assert len(run_reader.metrics(tmp_path / 'run')) == 1
  code = run_reader.footer(tmp_path / 'run', 0)['code_version']
  assert '+git' not in code  # it is not the clone's


def test_the_command_explains_its_flags(installed, tmp_path):
  process = run(
    installed, tmp_path, str(installed / 'bin' / 'sqlm-jax'), '--help'
  )
  assert '--workdir: Directory that the run writes to' in process.stdout


def test_every_config_loads_without_the_clone(installed, tmp_path):
  script = (
    'import sys\n'
    'from sqlm_jax import configs\n'
    'for name in configs.names():\n'
    '  configs.load(name)\n'
    'print(configs.__file__, *configs.names())'
  )
  process = run(installed, tmp_path, sys.executable, '-c', script)
  assert process.returncode == 0, process.stderr
  file, *names = process.stdout.split()
  assert file.startswith(str(installed))
  assert {f'{name}.py' for name in names} == CONFIGS
