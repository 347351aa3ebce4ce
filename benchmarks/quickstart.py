"""Creates README's table and picture of majority rewards and random rewards.

  python -m benchmarks.quickstart --output=runs/benchmark
  python -m benchmarks.quickstart --output=runs/picture --tasks addition \
      --every=1 --plot=docs/images/quickstart.svg

Runs the quickstart configs as a user would, each run in its own process, with
three seeds each, and again with random rewards. A finished run is not repeated,
so the benchmark can be interrupted and restarted. Prints one line of JSON for
each run, and the table in Markdown. With `--plot`, also draws the accuracy on
the validation set after every `--every` steps.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import time

import matplotlib as mpl
from matplotlib import figure

from benchmarks import pairs

CONFIGS = {
  'addition': 'configs/quickstart.py',
  'multiplication': 'configs/quickstart_multiplication.py',
}
FIGURES = ('mean@4', 'greedy')
REWARDS = {'majority': 'majority vote', 'random': 'random rewards'}
# Colors, markers and line styles that differ in black and white, too.
STYLES = {
  'majority': {'color': '#0072B2', 'marker': 'o', 'linestyle': '-'},
  'random': {'color': '#D55E00', 'marker': 's', 'linestyle': '--'},
}


def run_once(
  config: str,
  reward: str,
  seed: int,
  workdir: pathlib.Path,
  *,
  every: int | None = None,
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
  if every is not None:
    command.append(f'--config.evaluation.every={every}')
  start = time.perf_counter()
  subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
  seconds = time.perf_counter() - start
  records = evaluations(workdir, 'test')
  row = {'config': config, 'reward': reward, 'seed': seed}
  row |= {'steps': records[-1]['step'], 'seconds': seconds}
  for name, record in (('before', records[0]), ('after', records[-1])):
    row |= {f'{name}_{key}': record[key] for key in FIGURES}
  result.write_text(json.dumps(row))
  return row


def evaluations(workdir: pathlib.Path, name: str) -> list[dict]:
  """Returns the results of a run on an evaluation set, in order of steps."""
  lines = (workdir / 'eval.jsonl').read_bytes().splitlines()
  results = map(json.loads, lines)
  return [result for result in results if result['set'] == name]


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


def plot(
  curves: dict[tuple[str, str], list[list[dict]]], path: pathlib.Path
) -> None:
  """Draws the accuracy of sampled answers after each step.

  Args:
    curves: For each task and reward, the evaluations of each seed.
    path: File to write, such as an SVG or PNG file.
  """
  tasks = list(dict.fromkeys(task for task, _ in curves))
  drawn = figure.Figure(figsize=(6.4 * len(tasks), 3.8), layout='constrained')
  all_axes = drawn.subplots(1, len(tasks), squeeze=False)[0]
  panels = dict(zip(tasks, all_axes, strict=True))
  for (task, reward), seeds in curves.items():
    axes, style = panels[task], STYLES[reward]
    steps = [result['step'] for result in seeds[0]]
    values = [[result['mean@4'] for result in results] for results in seeds]
    for row in values:
      axes.plot(steps, row, **style | {'marker': ''}, linewidth=1, alpha=0.45)
    means = [statistics.mean(column) for column in zip(*values, strict=True)]
    name = f'{REWARDS[reward]} (mean of {len(seeds)} seeds)'
    axes.plot(steps, means, **style, linewidth=2.5, markersize=5, label=name)
  for task, axes in panels.items():
    axes.set_title(f'SmolLM2-135M learns one-digit {task} without labels')
    axes.set_xlabel('steps of self-play')
    axes.set_ylabel('right answers')
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter('{x:.0%}')
    axes.grid(axis='y', color='#dddddd', linewidth=0.8)
    axes.spines[['top', 'right']].set_visible(False)
  names = all_axes[0].get_legend_handles_labels()
  drawn.legend(*names, loc='outside lower center', ncols=2, frameon=False)
  path.parent.mkdir(parents=True, exist_ok=True)
  # A fixed salt and no date make an SVG file deterministic.
  with mpl.rc_context({'svg.hashsalt': 'sqlm_jax'}):
    metadata = {'Date': None} if path.suffix == '.svg' else None
    drawn.savefig(path, dpi=150, metadata=metadata)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--output', default='runs/benchmark', type=pathlib.Path)
  parser.add_argument('--seeds', default=[0, 1, 2], type=int, nargs='+')
  parser.add_argument('--rewards', default=list(REWARDS), nargs='+')
  parser.add_argument('--tasks', default=list(CONFIGS), nargs='+')
  parser.add_argument('--every', type=int, help='evaluation.every of the runs')
  parser.add_argument('--plot', type=pathlib.Path, help='file of the picture')
  args = parser.parse_args()
  rows = []
  curves: dict[tuple[str, str], list[list[dict]]] = {}
  for seed in args.seeds:
    for task in args.tasks:
      for reward in args.rewards:
        workdir = args.output / f'{task}_{reward}_{seed}'
        rows.append(
          run_once(CONFIGS[task], reward, seed, workdir, every=args.every)
        )
        curve = evaluations(workdir, 'validation')
        curves.setdefault((task, reward), []).append(curve)
        print(json.dumps(rows[-1]), flush=True)
  print(f'\n{pairs.machine()}\n\n{table(rows)}')
  if args.plot:
    plot(curves, args.plot)


if __name__ == '__main__':
  main()
