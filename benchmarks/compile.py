"""Measures the time to the first step, and counts compilations.

  python -m benchmarks.compile

Runs configs/quickstart.py as a user would, each run in its own process, and
ends it after its first step. The model's file is already available. The runs
alternate between:

- none: without jax's persistent compilation cache
- cold: with the cache in an empty directory, as on a first start
- warm: with the cache that `cold` has filled

Before the first step, the quickstart evaluates the model on its two evaluation
sets, which is part of the user's waiting time. The benchmark measures the
seconds from the command until the evaluations are written, and until the first
step is written.

--steps=20 then plays 20 steps in one process (0: none) and counts the
compilations by the number of steps played before them.
"""

import argparse
import collections
import json
import pathlib
import subprocess
import sys
import tempfile
import time

from benchmarks import pairs

MARKS = {'evaluated': ('eval.jsonl', 2), 'first_step': ('metrics.jsonl', 1)}


def lines(path: pathlib.Path) -> int:
  """Returns the number of complete lines of a file, 0 if it does not exist."""
  return path.read_bytes().count(b'\n') if path.exists() else 0


def run_to_first_step(
  flags: list[str], *, patience: float = 1800
) -> dict[str, float]:
  """Returns the seconds from the command to each of `MARKS`; ends the run.

  Raises:
    RuntimeError: if the run ends earlier, or takes longer than `patience`.
  """
  with tempfile.TemporaryDirectory() as temporary:
    workdir = pathlib.Path(temporary) / 'run'
    command = [sys.executable, '-m', 'sqlm_jax.main', *flags]
    command += [f'--workdir={workdir}']
    start, reached = time.perf_counter(), {}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
      while len(reached) < len(MARKS):
        seconds = time.perf_counter() - start
        for name, (file, count) in MARKS.items():
          if name not in reached and lines(workdir / file) >= count:
            reached[name] = seconds
        if process.poll() is not None or seconds > patience:
          raise RuntimeError(f'{command}: ended without a first step')
        time.sleep(0.02)
    finally:
      process.kill()
      process.wait()
  return reached


def count(flags: list[str], steps: int) -> dict[str, int]:
  """Returns the number of compilations of a run by steps played before them."""
  with tempfile.TemporaryDirectory() as temporary:
    result = pathlib.Path(temporary) / 'result.json'
    command = [sys.executable, '-m', 'benchmarks.compile']
    command += ['--count', str(result), f'--workdir={temporary}/run', *flags]
    command += [f'--config.num_steps={steps}', '--compilation_cache=off']
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return json.loads(result.read_text())


def count_here(result: pathlib.Path, flags: list[str]) -> None:
  """Runs the command line in this process and counts jax's compilations."""
  import jax
  from absl import app

  from sqlm_jax import main as program

  counts = collections.Counter()
  (workdir,) = [
    pathlib.Path(flag.partition('=')[2])
    for flag in flags
    if flag.startswith('--workdir=')
  ]

  def listen(event, *_, **__):
    if event == '/jax/core/compile/backend_compile_duration':
      counts[lines(workdir / 'metrics.jsonl')] += 1

  jax.monitoring.register_event_duration_secs_listener(listen)
  sys.argv = ['sqlm_jax', *flags]
  try:
    app.run(program.main, argv=sys.argv, flags_parser=program.parse_flags)
  finally:
    result.write_text(json.dumps(counts))


def time_to_first_step(args: argparse.Namespace, flags: list[str]) -> None:
  """Measures and prints the time to the first step for each kind of cache."""
  measured = {name: {mark: [] for mark in MARKS} for name in args.sides}
  for _ in range(args.repeats):
    with tempfile.TemporaryDirectory() as temporary:
      caches = {'none': 'off', 'cold': temporary, 'warm': temporary}
      for name in args.sides:
        marks = run_to_first_step(
          [*flags, f'--compilation_cache={caches[name]}']
        )
        for mark, seconds in marks.items():
          measured[name][mark].append(seconds)
  result = {'flags': flags}
  for name, marks in measured.items():
    result[name] = {mark: pairs.spread(s) for mark, s in marks.items()}
  parts = [
    f'{name} {pairs.summarize(marks["first_step"])} s '
    f'(evaluated after {pairs.summarize(marks["evaluated"])} s)'
    for name, marks in measured.items()
  ]
  pairs.show('compile', result, f'first step played: {", ".join(parts)}')


def main() -> None:
  if sys.argv[1:2] == ['--count']:
    count_here(pathlib.Path(sys.argv[2]), sys.argv[3:])
    return
  parser = argparse.ArgumentParser(
    description=__doc__, epilog='Other flags go to sqlm_jax.main.'
  )
  add = parser.add_argument
  add('--sides', default=['none', 'cold', 'warm'], nargs='+')
  add(
    '--steps',
    default=20,
    type=int,
    help='number of steps in which compilations are counted',
  )
  add('--repeats', default=5, type=int)
  args, flags = parser.parse_known_args()
  if not any(flag.startswith('--config=') for flag in flags):
    flags.insert(0, '--config=configs/quickstart.py')
  if args.repeats:
    time_to_first_step(args, flags)
  if args.steps:
    counts = count(flags, args.steps)
    late = {step: n for step, n in counts.items() if int(step)}
    total = sum(counts.values())
    line = (
      f'{total} programs in {args.steps} steps; by the number of steps before '
      f'them: {late}'
    )
    result = {'flags': flags, 'steps': args.steps, 'programs': total}
    pairs.show('compile', result | {'after_steps': counts}, line)


if __name__ == '__main__':
  main()
