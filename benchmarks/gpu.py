"""Compares decoding and complete steps with an accelerator's limits.

  python -m benchmarks.gpu --model=qwen2.5-0.5b
  python -m benchmarks.gpu --model=qwen2.5-3b --remat=full
  python -m benchmarks.gpu --model=tiny --check

Uses random weights in the shapes of published models, in bfloat16. Measures:

- kernels: the error of the kernels for GPUs or TPUs relative to the plain path
  in float32, as the norm of the difference divided by the norm of the result;
  not their speed
- decode: 64 prompts with 4 responses each. The time of a token of all 256 rows
  is the difference between a call with many tokens and a call with one token,
  divided by the number of additional tokens. It has to read the weights once,
  and the keys and values of all live tokens, those of a prompt once for its
  group (`benchmarks/work.py`). The fraction is the time that these bytes take
  at the memory's bandwidth, divided by the measured time
- memory: the bandwidth of reading and writing one large array, in the same
  rounds
- step: a complete step of self-play with the paper's sizes (64 questions, 4
  answers, up to 1024 tokens), split into propose, solve, grade, score and
  learn, and the fraction of it in which the accelerator is idle, according to
  `nvidia-smi` (omitted if it is not installed). Each step is played twice
  because the first time compiles; the time and the number of compilations of
  the first time are printed separately

The following command compares learning with the rate of matrix products:

  python -m benchmarks.learning --model=qwen2.5-0.5b --dtype=bfloat16 \\
      --groups=64 --group_size=4 --own=400 --shared=100 --responses=512 \\
      --groups_per_microbatch=16 --chunk=2048
"""

import argparse
import functools
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import jax
import jax.numpy as jnp

from benchmarks import full_size, models, pairs, rollouts, work
from sqlm_jax.distributed import sharding
from sqlm_jax.models import attention, decoder
from sqlm_jax.models import kernels as kernels_lib

PARTS = ('propose', 'solve', 'grade', 'score', 'learn')


def kernels(args: argparse.Namespace) -> None:
  """Compares values and gradients of the kernels with the plain path."""
  device = jax.devices()[0].device_kind
  c = models.SHAPES[args.model]
  mesh = sharding.make_mesh({'data': -1, 'fsdp': 1, 'tensor': 1})
  known = kernels_lib.find(c, jnp.bfloat16, mesh)
  if known is None:
    print(f'gpu: {device} has no kernels for {args.model}')
    return
  span = attention.Span(c.head_width**-0.5)
  rows = args.groups * args.group_size
  keys = iter(jax.random.split(jax.random.key(0), 32))

  def draw(*shape):
    return jax.random.normal(next(keys), shape, jnp.bfloat16)

  def key_shape(rows, slots):
    return rows, c.num_kv_heads, slots, c.head_width

  before = ((1, 24), (args.groups, args.prompt), (rows, 40))
  context = [
    (draw(*key_shape(*size)), draw(*key_shape(*size))) for size in before
  ]
  lengths = [
    jax.random.randint(next(keys), (count,), 1, slots + 1)
    for count, slots in before
  ]

  def attend(texts, context, **options):
    segments = (
      attention.KeyValues(*pair, n)
      for pair, n in zip(context, lengths, strict=True)
    )
    return attention.attend(*texts, tuple(segments), span=span, **options)

  def with_gradients(texts, context, **options):
    """Returns the output, and the gradients of a random weighted sum of it."""

    def total(texts, context):
      out = attend(texts, context, **options)
      weights = jax.random.normal(jax.random.key(1), out.shape)
      return jnp.sum(out * weights), out

    grads, out = jax.grad(total, (0, 1), has_aux=True)(texts, context)
    return out, *jax.tree.leaves(grads)

  def compare(call, width, **options):
    texts = (
      draw(rows, width, c.num_heads, c.head_width),
      draw(*key_shape(rows, width)),
      draw(*key_shape(rows, width)),
    )
    stacked = [[x[None] for x in pair] for pair in context]
    given = context if options.get('layer') is None else stacked
    fast = functools.partial(call, kernels=known, **options)
    outputs = jax.jit(fast)(texts, given)
    exact = jax.tree.map(lambda x: x.astype(jnp.float32), (texts, context))
    expected = jax.jit(call)(*exact)
    leaves = zip(*map(jax.tree.leaves, (outputs, expected)), strict=True)
    return [
      float(jnp.linalg.norm((a - b).ravel()) / jnp.linalg.norm(b.ravel()))
      for a, b in leaves
    ]

  errors = {
    'reading': compare(with_gradients, 256),
    'reading, odd length': compare(with_gradients, 255),
  }
  if known.can_decode:
    errors['decoding'] = compare(attend, 1, layer=0)
  largest = ', '.join(f'{name} {max(x):.2g}' for name, x in errors.items())
  result = {'workload': 'kernels', 'model': args.model, 'device': device}
  pairs.show('gpu', result | errors, f'{args.model}: largest errors: {largest}')


def memory_rate(size: int):
  """Returns a function that measures the memory's bandwidth.

  It returns bytes per second for reading and writing an array of `size` bytes.
  """
  x = jnp.zeros((size // 4,), jnp.float32)
  # Works in place to exclude allocations from the measurement.
  add = jax.jit(lambda x: x + 1, donate_argnums=0)

  def call():
    nonlocal x
    x = jax.block_until_ready(add(x))

  call()
  measure = pairs.seconds(call)
  return lambda: 2 * size / measure()


def decode(args: argparse.Namespace) -> None:
  """Measures decoding, compares it with the bandwidth and prints both."""
  config = models.SHAPES[args.model]
  sampling = rollouts.Sampling(config, args.dtype)
  prompts = models.prompts(
    args.groups, args.prompt, vocab_size=config.vocab_size
  )
  calls = {}
  for name, tokens in (('many', args.tokens), ('one', 1)):
    settings = models.endless(args.group_size, config.vocab_size, tokens)
    calls[name] = sampling.call(prompts, settings, slots=args.tokens)
    calls[name]()
  sides = {name: pairs.seconds(call) for name, call in calls.items()}
  sides['memory'] = memory_rate(args.memory_bytes)
  measured = pairs.in_turn(sides, args.repeats)
  tokens = args.tokens - 1
  token_seconds = [
    (many - one) / tokens
    for many, one in zip(measured['many'], measured['one'], strict=True)
  ]
  rows = args.groups * args.group_size
  # On average, half of a response has been generated.
  live = args.groups * args.prompt + rows * args.tokens // 2
  itemsize = jnp.dtype(args.dtype).itemsize
  needed = work.decode_bytes(
    config, weight_size=itemsize, cache_size=itemsize, live_tokens=live
  )
  floors = [needed / rate for rate in measured['memory']]
  fractions = pairs.ratios(floors, token_seconds)
  result = {
    'workload': 'decode',
    'model': args.model,
    'dtype': args.dtype,
    'device': jax.devices()[0].device_kind,
    'rows': rows,
    'prompt_tokens': args.prompt,
    'tokens': args.tokens,
    'bytes_per_token': needed,
    'seconds': pairs.spread(measured['many']),
    'prefill_seconds': pairs.spread(measured['one']),
    'seconds_per_token': pairs.spread(token_seconds),
    'tokens_per_second': pairs.spread([rows / s for s in token_seconds]),
    'memory_gb_per_second': pairs.spread([r / 1e9 for r in measured['memory']]),
    'fraction': pairs.spread(fractions),
  }
  milliseconds = pairs.summarize([s * 1e3 for s in token_seconds])
  bandwidth = pairs.summarize([r / 1e9 for r in measured['memory']])
  line = (
    f'{args.model}, {rows} rows: {milliseconds} ms per token, '
    f'{needed / 1e9:.3g} GB at {bandwidth} GB/s, fraction '
    f'{pairs.summarize(fractions, "{:.2f}")}'
  )
  pairs.show('gpu', result, line)


def make_game(args: argparse.Namespace, directory: pathlib.Path):
  """Returns a game with the paper's sizes for a model of random letters.

  Also returns the initial training states.
  """
  from configs import default
  from sqlm_jax.config import schema as config_lib
  from sqlm_jax.run import build, train_states

  model = directory / 'model'
  full_size.make(model, args.model, letters=128)
  c = default.get_config()
  c.model.path = str(model)
  c.model.dtype = args.dtype
  c.model.remat = args.remat
  c.task.name = 'noise'
  c.task.topics = ('anything',)
  c.task.proposer_prompt = 'Write about {topic}: '
  # A truncated question is rejected. Stopping at two letters of 128 ends a
  # question after about 64 tokens.
  c.task.proposer_stop = ('a', 'e')
  c.task.solver_prompt = 'Answer {question}: '
  c.task.answer_kind = 'text'
  c.proposer.num_questions = args.groups
  c.proposer.group_size = args.group_size
  c.proposer.train_every = 1
  c.solver.group_size = args.group_size
  c.proposer.max_tokens = c.solver.max_tokens = args.step_tokens
  c.sampler.max_prompt_tokens = args.step_tokens + 64
  # Random answers never agree: random rewards give both roles a gradient.
  c.solver.rewards.majority, c.solver.rewards.random = 0.0, 1.0
  c.loss.kl_coef = 0.0
  c.loss.logits_chunk = args.chunk
  c.optimizer.groups_per_microbatch = args.groups_per_microbatch
  c.optimizer.solver_updates = c.optimizer.proposer_updates = 1
  parts = build.build(config_lib.from_dict(c.to_dict()))
  return build.make_game(parts), train_states.initial_states(parts)


class Utilization:
  """Tracks the fraction of time in which the accelerator is busy."""

  def __init__(self):
    self._process = None
    if shutil.which('nvidia-smi'):
      command = ['nvidia-smi', '--query-gpu=utilization.gpu', '-lms', '200']
      command += ['--format=csv,noheader,nounits', '--id=0']
      self._process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True
      )

  def stop(self) -> float | None:
    """Returns the mean fraction since the start, None without nvidia-smi."""
    if self._process is None:
      return None
    self._process.terminate()
    lines, _ = self._process.communicate()
    seen = [float(line) for line in lines.split() if line.strip().isdigit()]
    return statistics.mean(seen) / 100 if seen else None


def play(args: argparse.Namespace) -> None:
  """Measures and prints complete steps."""
  from sqlm_jax.game import repetition

  with tempfile.TemporaryDirectory() as temporary:
    game, states = make_game(args, pathlib.Path(temporary))
  memory, first, again = repetition.Memory(size=0), [], []
  for step in range(args.steps):
    # Plays the step twice from the same states; the second time is compiled.
    shardings = jax.tree.map(lambda x: x.sharding, states)
    before = jax.device_get(states), memory
    for rows in (first, again):
      states = None  # frees the states before they are copied back
      states, memory, row = play_once(
        step, jax.device_put(before[0], shardings), before[1], game
      )
      rows.append(row)
      print(f'step {step}: {row}', file=sys.stderr, flush=True)
  column = {name: [row[name] for row in again] for name in again[0]}
  result = {
    'workload': 'step',
    'model': args.model,
    'dtype': args.dtype,
    'device': jax.devices()[0].device_kind,
    'questions': args.groups,
    'group_size': args.group_size,
    'max_tokens': args.step_tokens,
    'first_time': first,
  }
  result |= {name: pairs.spread(values) for name, values in column.items()}
  parts = ', '.join(
    f'{name} {pairs.summarize(column[name])} s' for name in PARTS
  )
  idle = 'idle fraction unknown (no nvidia-smi)'
  if 'idle' in column:
    idle = f'idle {pairs.summarize(column["idle"], "{:.3f}")} of the step'
  generated = [row['proposed'] + row['answered'] for row in again]
  line = (
    f'{args.model}: a step {pairs.summarize(column["seconds"])} s ({parts}), '
    f'{pairs.summarize(generated)} tokens generated, {idle}; the first time '
    f'{pairs.summarize([row["seconds"] for row in first])} s, with '
    f'{pairs.summarize([row["compiled"] for row in first])} programs compiled'
  )
  pairs.show('gpu', result, line)


def play_once(step: int, states, memory, game):
  """Plays one step and returns the states, the memory and measurements."""
  from sqlm_jax.selfplay import step as selfplay
  from tests import compilations

  busy = Utilization()
  start = time.perf_counter()
  with compilations.count() as compiled:
    states, memory, outcome = selfplay.self_play_step(
      step, states, memory, game
    )
    jax.block_until_ready(states)
  row = {'seconds': time.perf_counter() - start}
  share = busy.stop()
  if share is not None:
    row['idle'] = 1 - share
  row |= {name: outcome.metrics[f'time/{name}'] for name in PARTS}
  for name, responses in (
    ('proposed', outcome.rounds[0].proposals),
    ('answered', outcome.rounds[0].solutions),
  ):
    row[name] = int(responses.rollout.lengths.sum()) if responses else 0
  if not row['answered']:
    raise RuntimeError(f'step {step}: there was no question to answer')
  row['compiled'] = len(compiled)
  return states, memory, row


WORKLOADS = {'kernels': kernels, 'decode': decode, 'step': play}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  add = parser.add_argument
  add('--model', default='qwen2.5-0.5b', choices=models.SHAPES)
  add('--dtype', default='bfloat16', choices=('float32', 'bfloat16'))
  add('--remat', default='dots', choices=decoder.REMAT, help='as model.remat')
  add('--workloads', default=list(WORKLOADS), nargs='+', choices=WORKLOADS)
  add('--groups', default=64, type=int)
  add('--group_size', default=4, type=int)
  add('--prompt', default=256, type=int, help='tokens, for decode')
  add('--tokens', default=512, type=int, help='of a response, for decode')
  add('--step_tokens', default=1024, type=int, help='at most, for step')
  add('--groups_per_microbatch', default=8, type=int)
  add('--chunk', default=2048, type=int, help='as loss.logits_chunk')
  add('--memory_bytes', default=2**32, type=int, help='of the array')
  add('--steps', default=5, type=int, help='for step, each played twice')
  add('--repeats', default=5, type=int)
  add(
    '--check',
    action='store_true',
    help='use tiny sizes, to check that everything runs',
  )
  args = parser.parse_args()
  if args.check:
    args.groups, args.prompt, args.tokens, args.step_tokens = 4, 12, 8, 64
    args.memory_bytes, args.steps, args.repeats = 2**20, 2, 2
  for name in args.workloads:
    WORKLOADS[name](args)


if __name__ == '__main__':
  main()
