"""The addresses of the pages; only POST requests change anything."""

import functools
import importlib.resources

from starlette import concurrency, requests, responses, routing

from sqlm_jax.review import decision_pages, pages, rendering

_STATIC = {'style.css': 'text/css', 'keys.js': 'text/javascript'}


def make_routes(site: rendering.Site) -> list[routing.Route]:
  """Returns the routes of all pages; only POST requests change anything."""
  gets: dict[str, rendering.Page] = {
    '/': pages.overview,
    '/step': pages.show_step,
    '/question': pages.show_question,
    '/compare': pages.compare_steps,
    '/search': pages.find_text,
    '/queue': decision_pages.show_queue,
  }
  posts: dict[str, rendering.Page] = {
    '/verdict': decision_pages.add_verdict,
    '/undo': decision_pages.undo,
  }
  # `Request.form` is async; the other pages run in threads.
  return [
    *(
      routing.Route(path, functools.partial(_in_thread, page, site))
      for path, page in gets.items()
    ),
    *(
      routing.Route(
        path, functools.partial(_serve_form, page, site), methods=['POST']
      )
      for path, page in posts.items()
    ),
    *(
      routing.Route(f'/{name}', functools.partial(_serve_static, name))
      for name in _STATIC
    ),
  ]


async def _serve_form(
  page: rendering.Page, site: rendering.Site, request: requests.Request
) -> responses.Response:
  async with request.form(max_files=0, max_fields=20) as form:
    request.state.form = {
      name: value for name, value in form.items() if isinstance(value, str)
    }
  return await _in_thread(page, site, request)


async def _in_thread(
  page: rendering.Page, site: rendering.Site, request: requests.Request
) -> responses.Response:
  """Runs a page in a thread; an error becomes a page with its message."""
  try:
    return await concurrency.run_in_threadpool(page, site, request)
  except (ValueError, OSError) as error:
    return rendering.render(site, 'error.html', status=500, message=str(error))


async def _serve_static(
  name: str, request: requests.Request
) -> responses.Response:
  del request
  path = importlib.resources.files('sqlm_jax.review') / 'static' / name
  return responses.Response(path.read_bytes(), media_type=_STATIC[name])
