"""The configs that come with the package, by name, and their overrides.

  from sqlm_jax import configs

  config = configs.quickstart({'solver.group_size': 4}, num_steps=3)

The files are in `configs/` of the repository. A wheel has a copy of them.
"""

import importlib.util
import pathlib
import random
import types
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import config_dict

from sqlm_jax.config import parse, schema

__all__ = [
  'default',
  'find',
  'load',
  'names',
  'quickstart',
  'smoke',
  'split',
]

_PACKAGE = pathlib.Path(__file__).parent


def names() -> tuple[str, ...]:
  """Returns the names of the configs that come with the package."""
  files = _directory().glob('[!_]*.py')
  return tuple(sorted(path.stem for path in files))


def find(config: str) -> str:
  """Returns the path of a config that is given by name.

  Args:
    config: Name of a config of the package, or a path. Either may be followed
      by a colon and an argument of `get_config`, which are kept.
  """
  name, colon, argument = config.partition(':')
  if name in names():
    name = str(_directory() / f'{name}.py')
  return f'{name}{colon}{argument}'


def load(
  config: str, overrides: Mapping[str, Any] | None = None, /, **keywords: Any
) -> config_dict.ConfigDict:
  """Returns a config of the package, or of a file.

  Args:
    config: One of `names()`, such as 'quickstart', or the path of a file. An
      argument of `get_config` follows a colon: 'controls:quickstart,random'.
    overrides: New values by key, such as {'solver.group_size': 4}.
    **keywords: New values of keys without a dot, such as `num_steps=3`, or of
      groups, such as `solver={'group_size': 4}`.

  Raises:
    ValueError: If there is no such config, a key is unknown, or a value has
      the wrong type.
  """
  path, colon, argument = find(config).partition(':')
  if not path.endswith('.py') or not pathlib.Path(path).is_file():
    raise ValueError(
      f'config={config!r}: expected one of {", ".join(names())}, or a file *.py'
    )
  module = _load_module(pathlib.Path(path))
  base = module.get_config(argument) if colon else module.get_config()
  return _changed(base, {**(overrides or {}), **keywords})


def default(
  overrides: Mapping[str, Any] | None = None, /, **keywords: Any
) -> config_dict.ConfigDict:
  """Returns every key with its default value; it has no task yet.

  Args:
    overrides: New values by key, see `load`.
    **keywords: New values of keys without a dot, see `load`.
  """
  return load('default', overrides, **keywords)


def quickstart(
  overrides: Mapping[str, Any] | None = None, /, **keywords: Any
) -> config_dict.ConfigDict:
  """Returns the config of SmolLM2-135M on one-digit addition.

  Args:
    overrides: New values by key, see `load`.
    **keywords: New values of keys without a dot, see `load`.
  """
  return load('quickstart', overrides, **keywords)


def smoke(
  overrides: Mapping[str, Any] | None = None, /, **keywords: Any
) -> config_dict.ConfigDict:
  """Returns the config of a tiny random model, which trains in seconds.

  Args:
    overrides: New values by key, see `load`.
    **keywords: New values of keys without a dot, see `load`.
  """
  return load('smoke', overrides, **keywords)


Pairs = tuple[tuple[str, str], ...]


def split(
  questions: Sequence[tuple[str, str]], shown: str, size: int = 20
) -> tuple[Pairs, Pairs]:
  """Splits questions at random into a validation set and a test set.

  Questions that the prompt shows with their answers are in neither set.

  Args:
    questions: Pairs (question, answer).
    shown: Prompt of the solver.
    size: Size of the validation set.
  """
  hidden = [pair for pair in questions if ' = '.join(pair) not in shown]
  mixed = random.Random(0).sample(hidden, len(hidden))
  return tuple(mixed[:size]), tuple(mixed[size:])


def _directory() -> pathlib.Path:
  """Returns the directory of the config files."""
  installed = _PACKAGE / 'shipped_configs'  # setup.py puts them there
  return installed if installed.is_dir() else _PACKAGE.parent / 'configs'


def _load_module(path: pathlib.Path) -> types.ModuleType:
  spec = importlib.util.spec_from_file_location(f'{path.stem}_config', path)
  assert spec is not None  # the path ends with .py
  assert spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def _changed(
  base: config_dict.ConfigDict, overrides: Mapping[str, Any]
) -> config_dict.ConfigDict:
  """Returns a config with new values, with its keys locked."""
  tree = base.to_dict()
  for name, value in _flat(overrides).items():
    *groups, key = name.split('.')
    place = tree
    for group in groups:
      if not isinstance(place.get(group), dict):
        place[group] = {}  # `build` raises an error that names the key
      place = place[group]
    place[key] = value
  config = parse.build(schema.Config, tree)
  return config_dict.ConfigDict(schema.to_dict(config)).lock()


def _flat(tree: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
  """Returns the values of nested mappings by key with dots."""
  flat = {}
  for key, value in tree.items():
    if isinstance(value, Mapping):
      flat |= _flat(value, f'{prefix}{key}.')
    else:
      flat[f'{prefix}{key}'] = value
  return flat
