"""Checks the type annotations of the package."""

import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent


def test_types():
  process = subprocess.run(
    [
      *(sys.executable, '-m', 'ty', 'check'),
      *('--python', sys.prefix, '--output-format', 'concise'),
    ],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert process.returncode == 0, process.stdout + process.stderr
