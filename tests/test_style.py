"""The hand that the project is written in, as far as a machine can tell."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent


@pytest.mark.parametrize(
  'command', [('check',), ('format', '--check')], ids=lambda x: x[0]
)
def test_ruff_is_content(command):
  found = subprocess.run(
    [sys.executable, '-m', 'ruff', *command, '--no-cache', '.'],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert found.returncode == 0, found.stdout + found.stderr


def test_every_module_imports_without_a_warning_or_a_word():
  paths = sorted((ROOT / 'sqlm_jax').rglob('*.py'))
  names = ['.'.join(p.relative_to(ROOT).with_suffix('').parts) for p in paths]
  found = subprocess.run(
    [sys.executable, '-W', 'error', '-c', f'import {", ".join(names)}'],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert (found.returncode, found.stdout, found.stderr) == (0, '', '')


def test_the_library_does_not_print():
  # Ruff's T20 says so, too, but a comment can silence it.
  for path in (ROOT / 'sqlm_jax').rglob('*.py'):
    text = path.read_text()
    assert 'print(' not in text.replace('_print(', '').replace('.print(', '')
