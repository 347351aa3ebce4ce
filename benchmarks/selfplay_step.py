"""Compares the time of a complete solver step with TRL's.

  python -m benchmarks.selfplay_step --repeats=5

A step samples 8 answers to each of 16 sums of digits with the few-shot prompt
of configs/quickstart.py, votes, and updates all weights. Alternates between two
separate processes:

- ours: `selfplay.step.self_play_step`, as in a run
- TRL: `GRPOTrainer` (`pip install 'trl[...]'`, see docs/benchmarks.md) on the
  same weights, exported in float32, without gradient checkpointing

Both use the same prompts and number of answers, temperature 1, GRPO with one
update per step, no KL penalty, and AdamW. Both compute in float32, or, with
--dtype=bfloat16, compute products in bfloat16 with float32 weights
(`model.dtype` for ours, autocast for torch). There are two cases:

- forced: every answer has exactly --tokens tokens, nothing stops it earlier,
  and rewards are random, so that all 128 answers have a gradient on both sides
- trained: an answer ends with its line or at --tokens, and rewards are from the
  majority vote, as in training. Groups with equal rewards, whose gradient is
  zero, are skipped by our side but not by TRL

Compiled steps are compared; the first step, which compiles, is printed
separately.
"""

import argparse
import itertools
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any

from benchmarks import pairs, workers

# All questions are different, and none of them is in the few-shot prompt.
QUESTIONS = tuple(f'{a} + {b}' for a in (2, 4, 6, 8) for b in (1, 3, 6, 7))
GROUP_SIZE = 8
CASES = ('forced', 'trained')


def make_game(model: str, dtype: str, case: str, tokens: int):
  """Returns the quickstart's game with `QUESTIONS`, and its train states."""
  from benchmarks import models
  from configs import quickstart
  from sqlm_jax.config import schema as config_lib
  from sqlm_jax.run import build, train_states

  c = quickstart.get_config()
  c.model.path = model
  c.model.dtype = dtype
  c.proposer.num_questions = c.proposer.group_size = len(QUESTIONS)
  c.proposer.train_every = 0
  c.solver.group_size = GROUP_SIZE
  c.solver.max_tokens = tokens
  if case == 'forced':
    c.solver.rewards.majority, c.solver.rewards.random = 0.0, 1.0
  parts = build.build(config_lib.from_dict(c.to_dict()))
  game = build.make_game(parts)._replace(questions=QUESTIONS)
  if case == 'forced':
    solver = game.samplers['solver']
    vocab_size = solver.settings.stop_table.shape[1]
    endless = models.endless(GROUP_SIZE, vocab_size, tokens)
    settings = solver.settings._replace(stop_table=endless.stop_table)
    game = game._replace(
      keep_neutral=True,
      samplers=game.samplers | {'solver': solver._replace(settings=settings)},
    )
  return game, train_states.initial_states(parts)


def serve(args: argparse.Namespace) -> None:
  """Runs our side, which plays one step per request."""
  parent = workers.Parent()
  import jax

  from sqlm_jax.game import repetition
  from sqlm_jax.selfplay import step as selfplay
  from tests import compilations

  game, states = make_game(args.model, args.dtype, *args.serve)
  sampler = game.samplers['solver']
  ids = [
    sampler.encode(prompt)
    for question in QUESTIONS
    for prompt in game.task.solver_prompts(question)
  ]
  parent.send(prompt_ids=ids, threads=len(os.sched_getaffinity(0)))
  memory = repetition.Memory(size=0)
  for step in itertools.count():
    if parent.receive() is None:
      break
    with compilations.count() as compiled:
      start = time.perf_counter()
      states, memory, outcome = selfplay.self_play_step(
        step, states, memory, game
      )
      jax.block_until_ready(states)
      seconds = time.perf_counter() - start
    lengths = outcome.rounds[0].solutions.rollout.lengths
    parent.send(
      seconds=seconds,
      solve=outcome.metrics['time/solve'],
      learn=outcome.metrics['time/learn'],
      compilations=len(compiled),
      tokens=int(lengths.sum()),
      groups=_groups_learned(outcome, game.keep_neutral),
    )


def _groups_learned(outcome, keep_neutral: bool) -> int:
  rewards = [set(q.solver_rewards) for q in outcome.rounds[0].questions]
  return sum(keep_neutral or len(distinct) > 1 for distinct in rewards)


def export(model: str, directory: pathlib.Path) -> None:
  """Writes the model as a Hugging Face directory, in float32."""
  command = [sys.executable, '-m', 'sqlm_jax.main', '--mode=export']
  command += ['--config=configs/quickstart.py', f'--config.model.path={model}']
  command += [f'--export_dir={directory}', '--export_dtype=float32']
  subprocess.run(command, check=True, stdout=sys.stderr)


def measure(
  args: argparse.Namespace, directory: pathlib.Path, case: str, tokens: int
) -> None:
  """Measures one case and prints the results."""
  words = [f'--model={args.model}', f'--dtype={args.dtype}']
  words += ['--serve', case, str(tokens)]
  peer_words = [str(directory), args.dtype, case]
  peer_words += [str(tokens), str(args.trl_rows)]
  answers = {'ours': [], 'trl': []}

  def ask(worker, name):
    answers[name].append(worker.ask())
    return answers[name][-1]['seconds']

  with (
    workers.Worker('benchmarks.selfplay_step', *words) as ours,
    workers.Worker(
      'benchmarks.peer_trl', *peer_words, python=args.peer_python
    ) as trl,
  ):
    if ours.hello['prompt_ids'] != trl.hello['prompt_ids']:
      raise RuntimeError('the two sides do not read the same prompts')
    sides = {
      'ours': lambda: ask(ours, 'ours'),
      'trl': lambda: ask(trl, 'trl'),
    }
    first = pairs.in_turn(sides, 1)
    sides['ours']()  # compiles shapes that depend on the sampled responses
    answers = {'ours': [], 'trl': []}
    measured = pairs.in_turn(sides, args.repeats)
  lengths = [len(row) for row in ours.hello.pop('prompt_ids')]
  result: dict[str, Any] = {
    'case': case,
    'tokens': tokens,
    'model': args.model,
    'dtype': args.dtype,
    'prompt_tokens': [min(lengths), max(lengths)],
    'threads': {'ours': ours.hello['threads'], 'trl': trl.hello['threads']},
    'versions': trl.hello['versions'],
    'trl_rows': args.trl_rows,
    'first_seconds': {name: value[0] for name, value in first.items()},
  }
  for name in measured:
    result[f'{name}_seconds'] = pairs.spread(measured[name])
    for key in ('solve', 'learn', 'tokens', 'groups', 'compilations'):
      if key in answers[name][0]:
        values = [answer[key] for answer in answers[name]]
        result[f'{name}_{key}'] = pairs.spread(values)
  ratios = pairs.ratios(measured['trl'], measured['ours'])
  result['trl_to_ours'] = pairs.spread(ratios)

  def summary(key):
    return pairs.summarize([answer[key] for answer in answers['ours']])

  line = (
    f'{case}, {tokens} tokens, {args.dtype}: '
    f'ours {pairs.summarize(measured["ours"])} s '
    f'(solve {summary("solve")}, learn {summary("learn")}, '
    f'{summary("groups")} of {len(QUESTIONS)} groups), '
    f'TRL {pairs.summarize(measured["trl"])} s, '
    f'ratio {pairs.summarize(ratios)}; '
    f'first step: ours {first["ours"][0]:.3g} s, TRL {first["trl"][0]:.3g} s'
  )
  pairs.show('selfplay_step', result, line)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  add = parser.add_argument
  add('--model', default='smollm2-135m-instruct', help='as config.model.path')
  add('--dtype', default='float32', choices=('float32', 'bfloat16'))
  add('--cases', default=list(CASES), nargs='+', choices=CASES)
  add('--tokens', default=[8, 64], type=int, nargs='+', help='of an answer')
  add('--trl_rows', default=16, type=int, help='answers a TRL microbatch')
  add('--peer_python', default=sys.executable, help='that has trl')
  add('--repeats', default=5, type=int)
  add('--serve', nargs=2, help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.serve:
    args.serve = (args.serve[0], int(args.serve[1]))
    serve(args)
    return
  with tempfile.TemporaryDirectory() as temporary:
    directory = pathlib.Path(temporary) / 'model'
    export(args.model, directory)
    for case, tokens in itertools.product(args.cases, args.tokens):
      measure(args, directory, case, tokens)


if __name__ == '__main__':
  main()
