"""The process of a sandbox, as the host sees it.

Nothing here waits without a deadline. Programs run as the user who judges
them, and can use up resources that the kernel limits for each user, such as the
pages of pipes. So a sandbox is started from files in memory instead of pipes.
"""

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from typing import BinaryIO, NamedTuple

START_LIMIT = 60.0  # seconds; busy machines are slow
_END_LIMIT = 10.0  # seconds until a process that does not end is killed
HOW_TO = (
  'Programs are judged in sandboxes of bubblewrap. Install 0.6 or newer, as '
  'with `apt-get install bubblewrap`, and allow unprivileged user namespaces '
  '(sysctl kernel.unprivileged_userns_clone, user.max_user_namespaces, '
  'kernel.apparmor_restrict_unprivileged_userns; in a container of Docker: '
  "--security-opt seccomp=unconfined). backend='unsafe_subprocess' does "
  'without them, for containers that are thrown away.'
)


class Answer(NamedTuple):
  """The end of one run, as the worker reports it."""

  why: bytes
  status: int  # as of os.waitpid
  output: bytes
  errors: bytes


def file_with(data: bytes) -> BinaryIO:
  """Returns a nameless file that holds the data, open at its beginning."""
  if hasattr(os, 'memfd_create'):
    file = os.fdopen(os.memfd_create('sandbox'), 'w+b', buffering=0)
  else:
    file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
  file.write(data)
  file.seek(0)
  return file


class Process:
  """A worker, as the host sees it; `sandbox_worker` defines its messages.

  Args:
    command: starts the worker.
    first: the first message, as bytes.
    begin: called once by `Process.begin` with the seconds that it may take. It
      gives the worker what it needs before it can go on.
    cleanup: called when the process is gone.
    **how: options of subprocess.Popen.

  Raises:
    OSError: if the command does not start.
  """

  def __init__(
    self,
    command: list[str],
    *,
    first: bytes,
    begin: Callable[[float], None] = lambda seconds: None,
    cleanup: Callable[[], None] = lambda: None,
    **how,
  ):
    self._first, self._begin, self._cleanup = first, begin, cleanup
    self._ready = False
    self._hung_up: float | None = None  # when
    with contextlib.ExitStack() as stack:
      stack.callback(cleanup)
      self._errors = stack.enter_context(file_with(b''))
      self._socket, theirs = map(stack.enter_context, socket.socketpair())
      with theirs:
        self._process = subprocess.Popen(
          command,
          stdin=theirs,
          stdout=theirs,
          stderr=self._errors,
          start_new_session=True,  # Ctrl-C is for the host, which closes us
          **how,
        )
      stack.pop_all()  # from here on `close` does it

  def begin(self) -> None:
    """Gives the worker what it needs to become ready.

    Raises:
      RuntimeError: if it fails or takes too long. The process is then ended.
    """
    try:
      self._begin(START_LIMIT)
      self._send(self._first, START_LIMIT)
    except (OSError, ValueError) as error:
      raise RuntimeError(f'{self.last_words() or error}\n{HOW_TO}') from error

  def wait_until_ready(self) -> None:
    """Waits for the worker's first message.

    Raises:
      RuntimeError: if it does not come.
    """
    if self._ready:
      return
    with contextlib.suppress(OSError):
      self._ready = self._read(6, time.monotonic() + START_LIMIT) == b'ready\n'
    if not self._ready:
      raise RuntimeError(f'{self.last_words()}\n{HOW_TO}')

  def last_words(self) -> str:
    """Ends the process and returns the beginning of what it wrote to stderr."""
    self.end()
    self._errors.seek(0)
    return self._errors.read(4096).decode(errors='replace').strip()

  def send(self, text: str, seconds: float) -> None:
    """Sends a text, or raises TimeoutError or another OSError."""
    self._send(text.encode(errors='replace'), seconds)

  def _send(self, data: bytes, seconds: float) -> None:
    self._socket.settimeout(seconds)
    self._socket.sendall(len(data).to_bytes(8, 'big') + data)

  def receive(self, seconds: float, most: int) -> Answer:
    """Returns the next answer; raises TimeoutError or another OSError."""
    end = time.monotonic() + seconds
    head = self._read(13, end)
    status, *sizes = (int.from_bytes(head[i : i + 4], 'big') for i in (1, 5, 9))
    if sum(sizes) > most:
      raise OSError('more than a worker sends')
    out, err = (self._read(size, end) for size in sizes)
    return Answer(head[:1], status, out, err)

  def _read(self, size: int, end: float) -> bytes:
    chunks = []
    while size:
      self._socket.settimeout(max(end - time.monotonic(), 0.001))
      chunk = self._socket.recv(min(size, 2**20))
      if not chunk:
        raise OSError('the sandbox ended')
      chunks.append(chunk)
      size -= len(chunk)
    return b''.join(chunks)

  def hang_up(self) -> None:
    """Makes the worker end everything inside. Any thread may call."""
    if self._hung_up is None:
      self._hung_up = time.monotonic()
    with contextlib.suppress(OSError):  # it is gone already
      self._socket.shutdown(socket.SHUT_RDWR)

  def close(self) -> None:
    """Hangs up and waits until nothing is left.

    bubblewrap ends after the last process of its namespace.
    """
    self.end()
    self._socket.close()
    self._errors.close()
    self._cleanup()

  def end(self) -> None:
    """Hangs up, waits some seconds, then kills. Any thread may call."""
    self.hang_up()
    left = self._hung_up + _END_LIMIT - time.monotonic()
    try:
      self._process.wait(max(left, 0.1))  # it may not even have started
    except subprocess.TimeoutExpired:
      with contextlib.suppress(OSError):
        os.killpg(self._process.pid, signal.SIGKILL)
      # The kernel may still be busy with it, and nothing else can be done.
      with contextlib.suppress(subprocess.TimeoutExpired):
        self._process.wait(_END_LIMIT)
