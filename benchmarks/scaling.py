"""Measures whether time grows faster than the number of operations.

  python -m benchmarks.scaling --output=runs/scaling

Varies one size at a time (answers per question, questions, prompt tokens,
answer tokens, width of the model), with the other sizes constant, and measures
sampling and one update alternately for all values. The model has random weights
in float32 and few layers.

The exponent is the slope of log seconds over log size. The work's exponent is
the slope of log operations over log size (`benchmarks/work.py`). Writes a plot
(scaling.png, scaling.svg) and prints a line for each size.
"""

import argparse
import pathlib
from collections.abc import Callable, Sequence

import jax
import numpy as np

from benchmarks import learning, models, pairs, rollouts, work
from sqlm_jax.config import training_schema
from sqlm_jax.distributed import transfers
from sqlm_jax.engine import learner, optimizer, policy_loss
from sqlm_jax.models import model_config

# Name -> values, including the base value. Prompts have no common prefix.
SIZES = {
  'group_size': (2, 4, 8, 16, 32),
  'groups': (4, 8, 16, 32),
  'own': (32, 64, 128, 256),
  'response': (16, 32, 64, 128),
  'width': (256, 512, 768, 1024),
}
ABOUT = {
  'group_size': 'answers per question',
  'groups': 'questions',
  'own': 'prompt tokens',
  'response': 'answer tokens',
  'width': 'width of the model',
}
BASE = work.Groups(groups=8, group_size=4, shared=0, own=64, response=32)
BASE_WIDTH = 512


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
  """Returns the least-squares slope of log cost over log size."""
  slope, _ = np.polyfit(np.log(sizes), np.log(costs), 1)
  return float(slope)


def make_config(width: int, layers: int) -> model_config.ModelConfig:
  """Returns the config of a Llama with the given width and heads of 64."""
  return model_config.ModelConfig(
    vocab_size=16384,
    num_layers=layers,
    width=width,
    mlp_width=3 * width,
    num_heads=width // 64,
    num_kv_heads=width // 64,
    head_width=64,
  )


def make_calls(
  config: model_config.ModelConfig, size: work.Groups
) -> dict[str, Callable]:
  """Returns compiled functions for sampling and for one update."""
  sampling = rollouts.Sampling(config)
  mesh = models.one_device()
  sample = sampling.call(
    models.prompts(size.groups, size.own, vocab_size=config.vocab_size),
    models.endless(size.group_size, config.vocab_size, size.response),
    slots=size.response,
  )
  optimize = optimizer.make_optimizer(
    training_schema.Optimizer(weight_decay=0.0)
  )
  step = learner.make_train_step(
    sampling.policy,
    optimize,
    mesh,
    policy_loss.LossSettings(),
    groups_per_microbatch=4,
  )
  state = models.random_state(sampling.policy, optimize, mesh)
  batch = transfers.put_rows(learning.make_batch(size, config.vocab_size), mesh)

  def learn():
    nonlocal state
    state, metrics = step(state, batch, None)
    jax.block_until_ready((state, metrics))

  calls = {'sample': sample, 'learn': learn}
  for call in calls.values():
    call()
  return calls


def sweep(name: str, values: Sequence[int], args) -> dict:
  """Measures seconds and computes operations for all values of one size."""
  layouts = {}
  for value in values:
    width = value if name == 'width' else BASE_WIDTH
    size = BASE if name == 'width' else BASE._replace(**{name: value})
    layouts[value] = (make_config(width, args.layers), size)
  calls = {value: make_calls(*layout) for value, layout in layouts.items()}
  flops = {'sample': work.forward_flops, 'learn': work.update_flops}
  parts = {}
  for part, count in flops.items():
    seconds = pairs.in_turn(
      {value: pairs.seconds(calls[value][part]) for value in values},
      args.repeats,
    )
    medians = [float(np.median(seconds[value])) for value in values]
    operations = [count(*layouts[value]) for value in values]
    parts[part] = {
      'seconds': {value: pairs.spread(seconds[value]) for value in values},
      'medians': medians,
      'exponent': exponent(values, medians),
      'work_exponent': exponent(values, operations),
      'work': operations,
    }
  return parts


def plot(sizes: dict[str, dict], output: pathlib.Path) -> None:
  """Plots a panel for each size, with seconds and operations.

  The curves of the operations are scaled to meet the seconds at the largest
  value.
  """
  import matplotlib

  matplotlib.use('Agg')
  from matplotlib import pyplot

  figure, axes = pyplot.subplots(
    1, len(sizes), figsize=(3.2 * len(sizes), 3.4), squeeze=False
  )
  for axis, (name, parts) in zip(axes[0], sizes.items(), strict=True):
    for part, color in (('sample', 'C0'), ('learn', 'C1')):
      measured = parts[part]
      values = list(measured['seconds'])
      exponents = measured['exponent'], measured['work_exponent']
      label = f'{part}: {exponents[0]:.2f}, work {exponents[1]:.2f}'
      axis.loglog(values, measured['medians'], 'o-', color=color, label=label)
      scale = measured['medians'][-1] / measured['work'][-1]
      line = [scale * operations for operations in measured['work']]
      axis.loglog(values, line, ':', color=color)
    axis.set_xticks(values, [str(value) for value in values])
    axis.minorticks_off()
    axis.set_xlabel(ABOUT[name])
    axis.legend(fontsize=7)
  axes[0][0].set_ylabel('seconds; dotted: the work')
  figure.tight_layout()
  for kind in ('png', 'svg'):
    figure.savefig(output / f'scaling.{kind}', dpi=150)
  pyplot.close(figure)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  add = parser.add_argument
  add('--output', type=pathlib.Path, required=True, help='for the plot')
  add('--sizes', default=list(SIZES), nargs='+', choices=SIZES)
  add(
    '--values',
    type=int,
    nargs='+',
    help='values of the size, instead of the default',
  )
  add('--layers', default=6, type=int)
  add('--repeats', default=5, type=int)
  args = parser.parse_args()
  args.output.mkdir(parents=True, exist_ok=True)
  sizes = {}
  for name in args.sizes:
    sizes[name] = sweep(name, args.values or SIZES[name], args)
    parts = [
      f'{part} {measured["exponent"]:.2f} '
      f'(work {measured["work_exponent"]:.2f})'
      for part, measured in sizes[name].items()
    ]
    pairs.show(
      'scaling',
      {'size': name, 'layers': args.layers} | BASE._asdict() | sizes[name],
      f'{ABOUT[name]}: exponents {", ".join(parts)}',
    )
  plot(sizes, args.output)


if __name__ == '__main__':
  main()
