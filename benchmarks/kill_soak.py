"""Kills a run at random times and checks that nothing is lost.

  python -m benchmarks.kill_soak --kills=100 --output=runs/kill_soak

Starts the smoke config with an endless number of steps, sends SIGKILL at a time
between its first import and a few steps, checks the files, and starts the same
command again without any manual repair. In the end, the run is finished and
compared with a run of the same number of steps that was not killed. Prints one
line of JSON for each kill, and a summary. After an interruption, it continues
with the existing output.
"""

import argparse
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
from sqlm_jax.run import build, train_states
from sqlm_jax.workdir import checkpoints, jsonl, rollouts

ENDLESS = 10**6
ROOT = pathlib.Path(__file__).parent.parent


class Remains(NamedTuple):
  """The state of a workdir after its process was killed."""

  steps: int  # number of steps in metrics.jsonl
  saved: int  # step of the newest checkpoint, 0 if there is none
  saving: bool  # True if a checkpoint was being written


def start(workdir: pathlib.Path, num_steps: int) -> subprocess.Popen:
  """Starts a training process; its compilation cache is next to the workdir."""
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
  """Finishes a run; raises RuntimeError with the end of its log on failure."""
  if start(workdir, num_steps).wait():
    log = (workdir.parent / f'{workdir.name}.log').read_text()
    raise RuntimeError(f'{workdir} did not finish: {log[-2000:]}')


def kill_once(
  workdir: pathlib.Path, after: float, min_steps: int
) -> float | None:
  """Starts a run and kills it.

  Args:
    workdir: the run's workdir.
    after: seconds from the start until the process is killed.
    min_steps: number of steps before the process is killed, even if it takes
      longer.

  Returns:
    Seconds from the start to the first step, None if there was no step.
  """
  process, begun = start(workdir, ENDLESS), time.monotonic()
  first, steps, last = None, 0, modified(workdir)
  while (elapsed := time.monotonic() - begun) < after or steps < min_steps:
    if process.poll() is not None:
      log = (workdir.parent / f'{workdir.name}.log').read_text()
      raise RuntimeError(f'the run ended before it was killed: {log[-2000:]}')
    if (now := modified(workdir)) > last:
      last, steps, first = now, steps + 1, first or elapsed
    time.sleep(0.02)
  os.killpg(process.pid, signal.SIGKILL)
  process.wait()
  return first


def modified(workdir: pathlib.Path) -> int:
  """Returns the time of the last written step in nanoseconds."""
  times = (x.stat().st_mtime_ns for x in workdir.glob('rollouts/*.parquet'))
  return max(times, default=0)


def inspect(workdir: pathlib.Path, config: config_lib.Config) -> Remains:
  """Reads all files of a killed process.

  Raises:
    RuntimeError: if a line or a file is missing, or if there are fewer lines
      than saved steps.
  """
  path = workdir / 'metrics.jsonl'
  rows = jsonl.read(path) if path.exists() else []
  if [row['step'] for row in rows] != list(range(len(rows))):
    raise RuntimeError(f'{path}: expected one line for each step')
  files = rollouts.files(workdir, before=len(rows))
  if len(files) != len(rows):
    raise RuntimeError(f'{workdir}: expected a rollout file for each step')
  for file in files:
    parquet.read_metadata(file)
  directory = workdir / 'checkpoints'
  if not directory.exists():
    return Remains(len(rows), 0, False)
  saving = any('tmp' in path.name for path in directory.iterdir())
  with checkpoints.open_checkpoints(directory, read_only=True) as manager:
    saved = checkpoints.latest_step(manager) or 0
    if saved:
      checkpoints.restore(manager, abstract(config), step=saved)
  if saved > len(rows):
    raise RuntimeError(
      f'{path}: {saved} steps are saved, but only {len(rows)} lines'
    )
  return Remains(len(rows), saved, saving)


def abstract(config: config_lib.Config):
  return train_states.abstract_states(build.build(config))


def soak(
  output: pathlib.Path,
  *,
  kills: int,
  seed: int = 0,
  first: float = 30.0,
  min_steps: int = 0,
  report: Callable[[str], None] = lambda line: None,
) -> dict[str, int]:
  """Kills a run repeatedly, finishes it, and compares it with another run.

  Args:
    output: a directory; an earlier soak in this directory is continued.
    kills: the number of kills.
    seed: the random seed of the kill times.
    first: initial estimate of the seconds from the start to the first step;
      replaced by measurements.
    min_steps: the minimum number of steps of a process before it is killed.
    report: called with one line for each kill.

  Returns:
    The number of kills by the phase of the run that they interrupted, and the
    totals of kills and steps.

  Raises:
    RuntimeError: if data is lost.
  """
  output.mkdir(parents=True, exist_ok=True)
  workdir, undisturbed = output / 'killed', output / 'undisturbed'
  config = config_lib.from_dict(smoke.get_config().to_dict())
  rng, left = random.Random(seed), Remains(0, 0, False)
  phases = dict.fromkeys(('before a step', 'in a step', 'while saving'), 0)
  for kill in range(kills):
    # Adapts to the machine: half of all kills are after the first step.
    after = rng.uniform(0, 2 * first)
    first_step = kill_once(workdir, after, min_steps)
    first = first_step or 1.1 * first
    last, left = left, inspect(workdir, config)
    if left.saved < last.saved:
      raise RuntimeError(f'{workdir}: checkpoint {last.saved} is missing')
    if first_step is None:
      phases['before a step'] += 1
    else:
      phases['while saving' if left.saving else 'in a step'] += 1
    report(json.dumps({'kill': kill, 'second': after} | left._asdict()))
  finish(workdir, left.steps + 2)
  finish(undisturbed, left.steps + 2)
  compare(workdir, undisturbed, config)
  return phases | {'kills': kills, 'steps': left.steps + 2}


def compare(killed: pathlib.Path, undisturbed: pathlib.Path, config) -> None:
  """Raises AssertionError unless two workdirs are equal, except for times."""

  def lines(workdir, name):
    rows = jsonl.read(workdir / name)
    return [
      {k: v for k, v in row.items() if not k.startswith(('time/', 'seconds'))}
      for row in rows
    ]

  def restored(workdir):
    directory = workdir / 'checkpoints'
    with checkpoints.open_checkpoints(directory, read_only=True) as manager:
      steps = sorted(manager.all_steps())
      found = checkpoints.restore(manager, abstract(config), step=steps[-1])
      return (steps, checkpoints.best_step(manager)), jax.device_get(found)

  for name in ('metrics.jsonl', 'eval.jsonl'):
    assert lines(killed, name) == lines(undisturbed, name), name
  tables = [
    parquet.read_table(workdir / 'rollouts')
    for workdir in (killed, undisturbed)
  ]
  assert tables[0].equals(tables[1]), 'rollouts'
  (kept, state), (expected_kept, expected) = (
    restored(killed),
    restored(undisturbed),
  )
  assert kept == expected_kept, 'checkpoints that are kept'
  assert (state[0], state[2]) == (expected[0], expected[2]), 'host state'
  jax.tree.map(np.testing.assert_array_equal, state[1], expected[1])


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--kills', type=int, default=100)
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--output', type=pathlib.Path, required=True)
  options = parser.parse_args()
  begun = time.monotonic()
  result = soak(
    options.output,
    kills=options.kills,
    seed=options.seed,
    report=lambda line: print(line, flush=True),
  )
  print(json.dumps(result | {'seconds': round(time.monotonic() - begun)}))


if __name__ == '__main__':
  main()
