"""Kills a run at random moments, a hundred times, and counts what is lost.

  python -m benchmarks.kill_soak --kills=100 --output=runs/kill_soak

Starts the smoke config with endless steps, sends SIGKILL somewhere between its
first import and a few steps, looks at what is there, and starts the same
command again: nothing is ever mended by hand. In the end the run is finished,
and compared with one of as many steps that nobody killed. Prints a line of
JSON a kill, and a summary. Interrupted, it goes on with what is there.
"""

import argparse
import collections
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from pyarrow import parquet

from configs import smoke
from sqlm_jax.config import schema as config_lib
from sqlm_jax.run import assemble
from sqlm_jax.run import states as states_lib
from sqlm_jax.workdir import checkpoint, writers

ENDLESS = 10**6
ROOT = pathlib.Path(__file__).parent.parent


class Left(NamedTuple):
  """What a killed process has left."""

  steps: int  # in metrics.jsonl
  saved: int  # step of the newest checkpoint, 0 without one
  saving: bool  # whether a checkpoint was being written


def start(workdir: pathlib.Path, num_steps: int) -> subprocess.Popen:
  """A training process; its compiled programs are kept beside the workdir."""
  cache = {
    'JAX_COMPILATION_CACHE_DIR': str(workdir.parent / 'compiled'),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
  }
  command = [sys.executable, '-m', 'sqlm_jax.main']
  command += ['--config=configs/smoke.py', f'--workdir={workdir}']
  with (workdir.parent / f'{workdir.name}.log').open('ab') as log:
    return subprocess.Popen(
      [*command, f'--config.num_steps={num_steps}'],
      cwd=ROOT,
      env=os.environ | {'XLA_FLAGS': ''} | cache,
      stdout=log,
      stderr=log,
      start_new_session=True,
    )


def finish(workdir: pathlib.Path, num_steps: int) -> None:
  """Runs to the end, or says what the process said."""
  if start(workdir, num_steps).wait():
    said = (workdir.parent / f'{workdir.name}.log').read_text()
    raise RuntimeError(f'{workdir} did not finish: {said[-2000:]}')


def kill_once(
  workdir: pathlib.Path, after: float, at_least: int
) -> float | None:
  """Starts a run and kills it; returns when its first step was done."""
  process, begun = start(workdir, ENDLESS), time.monotonic()
  first, steps, last = None, 0, modified(workdir)
  while (elapsed := time.monotonic() - begun) < after or steps < at_least:
    if process.poll() is not None:
      said = (workdir.parent / f'{workdir.name}.log').read_text()
      raise RuntimeError(f'it ended before it was killed: {said[-2000:]}')
    if (now := modified(workdir)) > last:
      last, steps, first = now, steps + 1, first or elapsed
    time.sleep(0.02)
  os.killpg(process.pid, signal.SIGKILL)
  process.wait()
  return first


def modified(workdir: pathlib.Path) -> int:
  """When a step was last written, in nanoseconds."""
  times = (x.stat().st_mtime_ns for x in workdir.glob('rollouts/*.parquet'))
  return max(times, default=0)


def look(workdir: pathlib.Path, config: config_lib.Config) -> Left:
  """Reads everything that a killed process has left.

  Raises:
    RuntimeError: if a line, a file or a checkpoint is not there or not whole.
  """
  path = workdir / 'metrics.jsonl'
  rows = writers.read_jsonl(path) if path.exists() else []
  if [row['step'] for row in rows] != list(range(len(rows))):
    raise RuntimeError(f'{path}: lines are missing, or there twice')
  files = writers.rollout_files(workdir, before=len(rows))
  if len(files) != len(rows):
    raise RuntimeError(f'{workdir}: rollouts are missing')
  for file in files:
    parquet.read_metadata(file)
  directory = workdir / 'checkpoints'
  if not directory.exists():
    return Left(len(rows), 0, False)
  saving = any('tmp' in path.name for path in directory.iterdir())
  with checkpoint.open_checkpoints(directory, read_only=True) as manager:
    saved = checkpoint.latest_step(manager) or 0
    if saved:
      checkpoint.restore(manager, abstract(config), step=saved)
  if saved > len(rows):
    raise RuntimeError(f'{path}: fewer lines than the {saved} steps saved')
  return Left(len(rows), saved, saving)


def abstract(config: config_lib.Config):
  return states_lib.abstract_states(assemble.build(config))


def soak(
  output: pathlib.Path,
  *,
  kills: int,
  seed: int = 0,
  first: float = 30.0,
  at_least: int = 0,
  report: Callable[[str], None] = lambda line: None,
) -> dict[str, int]:
  """Kills, finishes, compares.

  Args:
    output: a directory; a soak that was begun there goes on.
    kills: how many.
    seed: of the moments.
    first: seconds that a process may need for its first step; then measured.
    at_least: steps of a process before it is killed.
    report: gets a line a kill.

  Returns:
    How many kills met what.

  Raises:
    RuntimeError: if something is lost that should not be.
  """
  output.mkdir(parents=True, exist_ok=True)
  workdir, whole = output / 'killed', output / 'whole'
  config = config_lib.from_dict(smoke.get_config().to_dict())
  rng, left = random.Random(seed), Left(0, 0, False)
  met = collections.Counter()
  for kill in range(kills):
    # Half of all moments lie behind the first step, on this machine today.
    moment = rng.uniform(0, 2 * first)
    found = kill_once(workdir, moment, at_least)
    first = found or 1.1 * first
    last, left = left, look(workdir, config)
    if left.saved < last.saved:
      raise RuntimeError(f'{workdir}: the checkpoint of {last} is gone')
    met['while saving' if left.saving else 'in a step'] += found is not None
    met['before a step'] += found is None
    report(json.dumps({'kill': kill, 'second': moment} | left._asdict()))
  finish(workdir, left.steps + 2)
  finish(whole, left.steps + 2)
  compare(workdir, whole, config)
  return dict(met) | {'kills': kills, 'steps': left.steps + 2}


def compare(one: pathlib.Path, other: pathlib.Path, config) -> None:
  """Raises AssertionError unless both hold the same, but for times."""

  def lines(workdir, name):
    rows = writers.read_jsonl(workdir / name)
    return [
      {k: v for k, v in row.items() if not k.startswith(('time/', 'seconds'))}
      for row in rows
    ]

  def restored(workdir):
    directory = workdir / 'checkpoints'
    with checkpoint.open_checkpoints(directory, read_only=True) as manager:
      steps = sorted(manager.all_steps())
      found = checkpoint.restore(manager, abstract(config), step=steps[-1])
      return (steps, checkpoint.best_step(manager)), jax.device_get(found)

  for name in ('metrics.jsonl', 'eval.jsonl'):
    assert lines(one, name) == lines(other, name), name
  tables = [
    parquet.read_table(workdir / 'rollouts') for workdir in (one, other)
  ]
  assert tables[0].equals(tables[1]), 'rollouts'
  (kept, state), (expected_kept, expected) = restored(one), restored(other)
  assert kept == expected_kept, 'which checkpoints are kept'
  assert (state[0], state[2]) == (expected[0], expected[2]), 'host state'
  jax.tree.map(np.testing.assert_array_equal, state[1], expected[1])


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--kills', type=int, default=100)
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--output', type=pathlib.Path, required=True)
  options = parser.parse_args()
  begun = time.monotonic()
  found = soak(
    options.output,
    kills=options.kills,
    seed=options.seed,
    report=lambda line: print(line, flush=True),
  )
  print(json.dumps(found | {'seconds': round(time.monotonic() - begun)}))


if __name__ == '__main__':
  main()
