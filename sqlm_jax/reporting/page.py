"""Renders the report of one or several runs as a self-contained HTML page.

The page has no scripts and loads nothing, and its content security policy
forbids both. Templates escape everything that they insert.
"""

import collections
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jinja2
import numpy as np
from etils import epath

from sqlm_jax.config import schema
from sqlm_jax.game import verdicts
from sqlm_jax.reporting import (
  advice,
  charts,
  figures,
  messages,
  tallies,
)
from sqlm_jax.workdir import run_reader

_MAX_CLASSES = 12
_MAX_EXAMPLES = 20
_MAX_TEXT = 400  # characters of a text that are shown
_MAX_TOPICS = 50
_METRICS_IN_LAST = 5  # steps over which the last metrics are averaged


class Example(NamedTuple):
  """A wrong answer of the last model to an evaluation question."""

  question: str
  true: str
  answer: str | None
  response: str
  was_right: bool  # True if the first model answered it correctly


class Trust(NamedTuple):
  """Accuracy of the votes.

  Attributes:
    evaluated: Right share of all votes of the last evaluation, with 'low',
      'high' and the number of 'votes'; None without votes.
    unanimous: The same for votes with the highest agreement.
    samples: Number of answers of these votes.
    checked: Number of votes in training that the checker knows.
    checked_right: Number of these votes that are right.
    reviewed: Result of reviewers, see `figures.reviewed_votes`.
  """

  evaluated: Mapping[str, float] | None
  unanimous: Mapping[str, float] | None
  samples: int
  checked: int
  checked_right: int
  reviewed: Mapping[str, float] | None


class Run(NamedTuple):
  """Everything that the page shows about a run."""

  name: str
  workdir: str
  config: Mapping[str, Any]
  footer: Mapping[str, str]
  num_steps: int
  advice: advice.Advice
  missing: Sequence[int | None]
  improvement: figures.Improvement | None
  labels: figures.Labels
  cost: figures.Cost
  alarms: Sequence[figures.Alarm]
  trust: Trust
  charts: Sequence[charts.Chart]
  classes: Sequence[tuple[str, int, float, float]]
  confusion: tuple[list[str], np.ndarray] | None
  topics: Sequence[tuple[str | None, tallies.TopicTally]]
  examples: Sequence[Example]
  reasons: Sequence[tuple[str, int]]
  excluded_answers: Sequence[tuple[str, int]]
  tallies: tallies.Tallies


def read_run(
  workdir: epath.PathLike, *, price_per_hour: float | None = None
) -> Run:
  """Reads the files of a run.

  Args:
    workdir: Directory of the run.
    price_per_hour: Price of a device for an hour, None if not known.

  Raises:
    ValueError: If the directory has no run, or a file is damaged.
  """
  config = run_reader.config(workdir)
  metrics = run_reader.metrics(workdir)
  num_views = schema.stored_num_prompts(config)
  counted = tallies.read(workdir, num_views=num_views)
  steps = run_reader.steps(workdir)
  footer = run_reader.footer(workdir, steps[-1]) if steps else {}
  improvement = figures.improvement(workdir, figures.TEST)
  missing = figures.missing(workdir)
  if improvement is None:
    improvement = figures.improvement(workdir, figures.VALIDATION)
  labels = figures.labels(
    workdir,
    config,
    by_vote=len(counted.trained_by_vote - counted.trained_by_verdict),
    by_verdict=len(counted.trained_by_verdict),
  )
  alarms = figures.alarms(workdir)
  last_step = metrics[-1].get('step', -1) + 1 if metrics else 0
  score = _score_name(config)
  return Run(
    name=epath.Path(workdir).name or str(workdir),
    workdir=str(workdir),
    config=config,
    footer=footer,
    num_steps=last_step,
    advice=advice.advise(
      improvement,
      figures.fall(workdir, score),
      alarms,
      contaminated=_mean_of_last(metrics, 'proposer/contaminated_rate'),
      num_seen=_num_seen(improvement, counted, labels),
      missing=missing,
      num_steps=config.get('num_steps', last_step),
      last_step=last_step,
    ),
    missing=missing,
    improvement=improvement,
    labels=labels,
    cost=figures.cost(workdir, footer, price_per_hour),
    alarms=alarms,
    trust=_trust(improvement, counted, figures.reviewed_votes(workdir)),
    charts=_charts(workdir, metrics, counted, improvement),
    classes=_classes(improvement),
    confusion=(
      figures.confusion(improvement.last_rows, max_classes=_MAX_CLASSES)
      if improvement and _has_true_answers(improvement)
      else None
    ),
    topics=sorted(counted.topics.items(), key=lambda item: -item[1].votes)[
      :_MAX_TOPICS
    ],
    examples=_examples(improvement),
    reasons=counted.reasons().most_common(),
    excluded_answers=_excluded_answers(metrics),
    tallies=counted,
  )


def render(runs: Sequence[Run], language: str = messages.ENGLISH) -> str:
  """Returns the HTML of a report.

  Args:
    runs: At least one run.
    language: One of `messages.LANGUAGES`.
  """
  translate = messages.translator(language)
  environment = jinja2.Environment(
    loader=jinja2.PackageLoader('sqlm_jax.reporting'),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  shared: dict[str, Any] = {'_': translate}
  environment.globals.update(shared)
  environment.filters.update(
    clip=_clip,
    json=lambda value: json.dumps(value, indent=2, ensure_ascii=False),
    number=_number,
    p_value=lambda p: '< 0.001' if p < 0.001 else f'{p:.3f}',
    percent=_percent,
    points=lambda value: f'{100 * value:+.1f}',
    text=lambda text: translate(text.text, **text.values),
  )
  page = environment.get_template('report.html')
  return page.render(runs=runs, language=language)


def _score_name(config: Mapping[str, Any]) -> str:
  """Returns the figure by which the best checkpoint is chosen."""
  evaluation = config.get('evaluation', {})
  samples = evaluation.get('samples')
  by_mean = evaluation.get('best_by') == 'mean' and samples
  return f'mean@{samples}' if by_mean else 'greedy'


def _mean_of_last(
  metrics: Sequence[Mapping[str, Any]], name: str
) -> float | None:
  values = [row[name] for row in metrics if isinstance(row.get(name), float)]
  values = values[-_METRICS_IN_LAST:]
  return sum(values) / len(values) if values else None


def _charts(
  workdir: epath.PathLike,
  metrics: Sequence[Mapping[str, Any]],
  counted: tallies.Tallies,
  improvement: figures.Improvement | None,
) -> list[charts.Chart]:
  drawn = charts.of_run(
    metrics, run_reader.evaluations(workdir), counted.points
  )
  reliability = charts.reliability(improvement) if improvement else None
  return [*drawn, reliability] if reliability else drawn


def _num_seen(
  improvement: figures.Improvement | None,
  counted: tallies.Tallies,
  labels: figures.Labels,
) -> int:
  """Returns how many evaluated questions were trained on with true answers."""
  if improvement is None:
    return 0
  trained = set(counted.trained_by_verdict)
  if labels.rewards_true:
    trained |= counted.trained_by_vote
  ids = set(map(verdicts.question_id, trained))
  return sum(
    verdicts.question_id(row['question']) in ids
    for row in improvement.last_rows
  )


def _trust(
  improvement: figures.Improvement | None,
  counted: tallies.Tallies,
  reviewed: Mapping[str, float] | None,
) -> Trust:
  curve = improvement.reliability if improvement else {}
  thresholds = sorted(
    curve.get('thresholds', ()), key=lambda row: row['agreement']
  )
  topics = counted.topics.values()
  return Trust(
    thresholds[0] if thresholds else None,
    thresholds[-1] if thresholds else None,
    curve.get('samples', 0),
    sum(topic.checked for topic in topics),
    sum(topic.right for topic in topics),
    reviewed,
  )


def _classes(
  improvement: figures.Improvement | None,
) -> list[tuple[str, int, float, float]]:
  """Returns greedy accuracy before and after for each true answer."""
  if improvement is None or not _has_true_answers(improvement):
    return []
  before = collections.defaultdict[str, list[bool]](list)
  after = collections.defaultdict[str, list[bool]](list)
  for by_class, rows in (
    (before, improvement.first_rows),
    (after, improvement.last_rows),
  ):
    for row in rows:
      by_class[str(row['true'])].append(row['right'][0])
  if len(before) * 2 > len(improvement.last_rows):
    return []  # nearly every question has a true answer of its own
  return [
    (name, len(after[name]), float(np.mean(before[name])), float(np.mean(x)))
    for name, x in sorted(after.items(), key=lambda item: _natural(item[0]))
  ]


def _has_true_answers(improvement: figures.Improvement) -> bool:
  """Returns False for programs, which are right if they pass their tests."""
  return any(row['true'] for row in improvement.last_rows)


def _natural(text: str) -> list[tuple[int, str]]:
  """Returns a key that sorts numbers in a text by their value."""
  return [
    (int(part), '') if part.isascii() and part.isdecimal() else (-1, part)
    for part in re.split(r'(\d+)', text[:100])
  ]


def _examples(improvement: figures.Improvement | None) -> list[Example]:
  """Returns wrong greedy answers of the last model, lost questions first."""
  if improvement is None:
    return []
  pairs = zip(improvement.first_rows, improvement.last_rows, strict=True)
  examples = [
    Example(
      row['question'],
      row['true'],
      row['answers'][0],
      row['responses'][0],
      was_right=first['right'][0],
    )
    for first, row in pairs
    if not row['right'][0]
  ]
  examples.sort(key=lambda example: not example.was_right)
  return examples[:_MAX_EXAMPLES]


def _excluded_answers(
  metrics: Sequence[Mapping[str, Any]],
) -> list[tuple[str, int]]:
  counts = collections.Counter[str]()
  prefix = 'exclude/answers/'
  for row in metrics:
    for name, value in row.items():
      if name.startswith(prefix) and isinstance(value, float):
        counts[name.removeprefix(prefix)] += round(value)
  return counts.most_common()


def _clip(text: Any, width: int = _MAX_TEXT) -> str:
  """Returns the beginning of a text, without control characters."""
  text = str(text)
  clipped = text[:width] + (' …' if len(text) > width else '')
  return re.sub(r'[^\S\n]|[\x00-\x09\x0b-\x1f\x7f-\x9f]', ' ', clipped)


def _number(value: float | None) -> str:
  if value is None:
    return '–'
  if isinstance(value, int):
    return f'{value:,}'
  return f'{value:,.0f}' if abs(value) >= 100 else f'{value:.2g}'


def _percent(value: float | None, digits: int = 0) -> str:
  return '–' if value is None else f'{100 * value:.{digits}f}%'


def encode(html: str) -> bytes:
  """Encodes a page; a model may write half of a surrogate pair."""
  return html.encode('utf-8', 'replace')
