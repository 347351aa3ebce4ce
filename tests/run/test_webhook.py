"""Tests of posts to a webhook that is up, down, or does not answer."""

import contextlib
import http.server
import json
import threading
import time

import pytest

from sqlm_jax.run import webhook


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
  monkeypatch.setenv('no_proxy', '127.0.0.1')


@contextlib.contextmanager
def server(answer):
  """Serves on loopback; yields the address and the bodies of the posts."""
  bodies = []

  class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
      size = int(self.headers['Content-Length'])
      bodies.append(json.loads(self.rfile.read(size)))
      answer(self)

    def log_message(self, *_):
      pass

  httpd = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
  thread = threading.Thread(target=httpd.serve_forever)
  thread.start()
  try:
    yield f'http://127.0.0.1:{httpd.server_port}/secret', bodies
  finally:
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def accept(handler):
  handler.send_response(204)
  handler.end_headers()


def refuse(handler):
  handler.send_error(500)


def post_all(url, count):
  """Posts numbered messages and closes; returns the seconds of both."""
  hook = webhook.Webhook(url)
  start = time.monotonic()
  for number in range(count):
    hook.post({'step': number})
  posted = time.monotonic()
  hook.close()
  return posted - start, time.monotonic() - posted


def test_posts_arrive_in_order_before_the_end():
  with server(accept) as (url, bodies):
    post_all(url, 20)
    assert bodies == [{'step': number} for number in range(20)]


def test_nothing_is_posted_without_a_url():
  hook = webhook.Webhook('')
  hook.post({'step': 0})
  hook.close()
  assert hook._thread is None


def test_a_refused_post_is_reported_once_without_the_path(caplog):
  with server(refuse) as (url, bodies):
    post_all(url, 3)
    assert len(bodies) == 3
  (message,) = caplog.messages
  assert message.startswith('alarms.webhook at 127.0.0.1: an alarm is lost')
  assert 'HTTP Error 500' in message
  assert 'secret' not in message


def test_a_server_that_is_down_delays_nothing(caplog):
  with server(accept) as (url, _):
    pass  # closed again, so that connections are refused
  posting, closing = post_all(url, 3)
  assert posting < 1
  assert closing < 5
  (message,) = caplog.messages
  assert 'refused' in message


def test_a_server_that_does_not_answer_delays_nothing(caplog, monkeypatch):
  monkeypatch.setattr(webhook, '_CLOSE_SECONDS', 0.2)
  answered = threading.Event()
  with server(lambda _: answered.wait(60)) as (url, bodies):
    # More posts than the queue holds: the others are dropped.
    posting, closing = post_all(url, webhook._CAPACITY + 5)
    assert posting < 1
    assert closing < 1
    assert len(bodies) <= 1
    answered.set()
  assert any('too many alarms are waiting' in m for m in caplog.messages)
