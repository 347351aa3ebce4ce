"""Sides of a comparison in processes of their own, asked in turn.

Libraries keep threads, memory and settings for themselves. In two processes
they do not get in each other's way, and the one that is not asked sleeps.
"""

import json
import os
import pathlib
import subprocess
import sys
from typing import Any

_ROOT = pathlib.Path(__file__).parent.parent


class Worker:
  """A process that answers one question at a time. Close it, or use `with`.

  Attributes:
    hello: what it says once it is ready.
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
    """Asks and waits for the answer.

    Raises:
      RuntimeError: if the process has ended instead.
    """
    self._process.stdin.write(json.dumps(question) + '\n')
    self._process.stdin.flush()
    return self._read()

  def close(self) -> None:
    """Hangs up and waits for the end."""
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
  """The other end, inside such a process."""

  def __init__(self):
    # What a library prints must not be taken for an answer.
    self._answers = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)

  def tell(self, **answer: Any) -> None:
    """Says hello, or answers."""
    self._answers.write(json.dumps(answer) + '\n')
    self._answers.flush()

  def listen(self) -> dict[str, Any] | None:
    """The next question, None if there will be no more."""
    line = sys.stdin.readline()
    return json.loads(line) if line else None
