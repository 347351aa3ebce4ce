"""User-defined functions that a config names as 'module:function'.

They run in a separate process that can be killed. A function that hangs, exits
or raises therefore causes an error that says so. The process is trusted: its
memory and its files are not limited.
"""

import atexit
import functools
import importlib
import inspect
import math
import numbers
import pathlib
import re
import signal
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from sqlm_jax.grading import pool

TIME_LIMIT = 10.0  # seconds for a call
_IMPORT_LIMIT = 30  # seconds; less than the pool gives a worker to start
_MAX_SHOWN = 200  # characters of a value in an error message
_REASON = re.compile(r'\w{1,40}')

_ENDS = {  # `pool.Result.reason` -> its description in an error message
  'timeout': f'it did not return within {TIME_LIMIT:g} seconds',
  'late': f'it did not return within {TIME_LIMIT:g} seconds',
  'crash': 'it ended its process',
  'memory': 'it ran out of memory',
  'error': 'it failed',
}

# An argument of a function: a text, None for an unparsed answer, or answers.
Argument = str | None | Sequence[str | None]


class _UserFunction(Protocol):
  """A function in a module of the user."""

  def __call__(self, *arguments: Argument) -> object: ...


class Kind(NamedTuple):
  """The arguments and the value of a function.

  Attributes:
    takes: Names of the arguments.
    returns: Describes the allowed values; completes 'expected ...'.
    is_valid: Returns True for an allowed value.
  """

  takes: tuple[str, ...]
  returns: str
  is_valid: Callable[[object], bool]


def _is_reason(value: object) -> bool:
  is_word = isinstance(value, str) and bool(_REASON.fullmatch(value))
  return value is None or is_word


def _is_number(value: object) -> bool:
  return isinstance(value, numbers.Real) and math.isfinite(value)


def _is_texts(value: object) -> bool:
  is_sequence = isinstance(value, list | tuple)
  return is_sequence and all(isinstance(text, str) for text in value)


_REASONS = ('a reason of one word, or None', _is_reason)
_NUMBERS = ('a finite number', _is_number)
KINDS = {
  'task.checker': Kind(
    ('question',),
    'a text or None',
    lambda value: value is None or isinstance(value, str),
  ),
  'task.equivalent_forms': Kind(('question',), 'a list of texts', _is_texts),
  'gate.functions': Kind(('question',), *_REASONS),
  'exclude.functions': Kind(('response',), *_REASONS),
  'solver.reward_functions': Kind(
    ('question', 'response', 'answer'), *_NUMBERS
  ),
  'proposer.reward_functions': Kind(('question', 'answers'), *_NUMBERS),
}


class Function:
  """A function of the user, which runs in a process of its own.

  Args:
    key: Config key that names the function, one of `KINDS`.
    name: 'module:function'.

  Raises:
    ValueError: If the function does not exist or takes other arguments.
  """

  def __init__(self, key: str, name: str):
    self._setting = f'{key}={name!r}'
    self._key, self._name, self._kind = key, name, KINDS[key]
    self._pool = pool.Pool(
      f'{__name__}:call',
      workers=1,
      time_limit=TIME_LIMIT,
      memory_limit=None,
      warm_up=[key, name, None],
    )
    atexit.register(self._pool.close)
    try:
      problem = self._call(None)[1]
    except BaseException:
      self._pool.close()
      raise
    if problem:
      self._pool.close()
      raise ValueError(
        f'{self._setting}: expected a function of '
        f'({", ".join(self._kind.takes)}), but {problem}'
      )

  def __call__(self, *arguments: Argument) -> Any:
    """Calls the function.

    Args:
      *arguments: One for each name in `Kind.takes`.

    Raises:
      ValueError: If the function does not return an allowed value. The message
        says what it did instead.
    """
    value, problem = self._call(arguments)
    if problem:
      given = ' and '.join(
        f'the {name} {_shown(argument)}'
        for name, argument in zip(self._kind.takes, arguments, strict=True)
      )
      raise ValueError(
        f'{self._setting}: expected {self._kind.returns} for {given}, but '
        f'{problem}'
      )
    return value

  def _call(self, arguments: Sequence[Argument] | None) -> tuple[Any, str]:
    """Returns the value, and a description of the problem or ''."""
    task = [self._key, self._name, arguments]
    try:
      (result,) = self._pool.start().map([task])
    except RuntimeError:  # the worker does not start
      return None, 'importing its module ended the process'
    if result.reason:
      return None, _ENDS[result.reason]
    return tuple(result.value)


def call(task: tuple[str, str, Sequence[Argument] | None]) -> tuple[Any, str]:
  """Calls a user's function in the worker process.

  Args:
    task: The config key, the name of the function, and its arguments. If the
      arguments are None, the function is only looked up.

  Returns:
    The value, and a description of the problem or ''.
  """
  key, name, arguments = task
  function, problem = _find(key, name)
  if function is None or arguments is None:
    return None, problem
  try:
    value = function(*arguments)
  except MemoryError:
    raise
  except BaseException as error:
    return None, f'it raised {_raised(error)}'
  if not KINDS[key].is_valid(value):
    return None, f'it returned {_shown(value)}'
  return float(value) if isinstance(value, numbers.Real) else value, ''


@functools.cache
def _find(key: str, name: str) -> tuple[_UserFunction | None, str]:
  """Returns a function and '', or None and the reason it cannot be used."""
  module, _, attribute = name.partition(':')

  def give_up(*_: object) -> None:
    raise TimeoutError(f'it took more than {_IMPORT_LIMIT} seconds')

  before = signal.signal(signal.SIGALRM, give_up)
  signal.alarm(_IMPORT_LIMIT)
  try:
    function = getattr(importlib.import_module(module), attribute)
  except BaseException as error:
    return None, f'importing it raised {_raised(error)}'
  finally:
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
  if not callable(function):
    return None, f'it is {_shown(function)}'
  try:
    inspect.signature(function).bind(*KINDS[key].takes)
  except TypeError as error:
    return None, f'it takes other arguments: {error}'
  except ValueError:
    pass  # a function implemented in C may have no signature
  return function, ''


def _raised(error: BaseException) -> str:
  """Describes an error, and where in the user's code it was raised."""
  text = traceback.format_exception_only(error)[-1].strip()
  places = [
    (frame.filename, frame.lineno)
    for frame in traceback.extract_tb(error.__traceback__)[1:]
    if not frame.filename.startswith(('<frozen', importlib.__file__))
  ]
  if isinstance(error, SyntaxError):
    places.append((error.filename or '', error.lineno))
  if not places:
    return text
  file, line = places[-1]
  return f'{text} ({pathlib.Path(file).name}:{line})'


def _shown(value: object) -> str:
  """Returns the beginning of a value's repr, and its type unless a text."""
  try:
    text = repr(value)
  except Exception:
    text = f'an object of {type(value)}'
  kind = '' if isinstance(value, str) else f' ({type(value).__name__})'
  if len(text) > _MAX_SHOWN:
    text = f'{text[:_MAX_SHOWN]}…'
  return text + kind
