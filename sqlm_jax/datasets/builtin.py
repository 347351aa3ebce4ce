"""Loads labeled questions by name: a generated dataset, or a file."""

import contextlib
import io
import pathlib
import re
import tempfile
from collections.abc import Generator, Mapping
from typing import Any

import tensorflow_datasets as tfds
from absl import logging
from etils import epath

from sqlm_jax.datasets import (
  files,
  linear_equations,
  multiplication,
  orders,
  programs,
)
from sqlm_jax.game import types

BUILDERS = {
  builder.name: builder
  for builder in (
    multiplication.Multiplication,
    linear_equations.LinearEquations,
    orders.Orders,
    programs.Programs,
  )
}
_NAME = re.compile(r'(?P<builder>\w+)(?:/(?P<config>\w+))?/(?P<split>[^/]+)')


def read(origin: str, directory: epath.PathLike) -> tuple[types.Example, ...]:
  """Reads a dataset, and generates it first if necessary.

  Args:
    origin: name of a dataset and split, such as 'multiplication/test' or
      'linear_equations/level_2/test', optionally with a slice in the syntax of
      tensorflow-datasets, such as 'multiplication/test[:512]'; or the path of a
      file, see `files`.
    directory: directory of the generated datasets.

  Returns:
    The examples in order.

  Raises:
    FileNotFoundError: if `origin` has the suffix of a file and does not exist.
    ValueError: if there is no such dataset or split, or if it is empty.
  """
  if origin.endswith(files.SUFFIXES):
    return files.read_examples(origin)
  match = _NAME.fullmatch(origin)
  if match is None or match['builder'] not in BUILDERS:
    raise ValueError(
      f'{origin!r}: expected a file that ends in {", ".join(files.SUFFIXES)}, '
      f'or DATASET/SPLIT with DATASET one of {", ".join(BUILDERS)}'
    )
  cls = BUILDERS[match['builder']]
  configs = [config.name for config in cls.BUILDER_CONFIGS]
  if match['config'] and match['config'] not in configs:
    raise ValueError(
      f'{origin!r}: expected a config of {match["builder"]}: '
      f'{", ".join(configs) or "none exists"}'
    )
  with _quietly():
    builder = _prepared(cls, match['config'], directory)
  try:
    source = builder.as_data_source(split=match['split'])
    empty = not len(source)  # raises for a slice such as [9:3]
  except (
    AssertionError,
    KeyError,
    NotImplementedError,  # a slice of all splits
    ValueError,
  ) as error:
    raise ValueError(
      f'{origin!r}: expected a split, one of {", ".join(builder.info.splits)}, '
      f"or a slice such as 'test[:100]' ({error})"
    ) from None
  if empty:
    raise ValueError(f'{origin!r}: expected a slice that is not empty')
  return tuple(map(_example, source))


def _prepared(
  cls: type[tfds.core.DatasetBuilder],
  config: str | None,
  directory: epath.PathLike,
) -> tfds.core.DatasetBuilder:
  """Returns the builder of a dataset, and generates the dataset if necessary.

  The dataset is generated in a temporary directory and moved with one rename,
  so that it is either complete or absent. The temporary directory of
  tensorflow-datasets is not safe here: its name comes from Python's global
  random numbers, so two processes with the same seed would share it.
  """

  def make(data_dir: epath.PathLike) -> tfds.core.DatasetBuilder:
    return cls(
      data_dir=str(data_dir), config=config, file_format='array_record'
    )

  absent = make(directory)
  if not absent.is_prepared():
    target = pathlib.Path(absent.data_dir)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory) as temporary:
      made = make(temporary)
      made.download_and_prepare(
        download_config=tfds.download.DownloadConfig(try_download_gcs=False)
      )
      try:
        pathlib.Path(made.data_dir).rename(target)
      except OSError:
        if not make(directory).is_prepared():
          raise  # otherwise another process has moved it in first
  # A builder only knows the files that existed when it was created, and another
  # process may have moved the dataset in since then. Hence a new builder.
  return make(directory)


@contextlib.contextmanager
def _quietly() -> Generator[None]:
  """Suppresses progress bars and warnings about missing files."""
  tfds.disable_progress_bar()
  verbosity = logging.get_verbosity()
  logging.set_verbosity(logging.ERROR)
  try:
    with contextlib.redirect_stdout(io.StringIO()):
      yield
  finally:
    logging.set_verbosity(verbosity)


def _example(row: Mapping[str, Any]) -> types.Example:

  def text(name: str) -> str:
    return row[name].decode() if name in row else ''

  pairs = zip(row.get('inputs', ()), row.get('outputs', ()), strict=True)
  return types.Example(
    text('question'),
    text('answer'),
    tuple(types.TestCase(a.decode(), b.decode()) for a, b in pairs),
    text('solution'),
  )
