"""The host's side of a sandbox process.

Every wait has a deadline. Programs run as the same user as the host process and
can use up resources that the kernel limits for each user, such as pipe buffers.
A sandbox is therefore started from in-memory files instead of pipes.
"""

import contextlib
import math
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

START_LIMIT = 60.0  # seconds; busy machines are slow
_END_LIMIT = 10.0  # seconds before a process that does not end is killed
HOW_TO = (
  'Programs run in bubblewrap sandboxes. Install bubblewrap 0.6 or newer, for '
  'example with `apt-get install bubblewrap`, and allow unprivileged user '
  'namespaces (sysctl kernel.unprivileged_userns_clone, '
  'user.max_user_namespaces, kernel.apparmor_restrict_unprivileged_userns; in '
  'a Docker container: --security-opt seccomp=unconfined). '
  "backend='unsafe_subprocess' runs programs without a sandbox, for disposable "
  'containers.'
)


class Answer(NamedTuple):
  """The worker's report on one run."""

  why: bytes  # see `worker`
  status: int  # from os.waitpid
  output: bytes
  errors: bytes


def file_with(data: bytes) -> BinaryIO:
  """Returns an unnamed file with the given content, positioned at its start."""
  if hasattr(os, 'memfd_create'):
    file = os.fdopen(os.memfd_create('sandbox'), 'w+b', buffering=0)
  else:
    file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
  file.write(data)
  file.seek(0)
  return file


class Process:
  """The host's handle of a worker; `worker` defines the messages.

  Args:
    command: the command that starts the worker.
    first: the first message.
    begin: called once by `Process.begin`, with the number of seconds that it
      may take, to complete the setup that the worker waits for.
    cleanup: called after the process has ended.
    **options: options of subprocess.Popen.

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
    **options: Any,
  ):
    self._first, self._begin, self._cleanup = first, begin, cleanup
    self._ready = False
    self._hung_up = math.inf  # the time of `hang_up`
    with contextlib.ExitStack() as stack:
      stack.callback(cleanup)
      self._errors = stack.enter_context(file_with(b''))
      self._socket, worker_socket = map(
        stack.enter_context, socket.socketpair()
      )
      with worker_socket:
        self._process = subprocess.Popen(
          command,
          stdin=worker_socket.fileno(),
          stdout=worker_socket.fileno(),
          stderr=self._errors,
          start_new_session=True,  # Ctrl-C reaches only the host
          **options,
        )
      stack.pop_all()  # `close` is responsible from now on

  def begin(self) -> None:
    """Completes the setup and sends the first message.

    Raises:
      RuntimeError: if this fails or takes too long. The process is then ended.
    """
    try:
      self._begin(START_LIMIT)
      self._send(self._first, START_LIMIT)
    except (OSError, ValueError) as error:
      raise RuntimeError(f'{self.last_words() or error}\n{HOW_TO}') from error

  def wait_until_ready(self) -> None:
    """Waits for the worker's first message.

    Raises:
      RuntimeError: if the message does not arrive.
    """
    if self._ready:
      return
    with contextlib.suppress(OSError):
      self._ready = self._read(6, time.monotonic() + START_LIMIT) == b'ready\n'
    if not self._ready:
      raise RuntimeError(f'{self.last_words()}\n{HOW_TO}')

  def last_words(self) -> str:
    """Ends the process and returns the beginning of its stderr."""
    self.end()
    self._errors.seek(0)
    return self._errors.read(4096).decode(errors='replace').strip()

  def send(self, text: str, seconds: float) -> None:
    """Sends a text; raises TimeoutError or another OSError on failure."""
    self._send(text.encode(errors='replace'), seconds)

  def _send(self, data: bytes, seconds: float) -> None:
    self._socket.settimeout(seconds)
    self._socket.sendall(len(data).to_bytes(8, 'big') + data)

  def receive(self, seconds: float, max_bytes: int) -> Answer:
    """Returns the next answer; raises TimeoutError or another OSError.

    Args:
      seconds: the maximum time to wait.
      max_bytes: the maximum number of bytes of output and errors together.
    """
    end = time.monotonic() + seconds
    head = self._read(13, end)
    status, *sizes = (int.from_bytes(head[i : i + 4], 'big') for i in (1, 5, 9))
    if sum(sizes) > max_bytes:
      raise OSError('the message is longer than a worker sends')
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
    """Makes the worker end all processes in its sandbox. Thread-safe."""
    self._hung_up = min(self._hung_up, time.monotonic())
    with contextlib.suppress(OSError):  # the process may have ended already
      self._socket.shutdown(socket.SHUT_RDWR)

  def close(self) -> None:
    """Hangs up and waits until no process of the sandbox is left.

    bubblewrap ends after the last process of its namespace has ended.
    """
    self.end()
    self._socket.close()
    self._errors.close()
    self._cleanup()

  def end(self) -> None:
    """Hangs up, waits for the process, and kills it if needed. Thread-safe."""
    self.hang_up()
    left = self._hung_up + _END_LIMIT - time.monotonic()
    try:
      self._process.wait(max(left, 0.1))  # it may still be starting
    except subprocess.TimeoutExpired:
      with contextlib.suppress(OSError):
        os.killpg(self._process.pid, signal.SIGKILL)
      # If the kernel does not end the process, nothing else can be done.
      with contextlib.suppress(subprocess.TimeoutExpired):
        self._process.wait(_END_LIMIT)
