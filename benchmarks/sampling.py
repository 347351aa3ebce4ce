"""Measures how many tokens per second the sampler generates.

  python -m benchmarks.sampling
  python -m benchmarks.sampling --workload=capacity
  python -m benchmarks.sampling --workload=field --model=qwen3-0.6b \\
      --dtype=bfloat16

Uses random weights in the shapes of a published model, random prompts that
share most of their tokens (like few-shot examples), temperature 1, and
responses that end only at their maximum length. Workloads:

- grid: combinations of numbers of prompts, responses per prompt, and lengths.
  Alternates between separate processes of our sampler (`sampler.Sampler`),
  transformers' `generate`, and, with --gguf and --llama_python, llama.cpp,
  which reads quantized weights from that file
- capacity: responses of 64 tokens with a capacity of 4,096 and of 128 tokens,
  alternately; our sampler only
- field: 256 different prompts with one response each, both with lengths that
  are uniform in 100 to 1024; our sampler only

Measures the seconds of a compiled call until all tokens are on the host, tokens
per second, and the ratios of each pair.
"""

import argparse
import itertools
import json
import sys
import time

import numpy as np

from benchmarks import models, pairs, workers


def serve(args: argparse.Namespace) -> None:
  """Runs our side of the grid."""
  parent = workers.Parent()
  from benchmarks import rollouts
  from sqlm_jax.selfplay import batches

  config = models.SHAPES[args.model]
  sampling = rollouts.Sampling(config, args.dtype)
  parent.send()
  while (request := parent.receive()) is not None:
    tokens = request['tokens']
    settings = models.endless(request['group_size'], config.vocab_size, tokens)
    # Packing is included: it finds the common prefix of the prompts.
    start = time.perf_counter()
    prompts = batches.pack_prompts(request['prompts'])
    rollout = sampling.call(prompts, settings, slots=tokens)()
    seconds = time.perf_counter() - start
    parent.send(seconds=seconds, tokens=int(rollout.lengths.sum()))


def open_sides(args: argparse.Namespace) -> dict[str, workers.Worker]:
  """Starts the processes of all sides."""
  ours = [f'--model={args.model}', f'--dtype={args.dtype}', '--serve']
  config = json.dumps(models.hf_config(models.SHAPES[args.model]))
  sides = {
    'ours': workers.Worker('benchmarks.sampling', *ours),
    'transformers': workers.Worker(
      'benchmarks.peer_transformers',
      config,
      args.dtype,
      python=args.peer_python,
    ),
  }
  if args.gguf:
    sides['llama.cpp'] = workers.Worker(
      'benchmarks.peer_llama_cpp', args.gguf, python=args.llama_python
    )
  return sides


def grid(args: argparse.Namespace) -> None:
  """Compares our sampler with the peers for each cell of the grid."""
  vocab_size = models.SHAPES[args.model].vocab_size
  sides = open_sides(args)
  for cell in itertools.product(args.tokens, args.groups, args.group_sizes):
    tokens, count, group_size = cell
    request = {
      'prompts': models.prompt_ids(
        count, args.own, shared=args.shared, vocab_size=vocab_size
      ),
      'group_size': group_size,
      'tokens': tokens,
    }

    def ask(side, request=request):
      answer = side.ask(**request)
      expected = len(request['prompts']) * request['group_size']
      if answer['tokens'] != expected * request['tokens']:
        raise RuntimeError(f'{answer}: expected all tokens')
      return answer['seconds']

    measures = {
      name: lambda side=side: ask(side) for name, side in sides.items()
    }
    pairs.in_turn(measures, 1)
    measured = pairs.in_turn(measures, args.repeats)
    show_cell(args, sides, cell, measured)
  for side in sides.values():
    side.close()


def show_cell(args, sides, cell, measured: dict[str, list[float]]) -> None:
  """Prints a cell's rates, and the ratios of the peers' seconds to ours."""
  tokens, count, group_size = cell
  total_tokens = tokens * count * group_size
  result = {
    'workload': 'grid',
    'model': args.model,
    'dtype': args.dtype,
    'groups': count,
    'group_size': group_size,
    'tokens': tokens,
    'prompt_tokens': args.shared + args.own,
    'about': {name: side.hello for name, side in sides.items()},
  }
  parts = []
  for name, seconds in measured.items():
    rates = [total_tokens / s for s in seconds]
    result[name] = {
      'seconds': pairs.spread(seconds),
      'tokens_per_second': pairs.spread(rates),
    }
    part = f'{name} {pairs.summarize(rates)} tokens/s'
    if name != 'ours':
      ratios = pairs.ratios(seconds, measured['ours'])
      result[name]['to_ours'] = pairs.spread(ratios)
      part += f', ratio {pairs.summarize(ratios)}'
    parts.append(part)
  line = f'{count} x {group_size} x {tokens} tokens: {"; ".join(parts)}'
  pairs.show('sampling', result, line)


def capacity(args: argparse.Namespace) -> None:
  """Samples the same responses with a small and with a large capacity."""
  from benchmarks import rollouts

  config = models.SHAPES[args.model]
  sampling = rollouts.Sampling(config, args.dtype)
  prompts = models.prompts(
    16, args.own, shared=args.shared, vocab_size=config.vocab_size
  )
  tokens = args.capacity_tokens
  settings = models.endless(8, config.vocab_size, tokens)
  calls = {
    slots: sampling.call(prompts, settings, slots=slots)
    for slots in args.capacities
  }
  for call in calls.values():
    call()
  seconds = pairs.in_turn(
    {slots: pairs.seconds(call) for slots, call in calls.items()}, args.repeats
  )
  small, large = args.capacities
  ratios = pairs.ratios(seconds[large], seconds[small])
  result = {
    'workload': 'capacity',
    'model': args.model,
    'dtype': args.dtype,
    'rows': 128,
    'tokens': tokens,
    'seconds': {slots: pairs.spread(s) for slots, s in seconds.items()},
    'ratio': pairs.spread(ratios),
  }
  line = (
    f'{tokens} tokens with a capacity of {large}: '
    f'{pairs.summarize(seconds[large])} s, of {small}: '
    f'{pairs.summarize(seconds[small])} s, ratio {pairs.summarize(ratios)}'
  )
  pairs.show('sampling', result, line)


def field(args: argparse.Namespace) -> None:
  """Measures many requests of different lengths."""
  from benchmarks import rollouts
  from sqlm_jax.selfplay import batches

  config = models.SHAPES[args.model]
  sampling = rollouts.Sampling(config, args.dtype)
  rng = np.random.default_rng(0)
  low, high = args.lengths
  prompt_lengths, lengths = rng.integers(low, high + 1, size=(2, args.requests))
  prompts = batches.pack_prompts(
    [rng.integers(config.vocab_size, size=n).tolist() for n in prompt_lengths]
  )
  settings = sampling.forced(prompts, lengths[:, None])
  call = sampling.call(prompts, settings, slots=high)
  tokens = int(call().lengths.sum())
  measured = pairs.in_turn({'ours': pairs.seconds(call)}, args.repeats)
  seconds = measured['ours']
  rates = [tokens / s for s in seconds]
  result = {
    'workload': 'field',
    'model': args.model,
    'dtype': args.dtype,
    'requests': args.requests,
    'lengths': [low, high],
    'prompt_tokens': int(prompt_lengths.sum()),
    'tokens': tokens,
    'seconds': pairs.spread(seconds),
    'tokens_per_second': pairs.spread(rates),
  }
  line = (
    f'{args.model}, {args.requests} requests, {tokens} tokens: '
    f'{pairs.summarize(seconds)} s, {pairs.summarize(rates)} tokens/s'
  )
  pairs.show('sampling', result, line)


WORKLOADS = {'grid': grid, 'capacity': capacity, 'field': field}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  add = parser.add_argument
  add('--workload', default='grid', choices=WORKLOADS)
  add('--model', default='smollm2-135m', choices=models.SHAPES)
  add('--dtype', default='float32', choices=('float32', 'bfloat16'))
  add('--groups', default=[1, 4, 16], type=int, nargs='+')
  add('--group_sizes', default=[1, 8], type=int, nargs='+')
  add('--tokens', default=[8, 128], type=int, nargs='+')
  add('--shared', default=57, type=int, help='tokens common to all prompts')
  add('--own', default=19, type=int, help='further tokens of a prompt')
  add('--capacity_tokens', default=64, type=int)
  add('--capacities', default=[128, 4096], type=int, nargs=2)
  add('--requests', default=256, type=int)
  add('--lengths', default=[100, 1024], type=int, nargs=2)
  add('--peer_python', default=sys.executable, help='has transformers')
  add('--llama_python', default=sys.executable, help='has llama-cpp-python')
  add('--gguf', help='the file that llama.cpp reads; without, no llama.cpp')
  add('--repeats', default=5, type=int)
  add('--serve', action='store_true', help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.serve:
    serve(args)
  else:
    WORKLOADS[args.workload](args)


if __name__ == '__main__':
  main()
