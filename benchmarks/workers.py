"""Runs the sides of a comparison in separate processes.

Libraries keep their own threads, memory and settings. In separate processes,
they do not interfere with each other, and a process sleeps while it has no
request.
"""

import json
import os
import pathlib
import subprocess
import sys
from typing import Any

_ROOT = pathlib.Path(__file__).parent.parent


class Worker:
  """A process that answers one request at a time. Close it, or use `with`.

  Attributes:
    hello: the message that the process sends when it is ready.
  """

  def __init__(self, module: str, *words: str, python: str = sys.executable):
    path = os.pathsep.join([str(_ROOT), os.environ.get('PYTHONPATH', '')])
    self._name = module
    self._process = subprocess.Popen(
      [python, '-m', module, *words],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
      env=os.environ | {'PYTHONPATH': path.rstrip(os.pathsep)},
    )
    self.hello = self._read()

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.close()

  def ask(self, **question: Any) -> dict[str, Any]:
    """Sends a request and waits for the answer.

    Raises:
      RuntimeError: if the process ends instead.
    """
    self._process.stdin.write(json.dumps(question) + '\n')
    self._process.stdin.flush()
    return self._read()

  def close(self) -> None:
    """Closes the connection and waits for the process to end."""
    self._process.stdin.close()
    self._process.stdout.close()
    self._process.wait()

  def _read(self) -> dict[str, Any]:
    line = self._process.stdout.readline()
    if not line:
      raise RuntimeError(
        f'{self._name} ended with status {self._process.wait()}'
      )
    return json.loads(line)


class Parent:
  """The worker process's connection to its parent."""

  def __init__(self):
    # Redirects the output of libraries, which must not look like an answer.
    self._answers = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)

  def send(self, **answer: Any) -> None:
    """Sends the first message or an answer."""
    self._answers.write(json.dumps(answer) + '\n')
    self._answers.flush()

  def receive(self) -> dict[str, Any] | None:
    """Returns the next request, None if the parent has hung up."""
    line = sys.stdin.readline()
    return json.loads(line) if line else None
