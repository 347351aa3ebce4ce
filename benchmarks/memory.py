"""Compares the memory that an update takes with the memory that it needs.

  python -m benchmarks.memory

Compiles the update of a model with random weights, without running it, and
reads XLA's memory analysis (`compiled.memory_analysis()`): the arguments, which
are the train state and the batch, and the temporaries. It is compared with the
memory that the update needs (`benchmarks/work.py`): parameters and two moments,
the gradients, and for one microbatch the activations that the backward pass
reads and one chunk of logits. `--step` also plays steps of the quickstart, each
run in a separate process, and tracks the process's memory.

To show that there is never an array [tokens, vocabulary], it also prints the
number of bytes that an additional response token adds to the peak, and the size
of the token's logits.
"""

import argparse
import subprocess
import sys

import jax
import jax.numpy as jnp

from benchmarks import learning, models, pairs, work
from sqlm_jax.config import training_schema
from sqlm_jax.engine import learner, optimizer, policy_loss
from sqlm_jax.models import decoder
from sqlm_jax.models import policy as policy_lib


def update_bytes(
  policy: policy_lib.Policy,
  size: work.Groups,
  *,
  groups_per_microbatch: int,
  chunk: int,
) -> dict[str, int]:
  """Returns the memory that XLA allocates during one update, in bytes."""
  mesh = models.one_device()
  optimize = optimizer.make_optimizer(
    training_schema.Optimizer(weight_decay=0.0)
  )
  step = learner.make_train_step(
    policy,
    optimize,
    mesh,
    policy_loss.LossSettings(logits_chunk=chunk),
    groups_per_microbatch=groups_per_microbatch,
  )
  state = jax.eval_shape(
    lambda key: learner.init_state(policy.init(key), optimize),
    jax.random.key(0),
  )
  batch = learning.make_batch(size, policy.config.vocab_size)
  analysis = step.lower(state, batch, None).compile().memory_analysis()
  return {
    'arguments': analysis.argument_size_in_bytes,
    'temporaries': analysis.temp_size_in_bytes,
    # Donated arguments are overwritten.
    'outputs': analysis.output_size_in_bytes - analysis.alias_size_in_bytes,
  }


def needed_bytes(
  policy: policy_lib.Policy,
  size: work.Groups,
  *,
  groups_per_microbatch: int,
  chunk: int,
  itemsize: int,
) -> dict[str, int]:
  """Returns the memory that one update needs at least, in bytes."""
  config = policy.config
  shapes = jax.eval_shape(policy.init, jax.random.key(0))
  params = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(shapes))
  at_once = min(groups_per_microbatch, size.groups)
  tokens = size.shared + at_once * (
    size.own + size.group_size * (size.response - 1)
  )
  return {
    'parameters': params,
    'moments': 2 * params,
    'gradients': params,
    'activations': tokens * work.saved_activations(config) * itemsize,
    'logits': chunk * config.vocab_size * 4,
  }


def measure(args: argparse.Namespace) -> None:
  """Compares the memory that an update takes with the memory it needs."""
  config = models.SHAPES[args.model]
  policy = policy_lib.make_policy(config, dtype=args.dtype, remat=args.remat)
  how = {
    'groups_per_microbatch': args.groups_per_microbatch,
    'chunk': args.chunk,
  }
  size = work.Groups(
    args.groups, args.group_size, args.shared, args.own, args.response
  )
  held = update_bytes(policy, size, **how)
  longer = size._replace(response=2 * size.response)
  longer_total = sum(update_bytes(policy, longer, **how).values())
  needed = needed_bytes(
    policy, size, **how, itemsize=jnp.dtype(args.dtype).itemsize
  )
  at_once = min(args.groups_per_microbatch, size.groups)
  tokens = at_once * size.group_size * size.response
  token_bytes = (longer_total - sum(held.values())) / tokens
  logits = 4 * config.vocab_size
  totals = sum(held.values()), sum(needed.values())
  result = size._asdict() | how
  result |= {'model': args.model, 'dtype': args.dtype, 'remat': args.remat}
  result |= {'held_bytes': held, 'needed_bytes': needed}
  result |= {
    'held_to_needed': totals[0] / totals[1],
    'bytes_per_token': token_bytes,
    'logits_bytes_per_token': logits,
  }

  def in_gb(sizes):
    return ', '.join(f'{k} {v / 1e9:.3g}' for k, v in sizes.items())

  line = (
    f'{args.model}: an update holds {totals[0] / 1e9:.3g} GB ({in_gb(held)}), '
    f'needs {totals[1] / 1e9:.3g} GB ({in_gb(needed)}), '
    f'ratio {totals[0] / totals[1]:.2f}; an additional response token '
    f'of a microbatch adds {token_bytes / 1e3:.3g} kB, its logits would be '
    f'{logits / 1e3:.3g} kB'
  )
  pairs.show('memory', result, line)


def play(args: argparse.Namespace) -> None:
  """Plays two steps in this process and prints its peak memory."""
  from benchmarks import full_size, selfplay_step
  from sqlm_jax.game import repetition
  from sqlm_jax.selfplay import step as selfplay

  with full_size.PeakMemory() as memory:
    game, states = selfplay_step.make_game(
      args.play, 'float32', 'forced', args.response
    )
    state = sum(x.nbytes for x in jax.tree.leaves(states))
    remembered = repetition.Memory(size=0)
    for step in range(2):
      states, remembered, _ = selfplay.self_play_step(
        step, states, remembered, game
      )
    jax.block_until_ready(states)
  result = {
    'workload': 'step',
    'model': args.play,
    'response': args.response,
    'peak_bytes': memory.anonymous,
    'state_bytes': state,
    'ratio': memory.anonymous / state,
  }
  line = (
    f'two steps of 16 x 8 answers of {args.response} tokens: the process had '
    f'at most {memory.anonymous / 1e9:.3g} GB of anonymous memory, '
    f'parameters and moments are {state / 1e9:.3g} GB, '
    f'ratio {result["ratio"]:.2f}'
  )
  pairs.show('memory', result, line)


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
  add('--response', default=64, type=int)
  add('--groups_per_microbatch', default=8, type=int)
  chunk = policy_loss.LossSettings().logits_chunk
  add('--chunk', default=chunk, type=int, help='rows of logits at once')
  add('--step', action='store_true', help='also play steps')
  add('--step_model', default='smollm2-135m-instruct')
  add('--repeats', default=1, type=int, help='processes that play steps')
  add('--play', help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.play:
    play(args)
    return
  measure(args)
  for _ in range(args.repeats if args.step else 0):
    command = [sys.executable, '-m', 'benchmarks.memory']
    command += [f'--play={args.step_model}', f'--response={args.response}']
    subprocess.run(command, check=True)


if __name__ == '__main__':
  main()
