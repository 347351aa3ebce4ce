"""Small programming problems: read a line of integers, print integers.

The problems have the form of the paper's coding task and were written for this
project. The file programs.jsonl in this directory holds each problem with its
tests and a solution. The project's test suite runs all solutions against the
tests, and every evaluation runs some of them first.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any

import tensorflow_datasets as tfds
from etils import epath

_FILE = epath.Path(__file__).parent / 'programs.jsonl'


class Programs(tfds.core.GeneratorBasedBuilder):
  """Builder of questions that are descriptions, graded by tests."""

  VERSION = tfds.core.Version('1.0.0')

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description=__doc__,
      features=tfds.features.FeaturesDict(
        {
          'question': tfds.features.Text(),
          'inputs': tfds.features.Sequence(tfds.features.Text()),
          'outputs': tfds.features.Sequence(tfds.features.Text()),
          'solution': tfds.features.Text(),
        }
      ),
      license='Apache-2.0',
      disable_shuffling=True,
    )

  def _split_generators(
    self, dl_manager: tfds.download.DownloadManager
  ) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
    del dl_manager  # nothing is downloaded
    lines = _FILE.read_text(encoding='utf-8').splitlines()
    rows = [json.loads(line) for line in lines]
    return {
      split: self._generate_examples([r for r in rows if r['split'] == split])
      for split in ('test', 'validation')
    }

  def _generate_examples(
    self, rows: Iterable[dict[str, Any]]
  ) -> Iterator[tuple[int, dict[str, Any]]]:
    for i, row in enumerate(rows):
      inputs, outputs = zip(*row['tests'], strict=True)
      yield (
        i,
        {
          'question': row['question'],
          'inputs': list(inputs),
          'outputs': list(outputs),
          'solution': row['solution'],
        },
      )
