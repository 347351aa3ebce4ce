"""Measures how much of an update affects the computation in bfloat16.

  python -m benchmarks.bfloat16
  python -m benchmarks.bfloat16 --model_path=/models/gemma-3-270m.gguf
  python -m benchmarks.bfloat16 --lora_rank=16
  python -m benchmarks.bfloat16 --param_dtype=bfloat16

The updates have one size, the learning rate: each weight moves along the sign
of a gradient, as in Adam's first step. Two ratios measure the effect of the
updates in bfloat16; the ideal value is 1.

- weights: the change of the weights after rounding to bfloat16, projected onto
  the update, divided by the update.
- logits: the slope of the change of logits in bfloat16 against the change of
  logits in float32 for the same updates, on a fixed text, and in parentheses
  their correlation. It is printed for the learner and for the sampler, which
  read the same rounded weights.

The rows are different starting points: the weights as stored in the file, the
weights rounded to bfloat16 as in most published checkpoints, and either of them
with `optimizer.small_updates` set to follow or hold.
"""

import argparse
import functools
import itertools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from configs import quickstart
from sqlm_jax.config import schema as config_lib
from sqlm_jax.engine import optimizer
from sqlm_jax.models import lora
from sqlm_jax.models import policy as policy_lib
from sqlm_jax.ops import rounding
from sqlm_jax.run import build as build_lib
from sqlm_jax.run import train_states

TEXTS = (
  'Question: 7 + 4 = 11\nQuestion: 2 + 9 = 11\nQuestion: 6 + 3 = 9\n',
  'The capital of France is Paris, and the capital of Italy is Rome.',
  '3 + 4 = 7\n9 + 2 = 11\n5 + 0 = 5\n8 + 8 = 16\n1 + 6 = 7\n',
  'def add(a, b):\n  return a + b\n\nprint(add(2, 3))\n',
)

Params = policy_lib.Params
AS_STORED = 'as stored'
STARTS = (AS_STORED, 'follow', 'hold')


class Model(NamedTuple):
  """A model that computes in bfloat16, and the same model in float32.

  Attributes:
    config: the config of a run in bfloat16.
    parts: the parts of that run.
    exact: the policy that computes in float32.
    base: frozen parameters, empty without adapters.
    trained: trained parameters as loaded, in float32.
  """

  config: config_lib.Config
  parts: build_lib.Parts
  exact: policy_lib.Policy
  base: Params
  trained: Params


def open_model(
  path: str, *, lora_rank: int = 0, param_dtype: str = 'float32'
) -> Model:
  """Opens a model with the quickstart's config."""
  c = quickstart.get_config()
  c.model.path = path
  c.model.lora.rank = lora_rank
  c.model.param_dtype = param_dtype

  def build(dtype):
    c.model.dtype = dtype
    config = config_lib.from_dict(c.to_dict())
    return config, build_lib.build(config)

  _, exact = build('float32')
  config, parts = build('bfloat16')
  base, trained = {}, parts.load_params('float32')
  if lora_rank:
    adapters = lora.adapters(parts.policy.init(jax.random.key(0)))
    base, trained = trained, adapters
  return Model(config, parts, exact.policy, base, trained)


def start(model: Model, how: str, *, on_grid: bool) -> Params:
  """Returns the trained parameters before the first update.

  Args:
    model: an opened model.
    how: one of `STARTS`.
    on_grid: True to round the weights to bfloat16 first, as in a published
      checkpoint.
  """
  params = jax.tree.map(jnp.copy, model.trained)
  if on_grid:
    params = jax.tree.map(rounding.center, params)
  if model.config.model.param_dtype == 'bfloat16':
    return jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
  if how == AS_STORED or model.base:
    return params
  return train_states.prepare_for_small_updates(params, hold=how == 'hold')


def signs_of_gradients(model: Model) -> list[Params]:
  """Returns a direction for each text: the negative sign of its gradient."""

  @jax.jit
  def direction(trained, base, tokens_1T):
    def loss(trained):
      params = lora.join(base, trained)
      logits_1TV = _logits(model.exact, params, tokens_1T)
      logprobs_1TV = jax.nn.log_softmax(logits_1TV[:, :-1])
      chosen = jnp.take_along_axis(logprobs_1TV, tokens_1T[:, 1:, None], 2)
      return -chosen.mean()

    # int8 takes one byte per weight.
    return jax.tree.map(
      lambda g: -jnp.sign(g).astype(jnp.int8), jax.grad(loss)(trained)
    )

  return [
    direction(model.trained, model.base, tokens) for tokens in _tokens(model)
  ]


def _tokens(model: Model) -> list[jax.Array]:
  """Encodes the texts, truncated to one length to compile only once."""
  texts = [model.parts.tokens.encode(text) for text in TEXTS]
  length = min(map(len, texts))
  return [jnp.array([ids[:length]]) for ids in texts]


def _logits(
  policy: policy_lib.Policy, params: Params, tokens_1T: jax.Array
) -> jax.Array:
  lengths_1 = jnp.array([tokens_1T.shape[1]])
  hidden_1TD, _ = policy.forward(params, tokens_1T, lengths_1)
  return policy.logits(params, hidden_1TD).astype(jnp.float32)


@jax.jit
def add(params: Params, signs: Params, rate: float, step: int) -> Params:
  """Adds an update as the learner does."""
  updates = jax.tree.map(lambda s: rate * s.astype(jnp.float32), signs)
  return optimizer.apply_updates(params, updates, step)


@jax.jit
def _products(x: jax.Array, y: jax.Array, total: jax.Array) -> jax.Array:
  """Projects the change from x to y, after rounding to bfloat16, onto `total`.

  Returns:
    The inner product of the change and `total`, and the squared norm of
    `total`.
  """
  # `rounding.center` is used because XLA removes casts to bfloat16 and back.
  seen = rounding.center(y.astype(jnp.float32))
  seen -= rounding.center(x.astype(jnp.float32))
  return jnp.vdot(seen, total), jnp.vdot(total, total)


def slope_of_weights(before: Params, after: Params, total: Params) -> float:
  """Returns the change of the rounded matrices, as a multiple of `total`."""
  pairs = [
    _products(*arrays)
    for *arrays, is_matrix in zip(
      *map(jax.tree.leaves, (before, after, total)),
      jax.tree.leaves(optimizer.matrices(before)),
      strict=True,
    )
    if is_matrix
  ]
  along, size = np.sum(np.array(pairs, np.float64), axis=0)
  return along / size


def make_measure(model: Model) -> Callable[..., dict[str, float]]:
  """Returns a function `measure(params, directions, rate, number)`.

  The function applies `number` updates of size `rate` to `params`, cycling
  through the directions, and returns the slopes of the weights and of the
  logits, and the correlations of the logits.
  """
  tokens = _tokens(model)[0]
  rounded = model.parts.policy
  exact = jax.jit(functools.partial(_logits, model.exact))
  in_bfloat16 = jax.jit(functools.partial(_logits, rounded))
  copies = {'learner': lambda params: params, 'sampler': rounded.cast}

  def change(logits, before, after, prepare=lambda params: params):
    def read(trained):
      params = prepare(lora.join(model.base, trained))
      return np.asarray(logits(params, tokens), np.float64)

    return (read(after) - read(before)).ravel()

  def measure(params, directions, rate, number):
    after = params
    total = jax.tree.map(lambda x: jnp.zeros(x.shape), params)
    for step in range(number):
      signs = directions[step % len(directions)]
      after = add(after, signs, rate, step)
      total = add(total, signs, rate, step)
    start = jax.tree.map(lambda x: x.astype(jnp.float32), params)
    wanted = change(exact, start, jax.tree.map(jnp.add, start, total))
    result = {'weights': slope_of_weights(params, after, total)}
    for name, prepare in copies.items():
      seen = change(in_bfloat16, params, after, prepare)
      along, norm = seen @ wanted, np.linalg.norm(wanted)
      result[name] = along / norm**2
      size = np.linalg.norm(seen)
      result[f'{name} correlation'] = along / (norm * size) if size else 0.0
    return result

  return measure


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  add = parser.add_argument
  add(
    '--model_path',
    default='smollm2-135m-instruct',
    help='as model.path; random is a tiny model',
  )
  add(
    '--rates',
    nargs='+',
    default=['1e-8', '2e-7', '1e-6', '1e-5', '1e-4'],
    help='sizes of an update',
  )
  add('--updates', type=int, nargs='+', default=[1, 10], help='how many')
  add(
    '--param_dtype',
    choices=['float32', 'bfloat16'],
    default='float32',
    help='as model.param_dtype',
  )
  add('--lora_rank', type=int, default=0, help='as model.lora.rank')
  args = parser.parse_args()
  model = open_model(
    args.model_path, lora_rank=args.lora_rank, param_dtype=args.param_dtype
  )
  directions = signs_of_gradients(model)
  measure = make_measure(model)
  starts = STARTS
  if args.lora_rank or args.param_dtype == 'bfloat16':
    starts = [AS_STORED]
  header = ' | '.join(args.rates)
  print(f'| weights | start | updates | slope of | {header} |')
  print('|---' * (4 + len(args.rates)) + '|')
  for on_grid, how in itertools.product((False, True), starts):
    params = start(model, how, on_grid=on_grid)
    for number in args.updates:
      slopes = [
        measure(params, directions, float(rate), number) for rate in args.rates
      ]
      rows = {'weights': [f'{x["weights"]:.2f}' for x in slopes]}
      for name in ('learner', 'sampler'):
        rows[f'logits, {name}'] = [
          f'{x[name]:.2f} ({x[f"{name} correlation"]:.2f})' for x in slopes
        ]
      stored = 'on bfloat16' if on_grid else 'as in the file'
      for name, cells in rows.items():
        row = ' | '.join((stored, how, str(number), name, *cells))
        print(f'| {row} |', flush=True)


if __name__ == '__main__':
  main()
