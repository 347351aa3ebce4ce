"""User-defined functions that a config names as 'module:function'.

They run in a separate process that can be killed. A function that hangs, exits
or raises therefore causes an error that says so. The process is trusted: its
memory and its files are not limited.
"""

import atexit
import functools
import importlib
import inspect
import pathlib
import signal
import traceback
from collections.abc import Callable

from sqlm_jax.grading import pool

TIME_LIMIT = 10.0  # seconds for a call
_IMPORT_LIMIT = 30  # seconds; less than the pool gives a worker to start
_MAX_SHOWN = 200  # characters of a value in an error message

_ENDS = {  # `pool.Result.reason` -> its description in an error message
  'timeout': f'it did not return within {TIME_LIMIT:g} seconds',
  'late': f'it did not return within {TIME_LIMIT:g} seconds',
  'crash': 'it ended its process',
  'memory': 'it ran out of memory',
  'error': 'it failed',
}


class Function:
  """A function that maps a text to a text, or to None for no answer.

  Args:
    key: the config key, for error messages.
    name: 'module:function'.

  Raises:
    ValueError: if the function does not exist or does not take one text.
  """

  def __init__(self, key: str, name: str):
    self._setting = f'{key}={name!r}'
    self._name = name
    self._pool = pool.Pool(
      f'{__name__}:call',
      workers=1,
      time_limit=TIME_LIMIT,
      memory_limit=None,
      warm_up=[name, None],
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
        f'{self._setting}: expected a function of one text, but {problem}'
      )

  def __call__(self, text: str) -> str | None:
    """Calls the function.

    Raises:
      ValueError: if the function does not return a text or None. The message
        says what it did instead.
    """
    value, problem = self._call(text)
    if problem:
      raise ValueError(
        f'{self._setting}: expected a text or None for the question '
        f'{_shown(text)}, but {problem}'
      )
    return value

  def _call(self, text: str | None) -> tuple[str | None, str]:
    """Returns the value, and a description of the problem or ''."""
    try:
      (result,) = self._pool.start().map([[self._name, text]])
    except RuntimeError:  # the worker does not start
      return None, 'importing its module ended the process'
    if result.reason:
      return None, _ENDS[result.reason]
    return tuple(result.value)


def call(task: tuple[str, str | None]) -> tuple[str | None, str]:
  """Calls a user's function in the worker process.

  Args:
    task: the name of the function, and a text. If the text is None, the
      function is only looked up.

  Returns:
    The value, and a description of the problem or ''.
  """
  name, text = task
  function, problem = _find(name)
  if function is None or text is None:
    return None, problem
  try:
    value = function(text)
  except MemoryError:
    raise
  except BaseException as error:
    return None, f'it raised {_raised(error)}'
  if value is None or isinstance(value, str):
    return value, ''
  return None, f'it returned {_shown(value)}'


@functools.cache
def _find(name: str) -> tuple[Callable[[str], object] | None, str]:
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
    inspect.signature(function).bind('')
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
