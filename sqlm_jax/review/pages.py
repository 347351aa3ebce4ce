"""Pages that show a run: each is a function from a request to HTML.

A page reads the files of the run at every request, so it is as new as they are.
It never opens a path that a request contains: steps and questions are numbers.
"""

import hashlib
from typing import Any

from starlette import exceptions, requests, responses

from sqlm_jax.game import ballots, verdicts
from sqlm_jax.ops import integers
from sqlm_jax.reporting import curve_metrics
from sqlm_jax.review import curves, decisions, entries, rendering, search
from sqlm_jax.workdir import alarms as alarms_lib
from sqlm_jax.workdir import run_reader

_ROLES = ('solver', 'proposer', 'voter')


def overview(
  site: rendering.Site, request: requests.Request
) -> responses.Response:
  """Shows curves, alarms, and what has changed since the last visit."""
  metrics = run_reader.metrics(site.workdir)
  results = run_reader.evaluations(site.workdir)
  events = verdicts.live(run_reader.review_events(site.workdir))
  num_steps = len(metrics) and metrics[-1].get('step', 0) + 1
  seen = rendering.number_of(request.query_params.get('since'), default=None)
  if seen is None:
    given = request.cookies.get(_seen_cookie(site))
    seen = rendering.number_of(given, default=None)
  response = rendering.render(
    site,
    'overview.html',
    num_steps=num_steps,
    charts=curves.charts(metrics, results),
    alarms=_alarms(run_reader.alarms(site.workdir)),
    seen=seen,
    changes=_changes(metrics, seen),
    accuracy=decisions.vote_accuracy(events),
    num_decided=len(verdicts.fold(events).by_id),
  )
  response.set_cookie(
    _seen_cookie(site),
    str(num_steps),
    max_age=10**7,
    httponly=True,
    samesite='strict',
  )
  return response


def show_step(
  site: rendering.Site, request: requests.Request
) -> responses.Response:
  """Shows the questions of a step, or all responses of a role."""
  steps = run_reader.steps(site.workdir)
  step = _chosen_step(request, steps)
  role = request.query_params.get('role', '')
  chosen = _filter(request)
  decided = _decided(site)
  questions = entries.read_questions(
    site.workdir, step, num_views=site.config.num_prompts, decided=decided
  )
  if role in _ROLES:
    rows = entries.read_responses(site.workdir, step, role)
    shown: list[Any] = entries.select_responses(rows, chosen)
    reasons = {row['reason'] or 'none' for row in rows}
    topics = {row.get('topic') or '' for row in rows}
  else:
    role = ''
    shown = entries.select_questions(questions, chosen)
    reasons = {q.ballot.reason or 'none' for q in questions}
    topics = {q.topic for q in questions}
  page = max(
    rendering.number_of(request.query_params.get('page'), default=0), 0
  )
  first = page * rendering.PAGE_SIZE
  return rendering.render(
    site,
    'step.html',
    step=step,
    steps=steps,
    role=role,
    chosen=chosen,
    shown=shown[first : first + rendering.PAGE_SIZE],
    num_shown=len(shown),
    page=page,
    num_pages=integers.ceil_div(len(shown), rendering.PAGE_SIZE),
    reasons=sorted(reasons),
    topics=sorted(topics - {''}),
    parameters=dict(request.query_params) | {'step': step},
  )


def show_question(
  site: rendering.Site, request: requests.Request
) -> responses.Response:
  """Shows a question with all of its answers; `full=1` shows whole texts."""
  step = rendering.number_of(request.query_params.get('step'), default=0)
  index = rendering.number_of(request.query_params.get('index'), default=0)
  num_views = site.config.num_prompts
  rows = entries.read_answers(site.workdir, step, index, num_views=num_views)
  if not rows:
    raise exceptions.HTTPException(404, 'There is no such question.')
  (ballot,) = ballots.from_rows(rows, step=step, num_views=num_views)
  history = [
    event
    for event in verdicts.live(run_reader.review_events(site.workdir))
    if event['id'] == ballot.id
  ]
  return rendering.render(
    site,
    'question.html',
    ballot=ballot,
    rows=rows,
    proposal=entries.read_proposal(site.workdir, step, ballot.question),
    verdict=_decided(site).by_id.get(ballot.id),
    history=history,
    full=request.query_params.get('full') == '1',
    reviewer=_reviewer(site, request),
    pick='',
    back='question',
    error='',
  )


def compare_steps(
  site: rendering.Site, request: requests.Request
) -> responses.Response:
  """Shows two steps side by side."""
  steps = run_reader.steps(site.workdir)
  left = _chosen_step(request, steps, 'left', default=0)
  right = _chosen_step(request, steps, 'right')
  decided = _decided(site)
  by_step = {row.get('step'): row for row in run_reader.metrics(site.workdir)}
  columns = [
    (
      step,
      entries.read_questions(
        site.workdir, step, num_views=site.config.num_prompts, decided=decided
      )[: rendering.PAGE_SIZE],
    )
    for step in (left, right)
  ]
  sides = [by_step.get(step, {}) for step in (left, right)]
  names = sorted(
    name
    for name in sides[0].keys() | sides[1].keys()
    if name != 'step' and not name.startswith('time/')
  )
  return rendering.render(
    site,
    'compare.html',
    left=left,
    right=right,
    columns=columns,
    figures=[(name, [side.get(name) for side in sides]) for name in names],
  )


def find_text(
  site: rendering.Site, request: requests.Request
) -> responses.Response:
  """Searches the steps, newest first, for a text."""
  text = request.query_params.get('text', '')[: rendering.MAX_SEARCH]
  before = rendering.number_of(request.query_params.get('before'), default=None)
  found = search.search(site.workdir, text, before=before)
  return rendering.render(site, 'search.html', text=text, found=found)


def _seen_cookie(site: rendering.Site) -> str:
  """Returns the cookie with the number of steps at the last visit.

  Browsers send the cookies of 127.0.0.1 to all ports, so every run has its own.
  """
  digest = hashlib.sha256(str(site.workdir).encode()).hexdigest()
  return f'seen_steps_{digest[:8]}'


def _decided(site: rendering.Site) -> verdicts.Verdicts:
  return verdicts.fold(run_reader.review_events(site.workdir))


def _reviewer(site: rendering.Site, request: requests.Request) -> str:
  given = request.query_params.get('reviewer', site.reviewer)
  return decisions.clean_name(given)


def _chosen_step(
  request: requests.Request,
  steps: list[int],
  name: str = 'step',
  default: int = 10**15,
) -> int:
  """Returns the step with rollouts that a request asks for."""
  wanted = rendering.number_of(request.query_params.get(name), default=default)
  step = run_reader.nearest_step(steps, wanted)
  if step is None:
    raise exceptions.HTTPException(404, 'This run has no rollouts yet.')
  return step


def _filter(request: requests.Request) -> entries.Filter:
  given = request.query_params
  return entries.Filter(
    reason=given.get('reason', ''),
    low=_share(given.get('low'), 0.0),
    high=_share(given.get('high'), 1.0),
    topic=given.get('topic', ''),
    reviewed=given.get('reviewed', ''),
    text=given.get('text', ''),
    sort=given.get('sort', ''),
  )


def _share(text: str | None, default: float) -> float:
  """Returns a percentage of a request as a share, or the default."""
  number = rendering.number_of(text, default=None)
  return default if number is None else min(number, 100) / 100


def _changes(
  metrics: list[dict[str, Any]], seen: int | None
) -> list[tuple[str, float, float]]:
  """Returns metrics with their values at the last visit and now."""
  if not seen or not metrics or seen > len(metrics):
    return []
  names = {name for chart in curve_metrics.BY_CHART.values() for name in chart}
  old, new = metrics[seen - 1], metrics[-1]
  return [
    (name, old[name], new[name])
    for name in sorted(names)
    if old.get(name) is not None and new.get(name) is not None
  ]


def _alarms(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """Returns the alarms, those that still hold first, and then newest first."""
  order = sorted(alarms_lib.join(rows), key=lambda a: a['ended'] is not None)
  holding = sum(alarm['ended'] is None for alarm in order)
  order = order[:holding][::-1] + order[holding:][::-1]
  return order[: rendering.PAGE_SIZE]
