"""Substitutes for the programs of clouds, which record their calls."""

import os
import pathlib
import subprocess

ROOT = pathlib.Path(__file__).parent.parent.parent

# Arguments that a shell, a YAML file or ssh could split or expand.
NASTY = ("--a=it's", '--b="two  words"', '--c=$HOME `id` * ~', r'--d=\n;#&|')

# Variables that sbatch sets.
ON_SLURM = {
  'SLURM_JOB_ID': '7',
  'SLURM_JOB_NUM_NODES': '2',
  'SLURM_SUBMIT_DIR': str(ROOT),
}

_RECORD = """#!/bin/bash
printf '%s\\0' "${0##*/}" "$@" $'\\x1e' >> "$RECORD"
"""


class Machine:
  """A machine with a clone, on which substitutes replace programs."""

  def __init__(self, directory: pathlib.Path):
    self.home = directory / 'home'
    self.clone = directory / 'a clone'
    self.bin = directory / 'bin'
    self.record = directory / 'record'
    for path in (self.home, self.clone, self.bin):
      path.mkdir()
    (self.clone / 'sqlm_jax').mkdir()
    (self.clone / 'sqlm_jax' / 'main.py').touch()
    self.env = {
      'HOME': str(self.home),
      'PATH': f'{self.bin}:{os.environ["PATH"]}',
      'RECORD': str(self.record),
    }

  def add(self, name: str, does: str = '') -> pathlib.Path:
    """Puts a program on PATH that records its arguments and runs `does`."""
    path = self.bin / name
    path.write_text(f'{_RECORD}{does}\n')
    path.chmod(0o755)
    return path

  def start(self, script: str, *args: str, **env: str) -> subprocess.Popen:
    return subprocess.Popen(
      ['bash', str(ROOT / 'launch' / script), *args],
      cwd=self.clone,
      env=self.env | env,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )

  def run(
    self, script: str, *args: str, code: int = 0, **env: str
  ) -> subprocess.CompletedProcess:
    """Runs a script of launch/ in the clone and checks its exit code."""
    process = self.start(script, *args, **env)
    out, err = process.communicate(timeout=100)
    assert process.returncode == code, (out, err)
    return subprocess.CompletedProcess(process.args, code, out, err)

  def shell(self, command: str, **env: str) -> str:
    """Returns the output of a command that runs on the machine."""
    return subprocess.run(
      ['bash', '-c', command],
      cwd=self.home,
      env=self.env | env,
      check=True,
      capture_output=True,
      text=True,
      timeout=100,
    ).stdout

  def calls(self) -> list[list[str]]:
    """Returns the calls of the substitutes since the last time."""
    if not self.record.exists():
      return []
    calls = self.record.read_text().split('\x1e\0')[:-1]
    self.record.unlink()
    return [call.split('\0')[:-1] for call in calls]
