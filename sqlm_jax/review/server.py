"""Serves the review pages of a run on this machine.

The address has a new random token at every start. A request needs the token,
and a form must come from a page of this server; see `review.access`.
"""

import contextlib
import secrets
from collections.abc import Sequence

import jinja2
import uvicorn
from etils import epath
from starlette import applications, types

from sqlm_jax import display
from sqlm_jax.config import schema
from sqlm_jax.review import access, rendering, routes
from sqlm_jax.workdir import run_reader, storage


def make_app(
  workdir: epath.PathLike,
  *,
  token: str,
  templates: jinja2.Environment | None = None,
  reviewer: str = '',
  hosts: Sequence[str] = (),
) -> types.ASGIApp:
  """Returns the application that serves the pages of a run.

  Args:
    workdir: Directory of the run.
    token: Secret part of the address.
    templates: Templates in the language of the user; by default, in English.
    reviewer: Default name of the reviewer.
    hosts: Host names that are allowed in addition to this machine.

  Raises:
    ValueError: If the workdir has no run.
  """
  path = storage.absolute(workdir)
  config = schema.from_dict(run_reader.config(path))
  site = rendering.Site(
    path, config, templates or rendering.make_templates(), reviewer
  )
  app = applications.Starlette(routes=routes.make_routes(site))
  return access.Guard(app, token, (*access.LOCAL_HOSTS, *hosts))


def serve(
  workdir: epath.PathLike,
  *,
  templates: jinja2.Environment | None = None,
  port: int = 0,
  reviewer: str = '',
  hosts: Sequence[str] = (),
) -> None:
  """Serves the pages until Ctrl-C.

  Args:
    workdir: Directory of the run.
    templates: Templates in the language of the user; by default, in English.
    port: Port on 127.0.0.1; 0 chooses a free port.
    reviewer: Default name of the reviewer.
    hosts: Host names that are allowed in addition to this machine.
  """
  token = secrets.token_urlsafe(24)
  app = make_app(
    workdir, token=token, templates=templates, reviewer=reviewer, hosts=hosts
  )
  config = uvicorn.Config(
    app,
    host='127.0.0.1',
    port=port,
    log_level='warning',
    access_log=False,  # it would contain the token
    server_header=False,
    ws='none',
  )
  socket = config.bind_socket()
  address = f'http://127.0.0.1:{socket.getsockname()[1]}/{token}/'
  display.message(f'Review of {workdir}: {address}')
  display.message('Anyone with this address can decide. Ctrl-C ends it.')
  with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C is the usual end
    uvicorn.Server(config).run(sockets=[socket])
