"""Config keys for running programs that a model wrote: tests and sandbox."""

import dataclasses
from typing import Literal

from sqlm_jax.config import keys


@dataclasses.dataclass(frozen=True)
class Tests:
  """Unit tests of a question, for `task.answer_kind=code`."""

  pattern: str = keys.key(
    r'(?m)^(.*?)=>(.*)$',
    'Regular expression that finds a test. Its two groups are the input and '
    'the output.',
    keys.regex(groups=2),
  )
  min_count: int = keys.key(
    5, 'Minimum number of tests of a readable question.', keys.at_least(1)
  )
  max_count: int = keys.key(
    10,
    'Maximum number of tests of a question, at least `tests.min_count`; '
    'further tests are ignored.',
  )
  program: str = keys.key(
    '{answer}',
    'Template of the program that is run; `{answer}` is the parsed answer.',
    keys.template('{answer}'),
    may_change=keys.TO_EVALUATE,
  )
  unsolved: Literal['count', 'leave_out'] = keys.key(
    'count',
    'Tests that no answer passes: `count` keeps them, as in the paper; '
    '`leave_out` ignores them.',
  )


@dataclasses.dataclass(frozen=True)
class Sandbox:
  """The sandbox that runs programs, see [sandbox.md](sandbox.md)."""

  backend: Literal['bubblewrap', 'unsafe_subprocess'] = keys.key(
    'bubblewrap',
    'How programs are isolated. `unsafe_subprocess` does not protect this '
    'machine.',
  )
  workers: int = keys.key(
    0,
    'Number of programs that run in parallel; 0 for one per processor.',
    keys.within(0, 1024),
  )
  cpu_seconds: float = keys.key(
    2.0, 'Limit of CPU time per test.', keys.above(0, high=86400)
  )
  wall_seconds: float = keys.key(
    4.0, 'Limit of elapsed time per test.', keys.above(0, high=86400)
  )
  memory_mib: int = keys.key(
    256, 'Limit of memory per test, in MiB.', keys.at_least(1)
  )
