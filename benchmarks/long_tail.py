"""What do a few long responses cost the many short ones?

  python -m benchmarks.long_tail

Random weights in the shapes of a published model write 128 responses whose
lengths have a heavy tail: quantiles of a Pareto distribution, the longest 10
times the median. Compared, in turn, in one process, on the same random keys:

- packed: the sampler as it is
- static: the same with `static=True`, where every row is kept until the last
  response has ended, as static batching does

Both write responses of the same lengths; that is checked. (The tokens are not
quite the same: to random weights tens of thousands of tokens are about equally
likely, and products of other shapes round otherwise.) Measured: useful tokens
(those of the responses) a second, and the ratio of each pair.
"""

import argparse

import numpy as np

from benchmarks import models, pairs, rollouts
from sqlm_jax.engine import sampler


def heavy_tail(count: int, median: int, ratio: float) -> np.ndarray:
  """Lengths at evenly spaced quantiles of a Pareto distribution.

  The quantile function is `median (2 (1 - u))^(-1/a)`; at the last of
  `u = (i + 1/2) / count` it is `count^(1/a)` medians, which gives a.
  """
  quantiles = (np.arange(count) + 0.5) / count
  power = np.log(ratio) / np.log(count)
  lengths = median * (2 * (1 - quantiles)) ** -power
  return np.maximum(np.round(lengths), 1).astype(int)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  add = parser.add_argument
  add('--model', default='smollm2-135m', choices=models.SHAPES)
  add('--dtype', default='float32', choices=('float32', 'bfloat16'))
  add('--groups', default=16, type=int)
  add('--group_size', default=8, type=int)
  add('--median', default=32, type=int, help='tokens of a response')
  add('--ratio', default=10.0, type=float, help='of the longest to the median')
  add('--chunk', default=32, type=int, help='as sampler.chunk')
  add('--repeats', default=5, type=int)
  args = parser.parse_args()
  config = models.SHAPES[args.model]
  sampling = rollouts.Sampling(config, args.dtype, chunk=args.chunk)
  prompts = models.prompts(
    args.groups, 19, shared=57, vocab_size=config.vocab_size
  )
  shape = (args.groups, args.group_size)
  lengths = heavy_tail(args.groups * args.group_size, args.median, args.ratio)
  # A long one may be anybody's.
  lengths = np.random.default_rng(0).permutation(lengths).reshape(shape)
  settings = sampling.forced(prompts, lengths)
  slots = int(settings.limit)
  static = sampler.make_sampler(
    sampling.policy, models.one_device(), chunk=args.chunk, static=True
  )
  calls = {
    'packed': sampling.call(prompts, settings, slots=slots),
    'static': sampling.call(prompts, settings, slots=slots, sample=static),
  }
  texts = {name: call() for name, call in calls.items()}
  written = texts['packed'].lengths
  if not np.array_equal(written, texts['static'].lengths):
    raise RuntimeError('the two samplers do not write the same lengths')
  found = pairs.in_turn(
    {name: pairs.seconds(call) for name, call in calls.items()}, args.repeats
  )
  rates = {name: [written.sum() / s for s in found[name]] for name in found}
  ratios = pairs.ratios(found['static'], found['packed'])
  result = {
    'model': args.model,
    'dtype': args.dtype,
    'groups': args.groups,
    'group_size': args.group_size,
    'tokens': int(written.sum()),
    'median_length': float(np.median(written)),
    'longest': int(written.max()),
    'seconds': {name: pairs.spread(s) for name, s in found.items()},
    'tokens_per_second': {name: pairs.spread(r) for name, r in rates.items()},
    'ratio': pairs.spread(ratios),
  }
  line = (
    f'{written.size} responses, median {np.median(written):.0f}, longest '
    f'{written.max()}: packed {pairs.tell(rates["packed"])} tokens/s, static '
    f'{pairs.tell(rates["static"])}, ratio {pairs.tell(ratios)}'
  )
  pairs.show('long_tail', result, line)


if __name__ == '__main__':
  main()
