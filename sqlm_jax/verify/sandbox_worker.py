"""Runs inside a sandbox: starts one program, once a test, and watches it.

The host sends the source and then one input after the other; what comes back
is how the program ended and what it wrote. A program is a forked child that
holds three pipes and nothing else, so that no word of it can be mistaken for
one of this process. As this process is the first of its namespace, no signal
of a program reaches it either. It knows no expected output.

A message from the host is 8 bytes of length and the bytes. An answer is a
letter (why it was ended: see `_watch`), the wait status, two lengths, and what
was written to stdout and to stderr.
"""

import _signal  # the module signal would take longer to import than bwrap
import atexit
import builtins
import ctypes
import os
import resource
import select
import sys
import time

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP = 1, 4, 22
_MODE_FILTER = 2
_USER = 1000  # in the sandbox, where root has another user mapped for it
_TICK = 0.02  # seconds between two looks at clocks and counts
_SHORT_TICK = 0.001  # once a program has closed its output: it is about to end
_MOST_FILES = 256  # a file system limits bytes, but empty files cost, too
_MOST_DESCRIPTORS = 64
_STACK = 64 * 2**20
_ERROR_BYTES = 4096  # of stderr that are kept, the last ones


class _Limits:
  def __init__(self, cpu, wall, memory, processes, files, output):
    self.cpu, self.wall = float(cpu), float(wall)
    self.memory, self.processes = int(memory), int(processes)
    self.files, self.output = int(files), int(output)


def main(backend: str, code: str, *numbers: str) -> None:
  """Answers the host until it hangs up.

  Args:
    backend: 'bubblewrap', or whatever does not protect this process.
    code: a filter of system calls for the program in hexadecimal digits.
    *numbers: the limits of `sandbox.Limits`.
  """
  channel = os.dup(0)  # a socket
  null = os.open('/dev/null', os.O_RDWR)
  os.dup2(null, 0)
  os.dup2(null, 1)
  libc = ctypes.CDLL(None, use_errno=True)
  _signal.signal(_signal.SIGINT, _signal.SIG_IGN)
  if backend == 'bubblewrap':
    _become_nobody(libc)
  sys.dont_write_bytecode = True
  limits = _Limits(*numbers)
  start = lambda: _forbid(libc, bytes.fromhex(code))
  os.write(channel, b'ready\n')
  source = _receive(channel).decode()
  while True:
    answer = _run(source, _receive(channel), limits, start, channel)
    _send(channel, *answer)


def _become_nobody(libc: ctypes.CDLL) -> None:
  if os.getuid() == 0:
    os.setgroups([])
    os.setresgid(_USER, _USER, _USER)
    os.setresuid(_USER, _USER, _USER)  # and every capability is gone
  # Ends with bwrap. When the host ends, its side of the socket closes.
  _check(libc.prctl(_PR_SET_PDEATHSIG, _signal.SIGKILL, 0, 0, 0))
  _check(libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0))  # memory is not readable


def _forbid(libc: ctypes.CDLL, code: bytes) -> None:
  """Installs a filter of system calls, which no process can take off."""
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


def _send(channel: int, why: bytes, status: int, out: bytes, err: bytes):
  numbers = (status, len(out), len(err))
  head = why + b''.join(n.to_bytes(4, 'big') for n in numbers)
  left = memoryview(head + out + err)
  while left:
    left = left[os.write(channel, left) :]


def _run(source, text, limits, start, channel) -> tuple:
  """One run of the program: why it was ended, its status, out and err."""
  pipes = [os.pipe() for _ in range(3)]
  inner = pipes[0][0], pipes[1][1], pipes[2][1]
  outer = pipes[0][1], pipes[1][0], pipes[2][0]
  pid = os.fork()
  if not pid:
    try:
      _become_program(source, inner, limits, start)
    finally:
      os._exit(1)
  for descriptor in inner:
    os.close(descriptor)
  for descriptor in outer:
    os.set_blocking(descriptor, False)
  watch = _Watch(pid, text, outer, limits, channel)
  why = watch.until_the_end()
  watch.close()
  if len(watch.out) > limits.output:
    why = b'o'
  return why, watch.status, bytes(watch.out[: limits.output]), bytes(watch.err)


class _Watch:
  """A program that runs."""

  def __init__(self, pid, text, descriptors, limits, channel):
    self.pid, self.limits, self.channel = pid, limits, channel
    self.text = memoryview(text)
    self.input, self.output, self.error = descriptors
    self.out, self.err = bytearray(), bytearray()
    self.error_bytes = 0
    self.status = None
    self.clock = (~pid << 3) | 2  # processor time of a process, clock_gettime
    self.poll = select.poll()
    self.poll.register(channel, 0)  # tells only that the host hung up
    self.poll.register(self.input, select.POLLOUT)
    self.open = {self.output, self.error}
    for descriptor in self.open:
      self.poll.register(descriptor, select.POLLIN)

  def until_the_end(self) -> bytes:
    """Why the program has to end, see `_why`, or a dash if it has ended."""
    end = time.monotonic() + self.limits.wall
    while not self._has_ended():
      if why := self._why(end):
        return why
      tick = _TICK if self.open else _SHORT_TICK
      for descriptor, _ in self.poll.poll(tick * 1000):
        self._serve(descriptor)
    return b'-'

  def _has_ended(self) -> bool:
    pid, status = os.waitpid(self.pid, os.WNOHANG)
    if pid:
      self.status = status
    return bool(pid)

  def _why(self, end: float) -> bytes:
    """The limit that is exceeded: (o)utput, (w)all, (c)pu, (f)iles."""
    if len(self.out) + self.error_bytes > self.limits.output:
      return b'o'
    if time.monotonic() > end:
      return b'w'
    if self._seconds() > self.limits.cpu:
      return b'c'
    system = os.statvfs('.')
    if os.getpid() == 1 and system.f_files - system.f_ffree > _MOST_FILES:
      return b'f'
    return b''

  def _seconds(self) -> float:
    """Processor time of all its threads."""
    try:
      return time.clock_gettime(self.clock)
    except OSError:  # it has just ended
      return 0.0

  def _serve(self, descriptor: int) -> None:
    if descriptor == self.channel:
      self.kill()
      os._exit(0)
    elif descriptor == self.input:
      self._write()
    else:
      self._read(descriptor)

  def _write(self) -> None:
    try:
      self.text = self.text[os.write(self.input, self.text) :]
    except BlockingIOError:
      return
    except OSError:  # it has closed its stdin
      self.text = self.text[:0]
    if not self.text:
      self._end_input()

  def _end_input(self) -> None:
    if self.input is not None:
      self.poll.unregister(self.input)
      os.close(self.input)
      self.input = None

  def _read(self, descriptor: int) -> bool:
    """Takes what is there, and returns whether there may be more."""
    try:
      chunk = os.read(descriptor, 2**16)
    except BlockingIOError:
      return False
    if not chunk:
      self.open.discard(descriptor)
      self.poll.unregister(descriptor)
    elif descriptor == self.output:
      self.out += chunk
    else:
      self.error_bytes += len(chunk)
      self.err = (self.err + chunk)[-_ERROR_BYTES:]
    return bool(chunk)

  def kill(self) -> None:
    """Ends the program and whatever is in its group."""
    if self.status is None:
      for end in (os.killpg, os.kill):
        try:
          end(self.pid, _signal.SIGKILL)
        except OSError:  # it has not made its group yet, or has left it
          continue
      _, self.status = os.waitpid(self.pid, 0)

  def close(self) -> None:
    """Ends the program, and takes what its pipes still hold."""
    self.kill()
    self._end_input()
    for descriptor in (self.output, self.error):
      while descriptor in self.open and self._read(descriptor):
        pass  # no more than a pipe holds: nobody writes any more
      os.close(descriptor)


def _become_program(source, descriptors, limits, start) -> None:
  """Gives up everything, and runs the source. Does not return."""
  os.setpgid(0, 0)
  for target, descriptor in enumerate(descriptors):
    os.dup2(descriptor, target)
  os.closerange(3, 1024)
  _signal.signal(_signal.SIGINT, _signal.default_int_handler)
  _limit(limits)
  start()
  os._exit(_execute(source))


def _limit(limits: _Limits) -> None:
  seconds = int(limits.cpu) + 2  # the supervisor is more exact
  for kind, most in (
    (resource.RLIMIT_CPU, seconds),
    (resource.RLIMIT_NPROC, limits.processes + 1),  # and the supervisor
    (resource.RLIMIT_FSIZE, limits.files),
    (resource.RLIMIT_STACK, _STACK),
    (resource.RLIMIT_NOFILE, _MOST_DESCRIPTORS),
    (resource.RLIMIT_CORE, 0),
    (resource.RLIMIT_MEMLOCK, 0),
    (resource.RLIMIT_MSGQUEUE, 0),
    (resource.RLIMIT_SIGPENDING, _MOST_DESCRIPTORS),
    (resource.RLIMIT_AS, limits.memory),
  ):
    _, hard = resource.getrlimit(kind)
    if hard != resource.RLIM_INFINITY:
      most = min(most, hard)
    resource.setrlimit(kind, (most, most))


def _execute(source: str) -> int:
  """Runs the source as a script would run, and returns its exit status."""
  module = type(sys)('__main__')
  sys.modules['__main__'] = module
  sys.argv = ['program.py']
  sys.path[:] = [path for path in sys.path if path]
  # What the module site would have added, and programs do call.
  builtins.exit = builtins.quit = sys.exit
  try:
    exec(compile(source, 'program.py', 'exec'), module.__dict__)
    status = 0
  except SystemExit as end:
    status = _status(end.code)
  except BaseException:
    sys.excepthook(*sys.exc_info())
    status = 1
  return status | _finish()


def _status(code) -> int:
  if code is None:
    return 0
  if isinstance(code, int):
    return code & 255
  sys.stderr.write(f'{code}\n')
  return 1


def _finish() -> int:
  """What the end of an interpreter does: threads, atexit, buffers."""
  try:
    if 'threading' in sys.modules:
      sys.modules['threading']._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
  except BaseException:
    return 1
  return 0


if __name__ == '__main__':
  main(*sys.argv[1:])
