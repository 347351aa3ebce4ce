"""The process of a sandbox, as the host sees it."""

import contextlib
import socket
import subprocess
from typing import NamedTuple

_START_LIMIT = 60.0  # seconds; busy machines are slow
HOW_TO = (
  'Programs are judged in sandboxes of bubblewrap. Install 0.6 or newer, as '
  'with `apt-get install bubblewrap`, and allow unprivileged user namespaces '
  '(sysctl kernel.unprivileged_userns_clone, user.max_user_namespaces, '
  'kernel.apparmor_restrict_unprivileged_userns; in a container of Docker: '
  "--security-opt seccomp=unconfined). backend='unsafe_subprocess' does "
  'without, for containers that are thrown away.'
)


class Answer(NamedTuple):
  """How one run ended, as the worker tells it."""

  why: bytes
  status: int  # as of os.waitpid
  output: bytes
  errors: bytes


class Process:
  """A worker, as the host sees it: see `sandbox_worker` for what it says."""

  def __init__(self, command: list[str], **how):
    self._socket, theirs = socket.socketpair()
    with theirs:
      self._process = subprocess.Popen(
        command,
        stdin=theirs,
        stdout=theirs,
        stderr=subprocess.PIPE,
        bufsize=0,
        start_new_session=True,  # Ctrl-C is for the host, which closes us
        **how,
      )
    self._ready = False

  def wait_until_ready(self) -> None:
    """Waits for the worker's first word.

    Raises:
      RuntimeError: if it does not come.
    """
    if self._ready:
      return
    try:
      self._socket.settimeout(_START_LIMIT)
      self._ready = self._read(6) == b'ready\n'
    except OSError:
      pass
    if not self._ready:
      raise RuntimeError(f'{self.last_words()}\n{HOW_TO}')

  def last_words(self) -> str:
    """Ends the process and returns what it wrote to stderr."""
    self._end()
    return self._process.stderr.read(4096).decode(errors='replace').strip()

  def send(self, text: str, seconds: float) -> None:
    """Sends a text, or raises TimeoutError or another OSError."""
    data = text.encode(errors='replace')
    self._socket.settimeout(seconds)
    self._socket.sendall(len(data).to_bytes(8, 'big') + data)

  def receive(self, seconds: float, most: int) -> Answer:
    """The next answer; raises TimeoutError or another OSError."""
    self._socket.settimeout(seconds)
    head = self._read(13)
    status, *sizes = (int.from_bytes(head[i : i + 4], 'big') for i in (1, 5, 9))
    if sum(sizes) > most:
      raise OSError('more than a worker sends')
    out, err = (self._read(size) for size in sizes)
    return Answer(head[:1], status, out, err)

  def _read(self, size: int) -> bytes:
    chunks = []
    while size:
      chunk = self._socket.recv(min(size, 2**20))
      if not chunk:
        raise OSError('the sandbox ended')
      chunks.append(chunk)
      size -= len(chunk)
    return b''.join(chunks)

  def hang_up(self) -> None:
    """Makes the worker end everything inside. Any thread may call."""
    with contextlib.suppress(OSError):  # it is gone already
      self._socket.shutdown(socket.SHUT_RDWR)

  def close(self) -> None:
    """Hangs up and waits until nothing is left.

    bubblewrap ends after the last process of its namespace.
    """
    self._end()
    self._socket.close()
    self._process.stderr.close()

  def _end(self) -> None:
    self.hang_up()
    try:
      self._process.wait(_START_LIMIT)  # it may not even have started
    except subprocess.TimeoutExpired:
      self._process.kill()
      self._process.wait()
