"""Products of numbers of up to three digits, drawn like the paper's test set.

The paper evaluates on 4,096 problems of TinyZero's generator. Each operand has
one digit with probability 1/4, up to two digits with probability 1/4, and up to
three digits with probability 1/2; no pair occurs twice. This dataset draws
problems in the same way with its own seed. The test set is drawn first and
takes nearly all of the 100 pairs of single digits, so the validation set has
hardly any of them.
"""

import itertools
import random
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

SPLITS = {'test': 4096, 'validation': 512}
_SEED = 'sqlm_jax/multiplication/1'


def operands(draw: random.Random) -> Iterator[tuple[int, int]]:
  """Yields pairs of operands without end; pairs may repeat."""

  def operand() -> int:
    return draw.randrange(10 ** draw.choice((1, 2, 3, 3)))

  while True:
    yield operand(), operand()


def distinct(pairs: Iterator[tuple[int, int]]) -> Iterator[tuple[int, int]]:
  """Yields each pair once, in the order of first occurrence."""
  seen = set()
  for pair in pairs:
    if pair not in seen:
      seen.add(pair)
      yield pair


class Multiplication(tfds.core.GeneratorBasedBuilder):
  """Builder of questions that are bare expressions, such as '12 * 345'."""

  VERSION = tfds.core.Version('1.0.0')

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description=__doc__,
      features=tfds.features.FeaturesDict(
        {
          'question': tfds.features.Text(),
          'answer': tfds.features.Text(),
          'a': tfds.features.Scalar(np.int64),
          'b': tfds.features.Scalar(np.int64),
        }
      ),
      license='Apache-2.0',
      disable_shuffling=True,
    )

  def _split_generators(
    self, dl_manager: tfds.download.DownloadManager
  ) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
    del dl_manager  # nothing is downloaded
    pairs = distinct(operands(random.Random(_SEED)))
    return {
      split: self._generate_examples(list(itertools.islice(pairs, size)))
      for split, size in SPLITS.items()
    }

  def _generate_examples(
    self, pairs: Iterable[tuple[int, int]]
  ) -> Iterator[tuple[int, dict[str, Any]]]:
    for i, (a, b) in enumerate(pairs):
      yield i, {'question': f'{a} * {b}', 'answer': str(a * b), 'a': a, 'b': b}
