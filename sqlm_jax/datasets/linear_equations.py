"""Systems of linear equations in the style of the OMEGA benchmark.

The following properties are known of OMEGA's generator, which descends from
DeepMind's mathematics_dataset, and hold here. There are as many equations as
unknowns: two, three or four, depending on the level. The coefficients are
integers and their matrix is invertible; the solutions are integers. Terms are
split and moved to random sides. The question asks for one of the unknowns. On
higher levels, constants are letters that earlier sentences define.

The ranges of the numbers, the sentences and the levels are ours. The published
generator (sunblaze-ucb/math_ood) has five levels with two to six unknowns, and
composes questions from its second level on. `files` reads its files.
"""

import itertools
import random
import string
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

SIZE = 100  # questions per split, as in the published set


class Level(NamedTuple):
  """The difficulty of a system."""

  unknowns: int
  letters: bool  # True if constants are replaced by letters


LEVELS = {
  'level_1': Level(2, letters=False),
  'level_2': Level(3, letters=False),
  'level_3': Level(4, letters=False),
  'level_4': Level(2, letters=True),
  'level_5': Level(3, letters=True),
}
_COEFFICIENTS = [n for n in range(-9, 10) if n]
_SOLUTIONS = range(-20, 21)
# Leaves out letters that could be read as a number or a constant.
_LETTERS = [c for c in string.ascii_lowercase if c not in 'eilo']


class Problem(NamedTuple):
  """A question, the value of the unknown that it asks for, and its level."""

  question: str
  answer: int
  level: str


def write_problem(level: str, draw: random.Random) -> Problem:
  """Generates a question about a system with a unique, integer solution.

  Args:
    level: a key of `LEVELS`.
    draw: random generator.
  """
  count, uses_letters = LEVELS[level]
  names = draw.sample(_LETTERS, count + count * uses_letters)
  unknowns, letters = names[:count], names[count:]
  values = [draw.choice(_SOLUTIONS) for _ in unknowns]
  while True:
    matrix = [[draw.choice(_COEFFICIENTS) for _ in unknowns] for _ in unknowns]
    if round(np.linalg.det(np.array(matrix, np.float64))):
      break
  equations, definitions = [], []
  for i, row in enumerate(matrix):
    constant = sum(a * x for a, x in zip(row, values, strict=True))
    terms = list(zip(row, unknowns, strict=True))
    if letters:
      definitions.append(_define(letters[i], constant, draw))
      terms.append((-1, letters[i]))
    else:
      terms.append((-constant, ''))
    equations.append(_equation(terms, draw))
  *first, last = equations
  asked = draw.randrange(count)
  question = f'Solve {", ".join(first)} and {last} for {unknowns[asked]}.'
  return Problem(' '.join([*definitions, question]), values[asked], level)


def _define(letter: str, value: int, draw: random.Random) -> str:
  """Returns a sentence that determines the value of a letter."""
  if draw.random() < 0.5:
    return f'Let {letter} = {value}.'
  factor, shift = draw.choice(_COEFFICIENTS), draw.choice(_COEFFICIENTS)
  terms = [(factor, letter), (shift, ''), (-factor * value - shift, '')]
  return f'Suppose {_equation(terms, draw)}.'


def _equation(terms: Sequence[tuple[int, str]], draw: random.Random) -> str:
  """Writes terms whose sum is 0 as an equation.

  Some terms are split in two, and each term is moved to a random side.

  Args:
    terms: pairs (coefficient, name); the name of a number is ''.
    draw: random generator.
  """
  pieces = []
  for number, name in terms:
    if draw.random() < 0.3:
      part = draw.choice(_COEFFICIENTS)
      pieces += [(part, name), (number - part, name)]
    else:
      pieces.append((number, name))
  pieces = [piece for piece in pieces if piece[0]]
  draw.shuffle(pieces)
  left, right = [], []
  for number, name in pieces:
    if draw.random() < 0.5:
      left.append((number, name))
    else:
      right.append((-number, name))
  return f'{_sum(left)} = {_sum(right)}'


def _sum(terms: Sequence[tuple[int, str]]) -> str:
  text = ''
  for number, name in terms:
    size = abs(number)
    word = str(size) if not name else name if size == 1 else f'{size}*{name}'
    if text:
      text += f' {"-" if number < 0 else "+"} {word}'
    else:
      text = f'{"-" * (number < 0)}{word}'
  return text or '0'


def problems(levels: Sequence[str], seed: str) -> Iterator[Problem]:
  """Yields distinct problems without end, cycling through the levels."""
  draw, seen = random.Random(seed), set()
  for level in itertools.cycle(levels):
    problem = write_problem(level, draw)
    if problem.question not in seen:
      seen.add(problem.question)
      yield problem


def _describe(level: Level) -> str:
  letters = ', with letters for constants' if level.letters else ''
  return f'{level.unknowns} equations and unknowns{letters}.'


class LinearEquations(tfds.core.GeneratorBasedBuilder):
  """Builder with one config per level; the default config mixes all levels."""

  VERSION = tfds.core.Version('1.0.0')
  BUILDER_CONFIGS: tuple = tuple(
    tfds.core.BuilderConfig(name=name, description=description)
    for name, description in (
      ('mixed', 'All levels, in equal numbers.'),
      *((name, _describe(level)) for name, level in LEVELS.items()),
    )
  )

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description=__doc__,
      features=tfds.features.FeaturesDict(
        {
          'question': tfds.features.Text(),
          'answer': tfds.features.Text(),
          'level': tfds.features.Text(),
        }
      ),
      license='Apache-2.0',
      disable_shuffling=True,
    )

  def _split_generators(
    self, dl_manager: tfds.download.DownloadManager
  ) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
    del dl_manager  # nothing is downloaded
    name = self.builder_config.name
    levels = [name] if name in LEVELS else list(LEVELS)
    generated = problems(levels, f'sqlm_jax/linear_equations/{name}/1')
    return {
      split: self._generate_examples(list(itertools.islice(generated, SIZE)))
      for split in ('test', 'validation')
    }

  def _generate_examples(
    self, rows: Iterable[Problem]
  ) -> Iterator[tuple[int, dict[str, Any]]]:
    for i, problem in enumerate(rows):
      yield i, problem._asdict() | {'answer': str(problem.answer)}
