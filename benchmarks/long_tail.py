"""Measures the cost of a few long responses among many short ones.

  python -m benchmarks.long_tail

A model with random weights in the shapes of a published model samples 128
responses with heavy-tailed lengths and learns from responses of these lengths:
quantiles of a Pareto distribution, of which the longest is 10 times the median.
Alternates in one process between:

- sampling, packed: the default sampler
- sampling, static: the sampler with `static=True` and the same random keys. It
  keeps every row until the last response has ended, as in static batching
- learning, packed: an update with AdamW on packed tokens
- learning, static: an update with AdamW on rows padded to the longest response

Checks that both samplers generate responses of the same lengths. (The tokens
may differ: with random weights, tens of thousands of tokens have similar
probabilities, and products of other shapes round differently.) Measures useful
tokens, those of the responses, per second, and the ratio of each pair.
"""

import argparse
import functools
from collections.abc import Callable

import jax
import numpy as np

from benchmarks import learning, models, pairs, rollouts, work
from sqlm_jax.distributed import transfers
from sqlm_jax.engine import learner, optimizer, policy_loss, sampler
from sqlm_jax.models import policy as policy_lib
from sqlm_jax.selfplay import packing_plan

OWN, SHARED = 19, 57  # tokens of a prompt: its own, and common to all prompts


def heavy_tail(count: int, median: int, ratio: float) -> np.ndarray:
  """Returns lengths at evenly spaced quantiles of a Pareto distribution.

  The quantile function is `median (2 (1 - u))^(-1/a)`. At the last of the
  quantiles `u = (i + 1/2) / count`, it is `count^(1/a)` times the median. The
  shape a follows from setting this factor to `ratio`.
  """
  quantiles = (np.arange(count) + 0.5) / count
  power = np.log(ratio) / np.log(count)
  lengths = median * (2 * (1 - quantiles)) ** -power
  return np.maximum(np.round(lengths), 1).astype(int)


def sampling_sides(
  args: argparse.Namespace, lengths: np.ndarray
) -> dict[str, Callable]:
  """Returns compiled functions that sample all responses, by name.

  Raises:
    RuntimeError: if the two samplers generate different lengths.
  """
  config = models.SHAPES[args.model]
  sampling = rollouts.Sampling(config, args.dtype, chunk=args.chunk)
  prompts = models.prompts(
    args.groups, OWN, shared=SHARED, vocab_size=config.vocab_size
  )
  settings = sampling.forced(prompts, lengths)
  slots = int(settings.limit)
  static = sampler.Sampler(
    sampling.policy, models.one_device(), chunk=args.chunk, static=True
  )
  calls = {
    'packed': sampling.call(prompts, settings, slots=slots),
    'static': sampling.call(prompts, settings, slots=slots, sample=static),
  }
  texts = {name: call() for name, call in calls.items()}
  if not np.array_equal(texts['packed'].lengths, texts['static'].lengths):
    raise RuntimeError('the two samplers do not write the same lengths')
  return calls


def learning_sides(
  args: argparse.Namespace, lengths: np.ndarray
) -> dict[str, Callable]:
  """Returns compiled functions that take one optimizer step, by name."""
  config = models.SHAPES[args.model]
  mesh = models.one_device()
  policy = policy_lib.make_policy(
    config, dtype=args.dtype, remat='dots', mesh=mesh
  )
  size = work.Groups(*lengths.shape, SHARED, OWN, int(lengths.max()))
  padded = learning.make_batch(size, config.vocab_size)._replace(
    lengths=lengths.astype(np.int32),
    weights=np.full(lengths.shape, 1 / lengths.sum(), np.float32),
  )
  at_once = args.groups_per_microbatch
  sides = {
    'packed': packing_plan.pack_batch(
      padded, packing_plan.Layout(at_once, shards=1)
    ),
    'static': padded,
  }
  adam = optimizer.make_optimizer(learning_rate=1e-6)
  step = learner.make_train_step(
    policy,
    adam,
    mesh,
    policy_loss.LossSettings(),
    groups_per_microbatch=at_once,
  )
  # Both sides share one state because two states might not fit into memory.
  state = models.random_state(policy, adam, mesh)

  def call(batch):
    nonlocal state
    state, metrics = step(state, batch, None)
    jax.block_until_ready((state, metrics))

  calls = {
    name: functools.partial(call, transfers.put_rows(batch, mesh))
    for name, batch in sides.items()
  }
  for one in calls.values():
    one()
  return calls


SIDES = {'sampling': sampling_sides, 'learning': learning_sides}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  add = parser.add_argument
  add('--work', default=list(SIDES), nargs='+', choices=SIDES)
  add('--model', default='smollm2-135m', choices=models.SHAPES)
  add('--dtype', default='float32', choices=('float32', 'bfloat16'))
  add('--groups', default=16, type=int)
  add('--group_size', default=8, type=int)
  add('--median', default=32, type=int, help='tokens of a response')
  add('--ratio', default=10.0, type=float, help='of the longest to the median')
  add('--chunk', default=32, type=int, help='as sampler.chunk')
  add('--groups_per_microbatch', default=4, type=int)
  add('--repeats', default=5, type=int)
  args = parser.parse_args()
  lengths = heavy_tail(args.groups * args.group_size, args.median, args.ratio)
  # Distributes the long responses randomly over the groups.
  lengths = np.random.default_rng(0).permutation(lengths)
  lengths = lengths.reshape(args.groups, args.group_size)
  told = f'{lengths.size} responses, median {np.median(lengths):.0f}, longest'
  for name in args.work:
    calls = SIDES[name](args, lengths)
    found = pairs.in_turn(
      {side: pairs.seconds(call) for side, call in calls.items()}, args.repeats
    )
    rates = {side: [lengths.sum() / s for s in found[side]] for side in found}
    ratios = pairs.ratios(found['static'], found['packed'])
    result = {
      'work': name,
      'model': args.model,
      'dtype': args.dtype,
      'groups': args.groups,
      'group_size': args.group_size,
      'tokens': int(lengths.sum()),
      'median_length': float(np.median(lengths)),
      'longest': int(lengths.max()),
      'seconds': {side: pairs.spread(s) for side, s in found.items()},
      'tokens_per_second': {side: pairs.spread(r) for side, r in rates.items()},
      'ratio': pairs.spread(ratios),
    }
    line = (
      f'{told} {lengths.max()}: {name}, packed {pairs.tell(rates["packed"])} '
      f'tokens/s, static {pairs.tell(rates["static"])}, ratio '
      f'{pairs.tell(ratios)}'
    )
    pairs.show('long_tail', result, line)


if __name__ == '__main__':
  main()
