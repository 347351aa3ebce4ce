"""Creates the README's table of majority rewards and random rewards.

  python -m benchmarks.quickstart --output=runs/benchmark

Runs the quickstart configs as a user would, each run in its own process, with
three seeds each, and again with random rewards. A finished run is not repeated,
so the benchmark can be interrupted and restarted. Prints one line of JSON for
each run, and the table in Markdown.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import time

from benchmarks import pairs

CONFIGS = {
  'addition': 'configs/quickstart.py',
  'multiplication': 'configs/quickstart_multiplication.py',
}
FIGURES = ('mean@4', 'greedy')
REWARDS = {'majority': 'majority vote', 'random': 'random rewards'}


def run_once(
  config: str, reward: str, seed: int, workdir: pathlib.Path
) -> dict:
  """Trains in a separate process; returns accuracies, steps and seconds."""
  result = workdir / 'result.json'
  if result.exists():
    return json.loads(result.read_text())
  command = [sys.executable, '-m', 'sqlm_jax.main', f'--config={config}']
  command += [f'--workdir={workdir}', f'--config.seed={seed}']
  command += [
    f'--config.solver.rewards.{name}={float(name == reward)}'
    for name in ('majority', reward)
  ]
  start = time.perf_counter()
  subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
  seconds = time.perf_counter() - start
  lines = (workdir / 'eval.jsonl').read_bytes().splitlines()
  records = [json.loads(line) for line in lines]
  records = [record for record in records if record['set'] == 'test']
  row = {'config': config, 'reward': reward, 'seed': seed}
  row |= {'steps': records[-1]['step'], 'seconds': seconds}
  for name, record in (('before', records[0]), ('after', records[-1])):
    row |= {f'{name}_{key}': record[key] for key in FIGURES}
  result.write_text(json.dumps(row))
  return row


def spread(rows: list[dict], key: str, form: str = '{:.2f}') -> str:
  """Formats the mean, and the minimum and maximum in parentheses."""
  values = [row[key] for row in rows]
  mean, low, high = statistics.mean(values), min(values), max(values)
  return f'{form.format(mean)} ({form.format(low)}-{form.format(high)})'


def table(rows: list[dict]) -> str:
  """Formats a Markdown table with a line for each task and reward."""
  lines = [
    '| task | reward | seeds | mean@4 before | mean@4 after | '
    'greedy before | greedy after | seconds a run |',
    '|---|---|---|---|---|---|---|---|',
  ]
  for task, config in CONFIGS.items():
    for reward, name in REWARDS.items():
      group = [
        r for r in rows if (r['config'], r['reward']) == (config, reward)
      ]
      if group:
        cells = [task, name, ', '.join(str(r['seed']) for r in group)]
        for kind in FIGURES:
          for when in ('before', 'after'):
            cells.append(spread(group, f'{when}_{kind}'))
        cells.append(spread(group, 'seconds', '{:.0f}'))
        lines.append(f'| {" | ".join(cells)} |')
  return '\n'.join(lines)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--output', default='runs/benchmark', type=pathlib.Path)
  parser.add_argument('--seeds', default=[0, 1, 2], type=int, nargs='+')
  parser.add_argument('--rewards', default=list(REWARDS), nargs='+')
  parser.add_argument('--tasks', default=list(CONFIGS), nargs='+')
  args = parser.parse_args()
  rows = []
  for seed in args.seeds:
    for task in args.tasks:
      for reward in args.rewards:
        workdir = args.output / f'{task}_{reward}_{seed}'
        rows.append(run_once(CONFIGS[task], reward, seed, workdir))
        print(json.dumps(rows[-1]), flush=True)
  print(f'\n{pairs.machine()}\n\n{table(rows)}')


if __name__ == '__main__':
  main()
