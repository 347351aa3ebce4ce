"""The config file of a command line, and what is overridden in it.

ml_collections reports an unknown key as a KeyError without its path, and a file
that is no config by whatever Python says of it: both are looked at before.
"""

import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any


def check(
  argv: Sequence[str], load: Callable[[str], Mapping[str, Any]]
) -> None:
  """Refuses a config file or an override that cannot be.

  Args:
    argv: the program, and its flags in any spelling that absl takes.
    load: `--config=FILE -> config`, without overrides, as nested dicts.

  Raises:
    ValueError: by flag and value, with what is allowed.
  """
  given = list(_given(argv[1:]))
  files = [value for key, value in given if key == 'config']
  for value in files:
    _check_file(value)
  overrides = [pair for pair in given if pair[0] != 'config']
  if not overrides:
    return
  if not files:
    key, value = overrides[0]
    raise ValueError(f'--{key}={value}: expected --config=FILE beside it')
  base = load(f'--config={files[-1]}')
  for key, value in overrides:
    _check_override(base, key.removeprefix('config.'), value)


def tell(error: Exception) -> str:
  """What was wrong, without where in the libraries it was found."""
  said = str(error)
  if 'Traceback (most recent call last)' in said:
    return said.strip().splitlines()[-1].removeprefix('ValueError: ')
  return said


def _given(args: Sequence[str]) -> Iterator[tuple[str, str]]:
  """`config` and `config.key`, each with its value."""
  for number, arg in enumerate(args, start=1):
    if arg == '--':
      return
    key, equals, value = arg.lstrip('-').partition('=')
    if not arg.startswith('-') or key.partition('.')[0] != 'config':
      continue
    if not equals:
      behind = args[number : number + 1]
      if not behind or behind[0].startswith('-'):
        continue  # true by being named; absl knows better
      (value,) = behind
    yield key, value


def _check_file(value: str) -> None:
  path = pathlib.Path(value.partition(':')[0])
  if not path.exists():
    raise ValueError(f'--config={value}: expected a config file, there is none')
  if path.suffix != '.py' or path.is_dir():
    hint = ''
    if path.name == 'config.json':
      hint = ', or --workdir alone, whose run knows its config'
    raise ValueError(f'--config={value}: expected a file *.py{hint}')


def _check_override(base: Mapping[str, Any], key: str, value: str) -> None:
  place = base
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
