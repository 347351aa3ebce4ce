"""Compares the speed of a learner's update with the machine's limits.

  python -m benchmarks.learning
  python -m benchmarks.learning --model=qwen2.5-0.5b --dtype=bfloat16

A model with random weights in the shapes of a published model learns from
groups of random tokens. Alternates in one process between:

- forward: log-probabilities of all responses (`policy_loss.make_logprobs`)
- backward: forward and backward pass, with an optimizer that does nothing
- update: forward and backward pass with clipping and AdamW, as in training
- square: one large matrix product, by jax and (on a CPU) by NumPy
- own: the model's own matrix products, forward and backward, each measured
  separately, with one row for each response token of a microbatch, or with a
  chunk of rows for the logits

A rate is the number of useful operations per second, as defined in
`benchmarks/work.py`. A fraction is that rate divided by the rate of `square`
(the faster of the two) or of `own` in the same round.
"""

import argparse
import collections
import math
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import models, pairs, work
from sqlm_jax.config import training_schema
from sqlm_jax.distributed import transfers
from sqlm_jax.engine import groups, learner, optimizer, policy_loss
from sqlm_jax.models import decoder, model_config
from sqlm_jax.models import policy as policy_lib

LEARNING = ('forward', 'backward', 'update')


def make_batch(size: work.Groups, vocab_size: int) -> groups.GroupBatch:
  """Returns a batch of random tokens and advantages; pads only the prompts."""
  rng = np.random.default_rng(1)
  shape = (size.groups, size.group_size, size.response)
  return groups.GroupBatch(
    prompts=models.prompts(
      size.groups, size.own, shared=size.shared, vocab_size=vocab_size
    ),
    tokens=rng.integers(vocab_size, size=shape).astype(np.int32),
    lengths=np.full(shape[:2], size.response, np.int32),
    old_logprobs=np.zeros(shape, np.float32),
    advantages=rng.choice([-1.0, 1.0], (*shape[:2], 1)).astype(np.float32),
    weights=np.full(shape[:2], 1 / np.prod(shape), np.float32),
    num_groups=np.int32(size.groups),
  )


def learning_sides(
  policy: policy_lib.Policy,
  batch: groups.GroupBatch,
  *,
  groups_per_microbatch: int,
  chunk: int,
) -> dict[str, Callable]:
  """Returns a compiled function for each of `LEARNING`, by name."""
  mesh = models.one_device()
  params = models.random_params(policy, mesh)
  logprobs = policy_loss.make_logprobs(
    policy, mesh, chunk=chunk, groups_per_microbatch=groups_per_microbatch
  )
  texts = groups.Texts(batch.prompts, batch.tokens, batch.num_groups)
  # The probability ratio is 1, as in the first update after a rollout.
  batch = batch._replace(old_logprobs=logprobs(texts, params))
  batch = transfers.put_rows(batch, mesh)

  def updates(optimize):
    step = learner.make_train_step(
      policy,
      optimize,
      mesh,
      policy_loss.LossSettings(logits_chunk=chunk),
      groups_per_microbatch=groups_per_microbatch,
    )
    state = models.random_state(policy, optimize, mesh)

    def call():
      nonlocal state
      state, metrics = step(state, batch, None)
      return jax.block_until_ready((state, metrics))

    return call

  sides = {
    'forward': lambda: jax.block_until_ready(logprobs(texts, params)),
    'backward': updates(optax.set_to_zero()),
    'update': updates(
      optimizer.make_optimizer(training_schema.Optimizer(weight_decay=0.0))
    ),
  }
  for call in sides.values():
    call()
  return sides


def product_rate(
  rows: int, inner: int, columns: int, dtype, *, min_seconds: float
):
  """Returns a function that measures operations per second of a product.

  The product is [rows, inner] @ [inner, columns]. A measurement repeats it for
  about `min_seconds` seconds.
  """
  # Random like weights, because GPUs may be faster with equal numbers.
  keys = jax.random.split(jax.random.key(0))
  a = jax.random.normal(keys[0], (rows, inner), dtype)
  b = jax.random.normal(keys[1], (inner, columns), dtype)
  multiply = jax.jit(jnp.matmul)
  flops = 2 * rows * inner * columns

  def once(count):
    start = time.perf_counter()
    for _ in range(count):
      last = multiply(a, b)
    jax.block_until_ready(last)
    return time.perf_counter() - start

  once(2)
  count = max(int(min_seconds / once(1)), 1)
  return lambda: count * flops / once(count)


def numpy_rate(size: int):
  """Returns the same for two square float32 matrices and NumPy."""
  a = np.ones((size, size), np.float32)
  np.matmul(a, a)
  return lambda: 2 * size**3 / pairs.seconds(lambda: np.matmul(a, a))()


def own_products(
  config: model_config.ModelConfig,
  size: work.Groups,
  *,
  at_once: int,
  chunk: int,
) -> dict[tuple[int, int, int], float]:
  """Returns the matrix products of a microbatch's responses.

  Returns:
    (M, K, N) -> the number of products [M, K] @ [K, N].
  """
  rows = at_once * size.group_size
  products = collections.Counter()

  def add(rows, inputs, outputs, count):
    products[rows, inputs, outputs] += count
    products[rows, outputs, inputs] += count  # gradient of the input
    products[inputs, rows, outputs] += count  # gradient of the weights

  for inputs, outputs in work.layer_products(config).values():
    read = max(rows * (size.response - 1), 1)
    add(read, inputs, outputs, config.num_layers)
  count = rows * size.response / chunk
  add(chunk, config.width, config.vocab_size, count)
  return products


def own_rate(
  products: dict[tuple[int, int, int], float], dtype, *, min_seconds: float
):
  """Returns a function that measures operations per second over all products.

  Each product is measured separately.
  """
  flops = {
    shape: 2 * math.prod(shape) * count for shape, count in products.items()
  }
  rates = {
    shape: product_rate(*shape, dtype, min_seconds=min_seconds)
    for shape in products
  }
  return lambda: (
    sum(flops.values())
    / sum(flops[shape] / rates[shape]() for shape in products)
  )


def measure(args: argparse.Namespace, response: int) -> None:
  """Measures updates with responses of one length and prints the results."""
  config = models.SHAPES[args.model]
  policy = policy_lib.make_policy(
    config, dtype=args.dtype, remat=args.remat, mesh=models.one_device()
  )
  size = work.Groups(
    args.groups, args.group_size, args.shared, args.own, response
  )
  calls = learning_sides(
    policy,
    make_batch(size, config.vocab_size),
    groups_per_microbatch=args.groups_per_microbatch,
    chunk=args.chunk,
  )
  at_once = min(args.groups_per_microbatch, size.groups)
  min_seconds = args.min_seconds
  sides = {name: pairs.seconds(call) for name, call in calls.items()}
  sides['square'] = product_rate(
    *[args.square] * 3, args.dtype, min_seconds=min_seconds
  )
  sides['own'] = own_rate(
    own_products(config, size, at_once=at_once, chunk=args.chunk),
    args.dtype,
    min_seconds=min_seconds / 10,
  )
  if jax.default_backend() == 'cpu' and args.dtype == 'float32':
    sides['numpy'] = numpy_rate(args.square)
  measured = pairs.in_turn(sides, args.repeats)
  show(args, size, measured)


def show(
  args: argparse.Namespace, size: work.Groups, measured: dict[str, list[float]]
) -> None:
  """Computes and prints rates and fractions."""
  config = models.SHAPES[args.model]
  flops = dict.fromkeys(LEARNING, work.update_flops(config, size))
  flops['forward'] = work.forward_flops(config, size)
  rates = {name: [flops[name] / s for s in measured[name]] for name in LEARNING}
  square = list(
    map(max, measured['square'], measured.get('numpy', measured['square']))
  )
  result = size._asdict() | {
    'model': args.model,
    'dtype': args.dtype,
    'remat': args.remat,
    'groups_per_microbatch': args.groups_per_microbatch,
    'chunk': args.chunk,
    'device': jax.devices()[0].device_kind,
  }
  for name in ('square', 'numpy', 'own'):
    if name in measured:
      result[f'{name}_gflops'] = pairs.spread([r / 1e9 for r in measured[name]])
  peaks = {'square': square, 'own': measured['own']}
  for name in LEARNING:
    result[f'{name}_seconds'] = pairs.spread(measured[name])
    result[f'{name}_gflops'] = pairs.spread([r / 1e9 for r in rates[name]])
    for peak, of in peaks.items():
      result[f'{name}_of_{peak}'] = pairs.spread(pairs.ratios(rates[name], of))
  parts = []
  for name in LEARNING:
    gflops = pairs.summarize([r / 1e9 for r in rates[name]])
    fractions = ', '.join(
      f'{pairs.summarize(pairs.ratios(rates[name], of), "{:.2f}")} of {peak}'
      for peak, of in peaks.items()
    )
    seconds = pairs.summarize(measured[name])
    parts.append(f'{name} {seconds} s, {gflops} GFLOP/s, {fractions}')
  peaks = ', '.join(
    f'{name} {pairs.summarize([r / 1e9 for r in of])} GFLOP/s'
    for name, of in peaks.items()
  )
  line = f'{args.model}, responses of {size.response}: {"; ".join(parts)}'
  pairs.show('learning', result, f'{line}; {peaks}')


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  add = parser.add_argument
  add('--model', default='smollm2-135m', choices=models.SHAPES)
  add('--dtype', default='float32', choices=('float32', 'bfloat16'))
  add('--remat', default='dots', choices=decoder.REMAT, help='as model.remat')
  add('--groups', default=16, type=int)
  add('--group_size', default=8, type=int)
  add('--shared', default=57, type=int, help='tokens common to all prompts')
  add('--own', default=19, type=int, help='further tokens of a prompt')
  add('--responses', default=[6, 64], type=int, nargs='+', help='lengths')
  add('--groups_per_microbatch', default=8, type=int)
  chunk = policy_loss.LossSettings().logits_chunk
  add('--chunk', default=chunk, type=int, help='rows of logits at once')
  add('--square', default=4096, type=int, help='side of the large product')
  add(
    '--min_seconds',
    default=1.0,
    type=float,
    help='minimum time of one measurement of a product',
  )
  add('--repeats', default=5, type=int)
  args = parser.parse_args()
  for response in args.responses:
    measure(args, response)


if __name__ == '__main__':
  main()
