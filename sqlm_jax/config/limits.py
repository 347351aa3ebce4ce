"""Upper limits of the numbers in a config, which keep array sizes valid.

A rule is a tuple of a key, True if its value is allowed, and a description of
the allowed values, as in `config_rules`.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

Rule = tuple[str, bool, str]

# The largest 32-bit index, which limits integers and the tokens of a batch.
MOST_WHOLE = 2**31 - 1
# The largest float32; a larger number would become infinite.
MOST_FLOAT = 3.4028234e38
MOST_PARAMETERS = 2**40

_MOST = {
  'solver.max_rounds': 1000,
  'evaluation.samples': 2**20,
  'evaluation.seeds': 2**20,
  'sandbox.workers': 1024,
  'sandbox.cpu_seconds': 86400,
  'sandbox.wall_seconds': 86400,
  'model.lora.rank': 2**16,
  'mesh.data': 2**20,
  'mesh.fsdp': 2**20,
  'mesh.tensor': 2**20,
}


def rules(c: Any) -> Iterator[Rule]:
  """Yields the limits of a config that satisfies `checks.rules`."""
  keys = dict(_flatten(dataclasses.asdict(c)))
  for key, value in keys.items():
    yield (
      key,
      all(abs(number) <= MOST_WHOLE for number in _whole_numbers(value)),
      f'whole numbers of at most {MOST_WHOLE}',
    )
  for key, most in _MOST.items():
    yield key, keys[key] <= most, f'at most {most}'
  for name in dataclasses.asdict(c.random_model):
    key = f'random_model.{name}'
    yield key, keys[key] <= 2**20, f'at most {2**20}'
  yield _parameters(c)
  questions = ('proposer.num_questions',)
  yield _tokens(keys, (*questions, 'proposer.max_tokens'))
  answers = (*questions, 'solver.group_size', 'solver.max_tokens')
  yield _tokens(keys, answers)
  votes = (*questions, 'vote.earlier_answers', 'solver.max_tokens')
  yield _tokens(keys, votes)
  # `evaluation.batch_questions` may be larger than the number of questions.
  samples = ('evaluation.samples', 'evaluation.seeds')
  yield _tokens(keys, (*samples, 'solver.max_tokens'))


def _tokens(keys: Mapping[str, int], factors: tuple[str, ...]) -> Rule:
  """Returns the limit on the tokens of a batch, under its largest key.

  Args:
    keys: Values of the config by dotted key.
    factors: Keys whose product is the number of tokens.
  """
  count = math.prod(keys[key] for key in factors)
  largest = max(factors, key=lambda key: keys[key])
  return (
    largest,
    count <= MOST_WHOLE,
    f'{" * ".join(factors)} to be at most {MOST_WHOLE} tokens of a batch, not '
    f'{count}',
  )


def _parameters(c: Any) -> Rule:
  m = c.random_model
  attention = 2 * (m.num_heads + m.num_kv_heads) * m.head_width
  count = m.num_layers * m.width * (attention + 3 * m.mlp_width)
  sizes = dataclasses.asdict(m)
  return (
    f'random_model.{max(sizes, key=sizes.__getitem__)}',
    count <= MOST_PARAMETERS,
    f'sizes of a model with at most {MOST_PARAMETERS} parameters, not {count}',
  )


def _whole_numbers(value: Any) -> Iterator[int]:
  if isinstance(value, int):
    yield value
  elif isinstance(value, tuple):
    for element in value:
      yield from _whole_numbers(element)


def _flatten(tree: Mapping, prefix: str = '') -> Iterator[tuple[str, Any]]:
  for name, value in tree.items():
    if isinstance(value, Mapping):
      yield from _flatten(value, f'{prefix}{name}.')
    else:
      yield prefix + name, value
