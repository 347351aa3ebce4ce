"""Restricts access to the review pages to the user's own browser.

The server listens on 127.0.0.1 only, but other programs and every web page in
the user's browser can reach it there. A request is therefore served only if

1. its Host header names this machine, so that no other name that resolves to
   127.0.0.1 (DNS rebinding) gives a foreign page access,
2. its path begins with the random token of this start, and
3. if it is a POST, the browser confirms that a page of this server sent it.

Pages may load nothing from other origins and run no inline script.
"""

import secrets
from collections.abc import Sequence
from urllib import parse

from starlette import datastructures, responses, types

MAX_BODY = 2**16
LOCAL_HOSTS = ('127.0.0.1', 'localhost')

_HEADERS = {
  'Cache-Control': 'no-store',
  'Content-Security-Policy': (
    "default-src 'none'; style-src 'self'; script-src 'self'; "
    "form-action 'self'; base-uri 'none'"
  ),
  'Cross-Origin-Resource-Policy': 'same-origin',
  # Not no-referrer, with which browsers hide the origin of a form.
  'Referrer-Policy': 'same-origin',
  'X-Content-Type-Options': 'nosniff',
}


class Guard:
  """ASGI middleware that refuses all other requests."""

  def __init__(
    self, app: types.ASGIApp, token: str, hosts: Sequence[str] = LOCAL_HOSTS
  ):
    """Initializes the guard.

    Args:
      app: The application, which sees paths without the token.
      token: Secret first part of every path.
      hosts: Host names that a request may be addressed to.
    """
    self._app, self._token, self._hosts = app, token, frozenset(hosts)

  async def __call__(
    self, scope: types.Scope, receive: types.Receive, send: types.Send
  ) -> None:
    if scope['type'] == 'lifespan':
      await self._app(scope, receive, send)
      return
    if scope['type'] != 'http':
      return  # a web socket is closed
    answer: types.ASGIApp | None = self._refusal(scope)
    if answer is None:
      answer = self._app
      _, _, rest = scope['path'].lstrip('/').partition('/')
      scope = {**scope, 'path': f'/{rest}', 'root_path': ''}
    await answer(scope, receive, _with_headers(send))

  def _refusal(self, scope: types.Scope) -> responses.Response | None:
    """Returns the response to a request that is refused, or None."""
    headers = datastructures.Headers(scope=scope)
    if _host_name(f'//{headers.get("host", "")}') not in self._hosts:
      return _refuse(400, 'The host of this address is not allowed.')
    token, separator, _ = scope['path'].lstrip('/').partition('/')
    is_right = secrets.compare_digest(token.encode(), self._token.encode())
    if not (is_right and separator):
      return _refuse(404, 'Not found. Open the address that was printed.')
    if scope['method'] not in ('GET', 'HEAD', 'POST'):
      return _refuse(405, 'This method is not allowed.')
    if scope['method'] != 'POST':
      return None
    if not self._is_own_page(headers):
      return _refuse(403, 'Only a page of this server may send a form.')
    length = headers.get('content-length', '')
    if not (length.isdecimal() and int(length) <= MAX_BODY):
      return _refuse(413, 'The form is too large.')
    return None

  def _is_own_page(self, headers: datastructures.Headers) -> bool:
    """Returns True if the browser confirms that a form is from this server.

    Pages cannot change these headers. A browser that sends neither of them is
    refused.
    """
    site, origin = headers.get('sec-fetch-site'), headers.get('origin')
    if site is None and origin is None:
      return False
    if site not in (None, 'same-origin'):
      return False
    if origin is None:
      return True
    given = parse.urlsplit(origin)
    if given.scheme not in ('http', 'https'):
      return False
    if given.hostname in LOCAL_HOSTS:
      # Another server on this machine is another origin.
      return given.netloc == headers.get('host')
    return given.hostname in self._hosts


def _host_name(url: str) -> str | None:
  try:
    return parse.urlsplit(url).hostname
  except ValueError:
    return None


def _refuse(status: int, text: str) -> responses.Response:
  return responses.PlainTextResponse(text + '\n', status)


def _with_headers(send: types.Send) -> types.Send:
  async def send_with_headers(message: types.Message) -> None:
    if message['type'] == 'http.response.start':
      headers = datastructures.MutableHeaders(scope=message)
      headers.update(_HEADERS)
    await send(message)

  return send_with_headers
