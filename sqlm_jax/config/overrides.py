"""Checks the config file and the overrides of a command line.

For an unknown key, ml_collections raises a KeyError without the key's path; for
a file that is not a config, it passes on any error of Python. These checks run
before ml_collections and report clear errors.
"""

import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any


def replace_config(
  argv: Sequence[str], find: Callable[[str], str]
) -> list[str]:
  """Replaces the value of each flag --config in a command line.

  Args:
    argv: The program and its flags, in any form that absl accepts.
    find: Function that returns the path of a config given by name or path.
  """
  replaced = list(argv)
  for number, arg in enumerate(argv[1:], start=1):
    if arg == '--':
      break
    key, equals, value = arg.partition('=')
    if key not in ('-config', '--config'):
      continue
    if equals:
      replaced[number] = f'{key}={find(value)}'
    elif number + 1 < len(argv):
      replaced[number + 1] = find(argv[number + 1])
  return replaced


def check(
  argv: Sequence[str],
  load: Callable[[str], Mapping[str, Any]],
  *,
  names: Sequence[str] = (),
) -> None:
  """Checks the config file and every override.

  Args:
    argv: The program and its flags, in any form that absl accepts.
    load: Function `load(flag)` that returns the config for a flag
      '--config=FILE' as nested dicts, without overrides.
    names: Names of configs that are allowed in place of a file.

  Raises:
    ValueError: If the file or an override is invalid. The message has the flag,
      its value and the allowed values.
  """
  given = list(_given(argv[1:]))
  files = [value for key, value in given if key == 'config']
  for value in files:
    _check_file(value, names)
  overrides = [pair for pair in given if pair[0] != 'config']
  if not overrides:
    return
  if not files:
    key, value = overrides[0]
    raise ValueError(f'--{key}={value}: expected --config=FILE as well')
  base = load(f'--config={files[-1]}')
  for key, value in overrides:
    _check_override(base, key.removeprefix('config.'), value)


def tell(error: Exception) -> str:
  """Returns the message of an error without the traceback of a library."""
  said = str(error)
  if 'Traceback (most recent call last)' in said:
    return said.strip().splitlines()[-1].removeprefix('ValueError: ')
  return said


def _given(args: Sequence[str]) -> Iterator[tuple[str, str]]:
  """Yields pairs of a flag, 'config' or 'config.KEY', and its value."""
  for number, arg in enumerate(args, start=1):
    if arg == '--':
      return
    key, equals, value = arg.lstrip('-').partition('=')
    if not arg.startswith('-') or key.partition('.')[0] != 'config':
      continue
    if not equals:
      following = args[number : number + 1]
      if not following or following[0].startswith('-'):
        continue  # a flag without a value, such as a boolean; absl handles it
      (value,) = following
    yield key, value


def _check_file(value: str, names: Sequence[str]) -> None:
  path = pathlib.Path(value.partition(':')[0])
  if not path.exists():
    named = f' Configs by name: {", ".join(names)}' if names else ''
    raise ValueError(
      f'--config={value}: expected a config file, there is none.{named}'
    )
  if path.suffix != '.py' or path.is_dir():
    hint = ''
    if path.name == 'config.json':
      hint = ', or --workdir alone, whose run knows its config'
    raise ValueError(f'--config={value}: expected a file *.py{hint}')


def _check_override(base: Mapping[str, Any], key: str, value: str) -> None:
  place: Any = base
  for name in key.split('.'):
    known = tuple(place) if isinstance(place, Mapping) else ()
    if name not in known:
      raise ValueError(
        f'{key}={value!r}: unknown key'
        + (f', expected one of {", ".join(known)}' if known else '')
      )
    place = place[name]
  kinds = {bool: 'true or false', int: 'a whole number', float: 'a number'}
  if type(place) not in kinds:
    return
  parse = {'true': True, 'false': False} if isinstance(place, bool) else None
  try:
    _ = parse[value.lower()] if parse else type(place)(value)
  except (KeyError, ValueError):
    raise ValueError(
      f'{key}={value!r}: expected {kinds[type(place)]}'
    ) from None
