"""Measures how many tokens per second the sampler generates.

  python -m benchmarks.sampling
  python -m benchmarks.sampling --workload=room
  python -m benchmarks.sampling --workload=field --model=qwen3-0.6b \\
      --dtype=bfloat16

Uses random weights in the shapes of a published model, random prompts that
share most of their tokens (like few-shot examples), temperature 1, and
responses that end only at their maximum length. Workloads:

- grid: combinations of numbers of prompts, responses per prompt, and lengths.
  Alternates between separate processes of our sampler (`sampler.Sampler`),
  transformers' `generate`, and, with --gguf and --llama_python, llama.cpp,
  which reads quantized weights from that file
- room: responses of 64 tokens with a capacity of 4,096 and of 128 tokens,
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
  parent.tell()
  while (question := parent.listen()) is not None:
    tokens = question['tokens']
    settings = models.endless(question['group_size'], config.vocab_size, tokens)
    # Packing is included: it finds the common prefix of the prompts.
    start = time.perf_counter()
    prompts = batches.pack_prompts(question['prompts'])
    rollout = sampling.call(prompts, settings, slots=tokens)()
    seconds = time.perf_counter() - start
    parent.tell(seconds=seconds, tokens=int(rollout.lengths.sum()))


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
    question = {
      'prompts': models.prompt_ids(
        count, args.own, shared=args.shared, vocab_size=vocab_size
      ),
      'group_size': group_size,
      'tokens': tokens,
    }

    def ask(side, question=question):
      answer = side.ask(**question)
      expected = len(question['prompts']) * question['group_size']
      if answer['tokens'] != expected * question['tokens']:
        raise RuntimeError(f'{answer}: expected all tokens')
      return answer['seconds']

    measures = {
      name: lambda side=side: ask(side) for name, side in sides.items()
    }
    pairs.in_turn(measures, 1)
    found = pairs.in_turn(measures, args.repeats)
    show_cell(args, sides, cell, found)
  for side in sides.values():
    side.close()


def show_cell(args, sides, cell, found: dict[str, list[float]]) -> None:
  """Prints a cell's rates, and the ratios of the peers' seconds to ours."""
  tokens, count, group_size = cell
  drawn = tokens * count * group_size
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
  for name, seconds in found.items():
    rates = [drawn / s for s in seconds]
    result[name] = {
      'seconds': pairs.spread(seconds),
      'tokens_per_second': pairs.spread(rates),
    }
    part = f'{name} {pairs.tell(rates)} tokens/s'
    if name != 'ours':
      ratios = pairs.ratios(seconds, found['ours'])
      result[name]['to_ours'] = pairs.spread(ratios)
      part += f', ratio {pairs.tell(ratios)}'
    parts.append(part)
  line = f'{count} x {group_size} x {tokens} tokens: {"; ".join(parts)}'
  pairs.show('sampling', result, line)


def room(args: argparse.Namespace) -> None:
  """Samples the same responses with a large and with a small capacity."""
  from benchmarks import rollouts

  config = models.SHAPES[args.model]
  sampling = rollouts.Sampling(config, args.dtype)
  prompts = models.prompts(
    16, args.own, shared=args.shared, vocab_size=config.vocab_size
  )
  tokens = args.room_tokens
  settings = models.endless(8, config.vocab_size, tokens)
  calls = {
    room: sampling.call(prompts, settings, slots=room) for room in args.rooms
  }
  for call in calls.values():
    call()
  found = pairs.in_turn(
    {room: pairs.seconds(call) for room, call in calls.items()}, args.repeats
  )
  little, much = args.rooms
  ratios = pairs.ratios(found[much], found[little])
  result = {
    'workload': 'room',
    'model': args.model,
    'dtype': args.dtype,
    'rows': 128,
    'tokens': tokens,
    'seconds': {room: pairs.spread(s) for room, s in found.items()},
    'ratio': pairs.spread(ratios),
  }
  line = (
    f'{tokens} tokens with room for {much}: {pairs.tell(found[much])} s, '
    f'for {little}: {pairs.tell(found[little])} s, ratio {pairs.tell(ratios)}'
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
  reading, writing = rng.integers(low, high + 1, size=(2, args.requests))
  prompts = batches.pack_prompts(
    [rng.integers(config.vocab_size, size=n).tolist() for n in reading]
  )
  settings = sampling.forced(prompts, writing[:, None])
  call = sampling.call(prompts, settings, slots=high)
  drawn = int(call().lengths.sum())
  found = pairs.in_turn({'ours': pairs.seconds(call)}, args.repeats)['ours']
  rates = [drawn / s for s in found]
  result = {
    'workload': 'field',
    'model': args.model,
    'dtype': args.dtype,
    'requests': args.requests,
    'lengths': [low, high],
    'prompt_tokens': int(reading.sum()),
    'tokens': drawn,
    'seconds': pairs.spread(found),
    'tokens_per_second': pairs.spread(rates),
  }
  line = (
    f'{args.model}, {args.requests} requests, {drawn} tokens: '
    f'{pairs.tell(found)} s, {pairs.tell(rates)} tokens/s'
  )
  pairs.show('sampling', result, line)


WORKLOADS = {'grid': grid, 'room': room, 'field': field}


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
  add('--room_tokens', default=64, type=int)
  add('--rooms', default=[128, 4096], type=int, nargs=2)
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
