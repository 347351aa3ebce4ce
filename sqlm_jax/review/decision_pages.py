"""Pages on which a person decides: the queue of votes, verdicts and undo."""

import itertools
from collections.abc import Mapping
from urllib import parse

from starlette import requests, responses

from sqlm_jax.game import ballots, verdicts
from sqlm_jax.review import decisions, rendering
from sqlm_jax.workdir import reviews, run_reader


def show_queue(
  site: rendering.Site, request: requests.Request
) -> responses.Response:
  """Shows the next vote that needs a decision."""
  return _queue_page(site, request.query_params)


def add_verdict(
  site: rendering.Site, request: requests.Request
) -> responses.Response:
  """Appends a decision, and shows the next vote."""
  form = request.state.form
  reviewer = decisions.clean_name(form.get('reviewer', ''))
  try:
    ballot = decisions.find_ballot(
      site.workdir,
      site.config,
      step=rendering.number_of(form.get('step'), default=-1),
      index=rendering.number_of(form.get('index'), default=-1),
      id=form.get('id', ''),
    )
    event = decisions.to_event(
      site.config,
      ballot,
      kind=form.get('verdict', ''),
      answer=form.get('answer', ''),
      reviewer=reviewer,
      pick=form.get('pick', ''),
    )
    reviews.append(site.workdir, [event])
  except ValueError as error:
    stale = isinstance(error, decisions.StaleError)
    return _queue_page(
      site, form, error=str(error), status=409 if stale else 400
    )
  if form.get('back') == 'question':
    place = {'step': ballot.step, 'index': ballot.index, 'reviewer': reviewer}
    return _see_other(f'question?{parse.urlencode(place)}')
  return _see_other(_queue_address(form, reviewer))


def undo(site: rendering.Site, request: requests.Request) -> responses.Response:
  """Withdraws the reviewer's last decision."""
  form = request.state.form
  reviewer = decisions.clean_name(form.get('reviewer', ''))
  decisions.undo(site.workdir, reviewer)
  return _see_other(_queue_address(form, reviewer))


def _queue_page(
  site: rendering.Site,
  values: Mapping[str, str],
  *,
  error: str = '',
  status: int = 200,
) -> responses.Response:
  pick = values.get('order', '')
  reviewer = decisions.clean_name(values.get('reviewer', site.reviewer))
  waiting = decisions.queue(
    site.workdir,
    site.config,
    reviewer=reviewer,
    pick=pick if pick in decisions.ORDERS else '',
  )
  events = verdicts.live(run_reader.review_events(site.workdir))
  mine = [e for e in events if e.get('reviewer', '') == reviewer]
  return rendering.render(
    site,
    'queue.html',
    status=status,
    choice=waiting[0] if waiting else None,
    num_waiting=len(waiting),
    last=mine[-1] if mine else None,
    num_mine=len(mine),
    accuracy=decisions.vote_accuracy(events),
    reviewer=reviewer,
    order=pick if pick in decisions.ORDERS else '',
    orders=decisions.ORDERS,
    counts=_answer_counts(waiting[0].ballot) if waiting else [],
    error=error,
    pick=waiting[0].pick if waiting else '',
    back='queue',
  )


def _answer_counts(ballot: ballots.Ballot) -> list[tuple[str | None, int]]:
  """Returns the answers and how often each was given, most common first."""
  answers = sorted(ballot.answers, key=lambda a: (a is None, a or ''))
  groups = [(a, len(list(same))) for a, same in itertools.groupby(answers)]
  return sorted(groups, key=lambda group: -group[1])


def _queue_address(form: Mapping[str, str], reviewer: str) -> str:
  values = {'reviewer': reviewer, 'order': form.get('order', '')}
  return f'queue?{parse.urlencode(values)}'


def _see_other(address: str) -> responses.Response:
  return responses.RedirectResponse(address, 303)
