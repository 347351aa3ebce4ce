"""Measures how many programs per second a sandbox runs.

  python -m benchmarks.sandbox

Runs programs with five tests each, one in ten of which is hostile, and measures
the time of a program that runs alone. Prints a line of JSON and a line of text
for each repetition, and a summary.
"""

import argparse
import json
import os
import pathlib
import platform
import statistics
import subprocess
import time

from sqlm_jax.game import types
from sqlm_jax.sandbox import sandbox

HONEST = (
  'a, b = map(int, input().split())\nprint(a + b)',
  'import sys\nprint(sum(map(int, sys.stdin.read().split())))',
  'import math\nx = [int(w) for w in input().split()]\n'
  'print(math.gcd(*x) * 0 + x[0] + x[1])',
  'from collections import Counter\nc = Counter(input().split())\n'
  'print(sum(int(w) * n for w, n in c.items()))',
)
# Used in turn because the cost of a hostile program depends on how it ends.
HOSTILE = (
  "open('/etc/passwd').read()",
  'import os\nwhile True: os.fork()',
  "x = 'a' * 10**10",
  "while True: print('a' * 10**4)",
  'import socket\nsocket.create_connection(("127.0.0.1", 22))',
  'import os\nos.kill(1, 9)\nos.killpg(0, 9)',
  'def f(): f()\nf()',
  'import sys\nsys.exit(0)',
  "i = 0\nwhile True: open(str(i), 'w').close(); i += 1",
  'while True: pass',
)


def programs(count: int, one_in: int) -> list[sandbox.Program]:
  """Returns programs that add two numbers; one of `one_in` is hostile."""
  tests = [types.TestCase(f'{i} {7 * i}\n', f'{8 * i}\n') for i in range(1, 6)]
  rows = []
  for i in range(count):
    hostile = one_in and i % one_in == one_in - 1
    kind = HOSTILE if hostile else HONEST
    rows.append((kind[i // (one_in or 1) % len(kind)], tests))
  return rows


def check(rows: list[sandbox.Program], all_results: list) -> None:
  for (source, _), results in zip(rows, all_results, strict=True):
    passed = {result.status == 'passed' for result in results}
    if passed != {source in HONEST}:
      raise RuntimeError(f'{source!r}: {results}')


def measure(
  runner: sandbox.Sandbox, rows: list[sandbox.Program]
) -> dict[str, float]:
  """Measures programs per second, and the seconds of each program alone."""
  start = time.perf_counter()
  check(rows, runner.run(rows))
  together = time.perf_counter() - start
  latencies = []
  for row in rows[: len(rows) // 2]:
    start = time.perf_counter()
    check([row], runner.run([row]))
    latencies.append(time.perf_counter() - start)
  return {
    'programs_per_second': round(len(rows) / together, 1),
    'latency_median': round(statistics.median(latencies), 4),
    'latency_worst': round(max(latencies), 4),
    'load': round(os.getloadavg()[0], 1),
  }


def machine() -> dict[str, str | int]:
  lines = pathlib.Path('/proc/cpuinfo').read_text().splitlines()
  named = [line for line in lines if line.startswith('model name')]
  version = subprocess.run(['bwrap', '--version'], capture_output=True)
  return {
    'processor': named[0].partition(': ')[2] if named else platform.machine(),
    'cores': os.cpu_count(),
    'kernel': platform.release(),
    'python': platform.python_version(),
    'bubblewrap': version.stdout.decode().split()[-1],
  }


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--programs', default=200, type=int)
  parser.add_argument('--hostile_one_in', default=10, type=int)
  parser.add_argument('--repetitions', default=5, type=int)
  parser.add_argument('--workers', default=os.cpu_count(), type=int)
  parser.add_argument('--cpu_seconds', default=0.5, type=float)
  args = parser.parse_args()
  rows = programs(args.programs, args.hostile_one_in)
  limits = sandbox.Limits(cpu_seconds=args.cpu_seconds, wall_seconds=2.0)
  settings = vars(args) | {'tests': 5} | machine()
  measured = []
  with sandbox.open_sandbox(workers=args.workers, limits=limits) as runner:
    runner.run(rows[:20])  # warms the disk cache
    for _ in range(args.repetitions):
      measured.append(measure(runner, rows))
      print(json.dumps(settings | measured[-1]))
      print(
        '{programs_per_second} programs/s, alone {latency_median} s '
        '(worst {latency_worst} s), load {load}'.format(**measured[-1]),
        flush=True,
      )
  speeds = [m['programs_per_second'] for m in measured]
  print(
    f'median {statistics.median(speeds)} programs/s '
    f'({min(speeds)}-{max(speeds)}) of {len(speeds)} repetitions'
  )


if __name__ == '__main__':
  main()
