"""Posts alarms to a webhook without delaying the run."""

import json
import queue
import threading
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import Any

from absl import logging

_TIMEOUT = 10.0  # seconds to connect, and to wait for each part of the answer
_CLOSE_SECONDS = 5.0  # that the end of a run waits for posts
_CAPACITY = 100  # posts that wait; further ones are dropped


class Webhook:
  """Posts JSON objects to a URL from a daemon thread.

  If the server is slow or unreachable, posts are lost, but no step is delayed.
  """

  def __init__(self, url: str):
    """Initializes a webhook.

    Args:
      url: Address to post to, '' for none.
    """
    self._url = url
    self._queue: queue.Queue[Mapping[str, Any] | None] = queue.Queue(_CAPACITY)
    self._thread: threading.Thread | None = None
    self._has_failed = False

  def post(self, message: Mapping[str, Any]) -> None:
    """Posts an object as soon as the earlier ones have been posted."""
    if not self._url:
      return
    if self._thread is None:
      self._thread = threading.Thread(target=self._send_all, daemon=True)
      self._thread.start()
    try:
      self._queue.put_nowait(message)
    except queue.Full:
      self._warn('too many alarms are waiting')

  def close(self) -> None:
    """Waits up to five seconds for the posts, and drops the others."""
    if self._thread is None:
      return
    try:
      self._queue.put_nowait(None)
    except queue.Full:
      return
    self._thread.join(_CLOSE_SECONDS)

  def _send_all(self) -> None:
    while (message := self._queue.get()) is not None:
      try:
        self._send(message)
      except Exception as error:  # the run must not end because of a webhook
        self._warn(str(error) or type(error).__name__)

  def _send(self, message: Mapping[str, Any]) -> None:
    request = urllib.request.Request(
      self._url,
      json.dumps(message).encode(),
      {'Content-Type': 'application/json'},
    )
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:
      response.read(1)

  def _warn(self, reason: str) -> None:
    """Warns about the first post that fails, without the path of the URL."""
    if not self._has_failed:
      self._has_failed = True
      host = urllib.parse.urlsplit(self._url).hostname
      logging.warning(
        'alarms.webhook at %s: an alarm is lost: %s', host, reason
      )
