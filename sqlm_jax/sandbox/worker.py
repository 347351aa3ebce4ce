"""Runs inside a sandbox: starts one program once per test and watches it.

The host sends the source and then the inputs, one at a time. The worker reports
how the program ended and what it wrote. A program is a forked child that holds
only its three standard streams, so the host cannot mistake its output for a
message of the worker. The worker is the first process of its namespace, so a
program cannot signal it. It does not know the expected output.

The child returns from `main` and runs the program at the top level of the
interpreter, which therefore ends a program as it ends any script: it prints
uncaught errors, waits for threads, calls atexit handlers, flushes files and
computes the exit status. `program` prepares the child.

A message from the host is an 8-byte length followed by that number of bytes.
The first message is the compiled `program`, because sqlm_jax is not
available in a sandbox. An answer is a letter (why the program was ended, see
`_why`), the wait status, the lengths of stdout and stderr, and their content.
"""

# Importing the module signal takes longer than starting bwrap.
import _signal  # ty: ignore[import-not-found]  typeshed does not have it
import ctypes
import gc
import marshal
import os
import select
import sys
import time

TYPE_CHECKING = False  # importing `typing` would slow down every start
if TYPE_CHECKING:
  from typing import Any

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP = 1, 4, 22
_MODE_FILTER = 2
_M_ARENA_MAX = -8  # a parameter of mallopt
_USER = 1000  # inside the sandbox; if root started it, see `map_users`
_TICK = 0.02  # seconds between two checks of the limits
_SHORT_TICK = 0.001  # after a program has closed its output: it will end soon
_MAX_FILES = 256  # tmpfs limits only bytes, but empty files also take memory
_ERROR_BYTES = 4096  # the number of bytes kept from the end of stderr
_STREAMS = 'stdin', 'stdout', 'stderr'


class Limits:
  """The limits of a run, from the fields of `sandbox.Limits` as text."""

  def __init__(self, *numbers: str):
    self.cpu, self.wall = map(float, numbers[:2])
    self.memory, self.processes, self.files, self.output = map(int, numbers[2:])


def main(backend: str, streams: str, code: str, *numbers: str) -> 'Any':
  """Answers the host until it hangs up; returns only in the child of a test.

  Args:
    backend: 'bubblewrap', or another backend, which does not protect this
      process.
    streams: an empty directory for the files of the standard streams.
    code: the system call filter for the program, in hexadecimal digits.
    *numbers: the fields of `sandbox.Limits`.

  Returns:
    The program as a `program.Run`.
  """
  channel = os.dup(0)  # a socket
  null = os.open('/dev/null', os.O_RDWR)
  os.dup2(null, 0)
  os.dup2(null, 1)
  libc = ctypes.CDLL(None, use_errno=True)
  if hasattr(libc, 'mallopt'):
    # Each thread would otherwise reserve 64 MiB of address space for an arena.
    libc.mallopt(_M_ARENA_MAX, 1)
  _signal.signal(_signal.SIGINT, _signal.SIG_IGN)
  files = _Files(streams)
  if backend == 'bubblewrap':
    files.protect()
    _become_nobody(libc)
  sys.dont_write_bytecode = True
  limits = Limits(*numbers)
  child = type(sys)('sandbox_program')
  exec(marshal.loads(_receive(channel)), child.__dict__)
  os.write(channel, b'ready\n')
  source = _receive(channel)
  gc.freeze()  # a child's final collection then skips shared objects
  while True:
    files.set_input(_receive(channel))
    descriptors = files.open_streams()
    pid = os.fork()
    if not pid:
      child.give_up_everything(descriptors, limits)
      _forbid(libc, bytes.fromhex(code))
      return child.Run(source.decode())
    for descriptor in descriptors:
      os.close(descriptor)
    report = _watch(pid, files=files, limits=limits, channel=channel)
    _write(channel, report)


class _Files:
  """The files of a program's standard streams.

  They have names because a program may open /dev/stdin and /dev/stdout. They
  are reopened for every test.
  """

  def __init__(self, directory: str):
    self.directory = directory
    self.work = os.open('.', os.O_RDONLY)  # works even after a chmod of '.'
    self._paths = [os.path.join(directory, name) for name in _STREAMS]
    path_in, *paths_out = self._paths
    mask = os.umask(0)
    self._input = os.open(path_in, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444)
    for path in paths_out:
      os.mkfifo(path, 0o622)
    os.umask(mask)
    flags = os.O_RDONLY | os.O_NONBLOCK
    self.output, self.error = (os.open(path, flags) for path in paths_out)

  def protect(self) -> None:
    """Prevents programs, which cannot call chmod, from replacing the files."""
    os.chmod(self.directory, 0o555)

  def set_input(self, text: bytes) -> None:
    os.ftruncate(self._input, 0)
    os.lseek(self._input, 0, os.SEEK_SET)
    _write(self._input, text)

  def open_streams(self) -> list[int]:
    """Returns new file descriptors of stdin, stdout and stderr for one run."""
    path_in, *paths_out = self._paths
    return [
      os.open(path_in, os.O_RDONLY),
      *(os.open(path, os.O_WRONLY) for path in paths_out),
    ]


def _become_nobody(libc: ctypes.CDLL) -> None:
  if os.getuid() == 0:
    os.setgroups([])
    os.setresgid(_USER, _USER, _USER)
    os.setresuid(_USER, _USER, _USER)  # this also drops every capability
  # The worker ends with bwrap. It notices the end of the host by the socket.
  _check(libc.prctl(_PR_SET_PDEATHSIG, _signal.SIGKILL, 0, 0, 0))
  _check(libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0))  # hides the worker's memory


def _forbid(libc: ctypes.CDLL, code: bytes) -> None:
  """Installs a system call filter, which cannot be removed."""
  if not code:
    return
  buffer = ctypes.create_string_buffer(code, len(code))
  program = (ctypes.c_uint64 * 2)(len(code) // 8, ctypes.addressof(buffer))
  address = ctypes.c_void_p(ctypes.addressof(program))
  _check(libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, address, 0, 0))


def _check(returned: int) -> None:
  if returned != 0:
    raise OSError(ctypes.get_errno(), 'prctl')


def _receive(channel: int) -> bytes:
  return _read(channel, int.from_bytes(_read(channel, 8), 'big'))


def _read(channel: int, size: int) -> bytes:
  chunks = []
  while size:
    chunk = os.read(channel, min(size, 2**20))
    if not chunk:
      os._exit(0)  # the host hung up
    chunks.append(chunk)
    size -= len(chunk)
  return b''.join(chunks)


def _report(why: bytes, status: int, *, out: bytes, err: bytes) -> bytes:
  """Returns an answer to the host."""
  numbers = (status, len(out), len(err))
  head = why + b''.join(n.to_bytes(4, 'big') for n in numbers)
  return head + out + err


def _write(descriptor: int, data: bytes) -> None:
  left = memoryview(data)
  while left:
    left = left[os.write(descriptor, left) :]


def _watch(pid: int, *, files: _Files, limits: Limits, channel: int) -> bytes:
  """Waits for the end of a run and returns the answer to the host."""
  run = _Watch(pid, files=files, limits=limits, channel=channel)
  try:
    why = run.until_the_end()
    status = run.close()
  except OSError as error:
    # Only the program itself can cause this error.
    return _report(b'x', run.kill(), out=b'', err=str(error).encode())
  if len(run.out) > limits.output:
    why = b'o'
  out = bytes(run.out[: limits.output])
  return _report(why, status, out=out, err=bytes(run.err))


class _Watch:
  """Supervises a running program."""

  def __init__(self, pid: int, *, files: _Files, limits: Limits, channel: int):
    self.pid, self.files = pid, files
    self.limits, self.channel = limits, channel
    self.out, self.err = bytearray(), bytearray()
    self.error_bytes = 0
    self.status: int | None = None
    self.clock = (~pid << 3) | 2  # clock id of the child's processor time
    self.poll = select.poll()
    self.poll.register(channel, 0)  # reports only that the host hung up
    self.open = {files.output, files.error}
    for descriptor in self.open:
      self.poll.register(descriptor, select.POLLIN)

  def until_the_end(self) -> bytes:
    """Returns the exceeded limit, see `_why`, or b'-' if the program ended."""
    end = time.monotonic() + self.limits.wall
    while not self._has_ended():
      if why := self._why(end):
        return why
      tick = _TICK if self.open else _SHORT_TICK
      ready = self.poll.poll(tick * 1000)
      if any(descriptor == self.channel for descriptor, _ in ready):
        self.kill()
        os._exit(0)
      for descriptor in (self.files.output, self.files.error):
        self._read(descriptor)
    return b'-'

  def _has_ended(self) -> bool:
    pid, status = os.waitpid(self.pid, os.WNOHANG)
    if pid:
      self.status = status
    return bool(pid)

  def _why(self, end: float) -> bytes:
    """Returns the exceeded limit: (o)utput, (w)all, (c)pu, (f)iles, or b''."""
    if len(self.out) + self.error_bytes > self.limits.output:
      return b'o'
    if time.monotonic() > end:
      return b'w'
    if self._seconds() > self.limits.cpu:
      return b'c'
    system = os.fstatvfs(self.files.work)
    if os.getpid() == 1 and system.f_files - system.f_ffree > _MAX_FILES:
      return b'f'
    return b''

  def _seconds(self) -> float:
    """Returns the processor time of all threads of the program."""
    try:
      return time.clock_gettime(self.clock)
    except OSError:  # the program has just ended
      return 0.0

  def _read(self, descriptor: int) -> bool:
    """Reads available output; returns True if there may be more."""
    try:
      chunk = os.read(descriptor, 2**16)
    except BlockingIOError:
      return False
    if not chunk and descriptor in self.open:
      # The program may reopen the stream by its name later.
      self.open.discard(descriptor)
      self.poll.unregister(descriptor)
    elif descriptor == self.files.output:
      self.out += chunk
    else:
      self.error_bytes += len(chunk)
      self.err = (self.err + chunk)[-_ERROR_BYTES:]
    return bool(chunk)

  def kill(self) -> int:
    """Ends the program and its process group; returns its wait status."""
    if self.status is None:
      for end in (os.killpg, os.kill):
        try:
          end(self.pid, _signal.SIGKILL)
        except OSError:  # the process group does not exist yet, or was left
          continue
      _, self.status = os.waitpid(self.pid, 0)
    return self.status

  def close(self) -> int:
    """Ends the program, reads the remaining output; returns the status."""
    status = self.kill()
    for descriptor in (self.files.output, self.files.error):
      while self._read(descriptor):
        pass  # bounded by the pipe buffers, since no writer is left
    return status


if __name__ == '__main__':
  _run = main(*sys.argv[1:])
  try:
    exec(*_run.held)
    _run.status = 0
  except BaseException as _error:
    _run.fail(_error)
    raise
