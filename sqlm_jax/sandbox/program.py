"""Turns a forked child of the sandbox worker into an interpreter of a script.

`worker` receives this module in compiled form from the host and calls it in
the child process that it forks for each test.
"""

import _signal  # ty: ignore[import-not-found]  typeshed does not have it
import _sitebuiltins
import _thread
import atexit
import builtins
import gc
import io
import os
import resource
import sys

TYPE_CHECKING = False  # importing `typing` would slow down every start
if TYPE_CHECKING:
  from typing import Any

  from sqlm_jax.sandbox import worker

_MAX_DESCRIPTORS = 64
_STACK = 64 * 2**20
_SCRIPT = 'program.py'
_STREAMS = (  # name, mode and error handler of each standard stream
  ('stdin', 'r', 'surrogateescape'),
  ('stdout', 'w', 'surrogateescape'),
  ('stderr', 'w', 'backslashreplace'),
)


def give_up_everything(descriptors: list[int], limits: 'worker.Limits') -> None:
  """Closes all but the standard streams of a child and sets its limits."""
  os.setpgid(0, 0)
  for target, descriptor in enumerate(descriptors):
    os.dup2(descriptor, target)
  os.closerange(3, 1024)
  _signal.signal(_signal.SIGINT, _signal.default_int_handler)
  _limit(limits)
  _bound_stacks(limits.memory // 2)


def _limit(limits: 'worker.Limits') -> None:
  seconds = int(limits.cpu) + 2  # a fallback; the worker's limit is exact
  for kind, value in (
    (resource.RLIMIT_CPU, seconds),
    (resource.RLIMIT_NPROC, limits.processes + 1),  # + 1 for the worker
    (resource.RLIMIT_FSIZE, limits.files),
    (resource.RLIMIT_NOFILE, _MAX_DESCRIPTORS),
    (resource.RLIMIT_CORE, 0),
    (resource.RLIMIT_MEMLOCK, 0),
    (resource.RLIMIT_MSGQUEUE, 0),
    (resource.RLIMIT_SIGPENDING, _MAX_DESCRIPTORS),
    (resource.RLIMIT_AS, limits.memory),
  ):
    _, hard = resource.getrlimit(kind)
    if hard != resource.RLIM_INFINITY:
      value = min(value, hard)
    resource.setrlimit(kind, (value, value))
  # A high limit for programs that recurse deeply; RLIMIT_AS bounds memory.
  _, hard = resource.getrlimit(resource.RLIMIT_STACK)
  soft = _STACK if hard == resource.RLIM_INFINITY else min(_STACK, hard)
  resource.setrlimit(resource.RLIMIT_STACK, (soft, hard))


def _bound_stacks(max_bytes: int) -> None:
  """Caps the thread stack size that a program requests at `max_bytes`.

  Many programs request 512 MiB because programming contests count only the
  memory that is used.
  """
  set_size = _thread.stack_size

  def stack_size(size: int = 0, /) -> int:
    return set_size(min(size, max_bytes))

  vars(_thread)['stack_size'] = stack_size


class Run:
  """A program that is about to run as the script of this interpreter.

  It also ends the process before the interpreter frees its memory. Freeing
  takes longer than most programs run, because every page that the child shares
  with the worker is copied. `_end`, which atexit calls last, therefore does
  only those shutdown steps that a program can observe.

  Attributes:
    status: the exit status; None if the interpreter shall end the process.
    held: the compiled program and the namespace of its module `__main__`.
  """

  def __init__(self, source: str):
    self.status: int | None = 1
    atexit.register(self._end)
    for descriptor, (name, mode, errors) in enumerate(_STREAMS):
      stream = _text_stream(
        descriptor, name=f'<{name}>', mode=mode, errors=errors
      )
      setattr(sys, name, stream)
      setattr(sys, f'__{name}__', stream)
    gc.freeze()  # `_end` then visits only objects that the program created
    folder = os.getcwd()
    path = os.path.join(folder, _SCRIPT)
    sys.argv = [_SCRIPT]
    sys.path[:] = [folder, *(entry for entry in sys.path if entry)]
    # The module `site` defines these, but takes too long to import.
    for name in ('exit', 'quit'):
      setattr(builtins, name, _sitebuiltins.Quitter(name, 'Ctrl-D (i.e. EOF)'))
    builtins.help = _sitebuiltins._Helper()
    module = type(sys)('__main__')
    module.__dict__.update(
      __builtins__=builtins, __annotations__={}, __file__=path, __cached__=None
    )
    sys.modules['__main__'] = module
    source = source.removeprefix('\ufeff')
    _save(path, source.encode())
    program = compile(source, path, 'exec', dont_inherit=True)
    self.held = [program, module.__dict__]

  def fail(self, error: BaseException) -> None:
    """Sets the exit status that the interpreter assigns to an exception."""
    if isinstance(error, KeyboardInterrupt):
      self.status = None  # the interpreter ends the process by a signal
    elif isinstance(error, SystemExit) and error.code is None:
      self.status = 0
    elif isinstance(error, SystemExit) and isinstance(error.code, int):
      self.status = error.code & 255 if abs(error.code) < 2**63 else 255

  def _end(self) -> None:
    if self.status is None or not _flush():
      return  # the interpreter flushes again and reports the error
    for file in _files():
      file.flush()
    self.held = []
    # CPython does this, too; typeshed's modules are never None.
    sys.modules['__main__'] = None  # ty: ignore[invalid-assignment]
    for name in ('last_type', 'last_value', 'last_traceback', 'last_exc'):
      setattr(sys, name, None)
    for name, *_ in _STREAMS:
      setattr(sys, name, getattr(sys, f'__{name}__'))
    gc.collect()  # finalizers run
    os._exit(self.status if _flush() else 120)


def _files() -> list:
  """Returns the files still open for writing, text files first."""
  objects = gc.get_objects()
  kinds = set(map(type, objects))  # far fewer types than objects
  files = []
  for writer in (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom):
    if any(issubclass(kind, writer) for kind in kinds):
      files += [x for x in objects if issubclass(type(x), writer)]
  return [file for file in files if not file.closed and file.writable()]


def _text_stream(
  descriptor: int, *, name: str, mode: str, errors: str
) -> io.TextIOWrapper:
  """Creates a standard stream as CPython's `create_stdio` does."""
  # In typeshed, `name` and `mode` cannot be set.
  buffer: Any = open(descriptor, mode + 'b', closefd=False)  # noqa: SIM115
  buffer.raw.name = name
  stream: Any = io.TextIOWrapper(
    buffer, 'utf-8', errors, '\n', line_buffering=name == '<stderr>'
  )
  stream.mode = mode
  return stream


def _save(path: str, source: bytes) -> None:
  """Writes the script to the path that `__file__` names."""
  try:
    with open(path, 'wb') as file:
      file.write(source)
  except OSError:
    pass  # an earlier test may have created something at this path


def _flush() -> bool:
  """Flushes stdout and stderr as CPython's `flush_std_files` does."""
  try:
    for stream in (getattr(sys, name, None) for name, *_ in _STREAMS[1:]):
      if stream is not None and not stream.closed:
        stream.flush()
  except Exception:
    return False
  return True
