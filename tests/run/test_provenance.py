"""Tests of the description of what a run was made with."""

import hashlib
import pathlib
import re
import shutil
import subprocess

import pytest

from configs import smoke
from sqlm_jax.config import schema as config_lib
from sqlm_jax.pretrained import catalog
from sqlm_jax.run import build, provenance
from sqlm_jax.workdir import config_json


def test_a_random_model_has_no_files(tmp_path):
  config = config_lib.from_dict(smoke.get_config())
  footer = provenance.collect(build.build(config))
  assert footer['model'] == footer['model_sha256'] == 'random'
  # Anyone can compare the hash with that of the file.
  config_json.write(tmp_path, config_lib.to_dict(config))
  content = (tmp_path / 'config.json').read_bytes()
  assert footer['config_sha256'] == hashlib.sha256(content).hexdigest()


def test_the_version_ends_with_the_revision_of_a_clone():
  version = provenance.code_version()
  head = subprocess.run(
    ['git', 'rev-parse', 'HEAD'],
    cwd=pathlib.Path(__file__).parent,
    capture_output=True,
    check=True,
    text=True,
  ).stdout.strip()
  assert re.fullmatch(rf'[\w.]+\+git\.{head}(-dirty)?', version)


def test_a_package_inside_another_repository_has_no_revision(
  tmp_path, monkeypatch
):
  subprocess.run(['git', 'init', '-q', tmp_path], check=True)
  package = tmp_path / 'site-packages' / 'sqlm_jax'
  package.mkdir(parents=True)
  (package / '__init__.py').write_text('')
  monkeypatch.setattr(provenance, '__file__', str(package / 'run' / 'x.py'))
  assert '+git' not in provenance.code_version()


def test_without_git_there_is_no_revision(monkeypatch):
  monkeypatch.setenv('PATH', '')
  assert '+git' not in provenance.code_version()


@pytest.mark.skipif(shutil.which('sha256sum') is None, reason='needs sha256sum')
def test_the_hash_of_a_directory_is_that_of_its_listing(tmp_path):
  for name in ('model.safetensors', 'config.json', 'README.md'):
    (tmp_path / name).write_text(name)
  listing = subprocess.run(
    ['sha256sum', 'config.json', 'model.safetensors'],
    cwd=tmp_path,
    capture_output=True,
    check=True,
  ).stdout
  assert catalog.digest(tmp_path) == hashlib.sha256(listing).hexdigest()
  file = tmp_path / 'config.json'
  assert catalog.digest(file) == hashlib.sha256(b'config.json').hexdigest()
