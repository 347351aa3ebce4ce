"""Figures of a run for its report, from the files of the run alone."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from sqlm_jax.evaluation import accuracy, comparison, paired
from sqlm_jax.game import verdicts
from sqlm_jax.workdir import alarms as alarms_lib
from sqlm_jax.workdir import run_reader

TEST, VALIDATION = 'test', 'validation'

Row = Mapping[str, Any]


class Improvement(NamedTuple):
  """The first and the last evaluation of a run on the same questions.

  Attributes:
    set: Name of the evaluation set.
    origin: Source of its questions.
    first_step: Number of steps of the first model, usually 0.
    last_step: Number of steps of the last model.
    figure: Name of the figure that decides, such as 'mean@4'.
    comparison: Both evaluations, see `comparison.compare`.
    first_rows: Rows of the first evaluation.
    last_rows: Rows of the last evaluation.
    collapsed: Figures of the last evaluation that have collapsed, see
      `collapse.find`.
    reliability: Reliability of votes in the last evaluation, {} without votes.
  """

  set: str
  origin: str
  first_step: int
  last_step: int
  figure: str
  comparison: Mapping[str, Any]
  first_rows: Sequence[Row]
  last_rows: Sequence[Row]
  collapsed: Mapping[str, Any]
  reliability: Mapping[str, Any]

  @property
  def values(self) -> list[Mapping[str, float]]:
    """The deciding figure before and after, with intervals."""
    return self.comparison['figures'][self.figure]['values']

  @property
  def difference(self) -> Mapping[str, float]:
    """The paired difference of the deciding figure."""
    return self.comparison['figures'][self.figure]['difference']

  @property
  def changes(self) -> dict[str, int]:
    """Numbers of greedy answers learned, kept, lost and never right."""
    changed = self.comparison['changed']
    return {
      'learned': changed['wrong to right'],
      'kept': changed['right both times'],
      'lost': changed['right to wrong'],
      'never': (
        changed['wrong to another wrong answer'] + changed['same wrong answer']
      ),
    }


class Fall(NamedTuple):
  """A fall of the validation score from its best step to its last step."""

  best_step: int
  last_step: int
  difference: Mapping[str, float]


class Labels(NamedTuple):
  """Numbers of questions with and without labels.

  Attributes:
    by_vote: Questions trained on without a label.
    by_verdict: Questions trained on with the true answer of a verdict.
    by_people: Questions that people have decided about.
    by_checker: Questions that the simulated reviewer has decided about.
    evaluation: Labeled questions of the evaluation sets.
    rewards_true: True if rewards compare answers with true answers.
  """

  by_vote: int
  by_verdict: int
  by_people: int
  by_checker: int
  evaluation: int
  rewards_true: bool


class Cost(NamedTuple):
  """Time and money.

  Attributes:
    training_hours: Hours of the steps in metrics.jsonl.
    evaluation_hours: Hours of the evaluations in eval.jsonl.
    devices: Number of devices, None if it is not stored.
    device_kind: Name of the devices, '' if it is not stored.
    price_per_hour: Price of a device for an hour, None if not given.
  """

  training_hours: float
  evaluation_hours: float
  devices: int | None
  device_kind: str
  price_per_hour: float | None

  @property
  def device_hours(self) -> float:
    """Hours times devices."""
    hours = self.training_hours + self.evaluation_hours
    return hours * (self.devices or 1)

  @property
  def money(self) -> float | None:
    """Price of all hours of all devices, None without a price."""
    if self.price_per_hour is None:
      return None
    return self.price_per_hour * self.device_hours


class Alarm(NamedTuple):
  """An alarm; `ended` is None until it ends."""

  name: str
  since: int
  ended: int | None
  action: str
  signal: str
  value: float | None
  detail: str


def improvement(workdir: epath.PathLike, name: str) -> Improvement | None:
  """Compares the first and the last evaluation on an evaluation set.

  Args:
    workdir: Directory of the run.
    name: Name of the evaluation set.

  Returns:
    The comparison, or None unless the models before and after training have
    been evaluated with the same settings.
  """
  first, last = _first_and_last(workdir, name)
  if not first or not last:
    return None
  rows = [run_reader.evaluation_rows(workdir, x) for x in (first, last)]
  settings = (first['settings'], last['settings'])
  if any(len(x) != len(rows[0]) or not x for x in rows):
    return None  # an evaluation was stopped, or its answers were deleted
  compared = comparison.compare(
    *rows,
    names=(f'{first["step"]}', f'{last["step"]}'),
    settings=settings,
  )
  figures = compared['figures']
  samples = settings[0].get('samples')
  figure = f'mean@{samples}' if f'mean@{samples}' in figures else 'greedy'
  return Improvement(
    set=name,
    origin=str(settings[0].get('origin', '')),
    first_step=first['step'],
    last_step=last['step'],
    figure=figure,
    comparison=compared,
    first_rows=rows[0],
    last_rows=rows[1],
    collapsed=last.get('collapsed') or {},
    reliability=last.get('reliability') or {},
  )


def _first_and_last(
  workdir: epath.PathLike, name: str
) -> tuple[Row | None, Row | None]:
  """Returns the evaluations before training and of the last step, or None.

  If a set was evaluated with several settings, those of the last step count.
  """
  groups: dict[str, list[Row]] = {}
  for result in run_reader.evaluations(workdir):
    settings = result.get('settings')
    if result.get('set') == name and isinstance(settings, dict):
      key = json.dumps(settings | {'step': 0}, sort_keys=True)
      groups.setdefault(key, []).append(result)
  pairs = []
  for results in groups.values():
    ordered = sorted(results, key=lambda result: result['step'])
    first, last = ordered[0], ordered[-1]
    pairs.append(
      (first if first['step'] == 0 else None, last if last['step'] else None)
    )
  complete = [pair for pair in pairs if all(pair)]
  chosen = max(complete or pairs or [(None, None)], key=_last_step)
  return chosen


def _last_step(pair: tuple[Row | None, Row | None]) -> int:
  return pair[1]['step'] if pair[1] else 0


def missing(workdir: epath.PathLike) -> list[int | None]:
  """Returns the steps whose evaluation on the test set is missing.

  Returns:
    0 for the model before training, None for the last model.
  """
  first, last = _first_and_last(workdir, TEST)
  return [step for step, result in ((0, first), (None, last)) if not result]


def fall(workdir: epath.PathLike, score: str) -> Fall | None:
  """Compares the best with the last evaluation on the validation set.

  Args:
    workdir: Directory of the run.
    score: Figure by which the best step is chosen.

  Returns:
    The difference of last - best; None if the last step is the best.
  """
  results = {
    result['step']: result
    for result in run_reader.evaluations(workdir)
    if result.get('set') == VALIDATION and score in result
  }
  if not results:
    return None
  last = max(results)
  best = max(results, key=lambda step: (results[step][score], step))
  if best == last:
    return None
  values = []
  for step in (best, last):
    rows = run_reader.evaluation_rows(workdir, results[step])
    if not rows:
      return None
    samples = results[step]['settings'].get('samples', 0)
    votes = results[step]['settings'].get('answer_kind') != 'code'
    figures = accuracy.by_question(rows, samples, votes=votes)
    values.append(figures[score].mean(axis=1))
  if len(values[0]) != len(values[1]):
    return None
  return Fall(best, last, paired.difference(*values))


def labels(
  workdir: epath.PathLike,
  config: Mapping[str, Any],
  *,
  by_vote: int,
  by_verdict: int,
) -> Labels:
  """Counts the questions with and without labels.

  Args:
    workdir: Directory of the run.
    config: Config of the run, as it is stored.
    by_vote: Questions trained on without a label.
    by_verdict: Questions trained on with the true answer of a verdict.
  """
  people, checker = set(), set()
  for event in verdicts.live(run_reader.review_events(workdir)):
    if event['verdict'] in verdicts.DECISIONS:
      is_checker = event.get('reviewer') == verdicts.CHECKER
      (checker if is_checker else people).add(event['id'])
  sizes = {
    result.get('set'): result.get('questions', 0)
    for result in run_reader.evaluations(workdir)
  }
  solver = config.get('solver', {})
  rewards_true = bool(solver.get('rewards', {}).get('true')) or any(
    'true' in row for row in solver.get('reward_schedule', ())
  )
  return Labels(
    by_vote,
    by_verdict,
    len(people),
    len(checker),
    sum(sizes.values()),
    rewards_true,
  )


def cost(
  workdir: epath.PathLike,
  footer: Mapping[str, str],
  price_per_hour: float | None,
) -> Cost:
  """Adds up the time of all steps and evaluations.

  Steps that were repeated after a crash count once, because their metrics are
  replaced. Loading and compiling between steps are not counted.

  Args:
    workdir: Directory of the run.
    footer: What the run was made with, see `run_reader.footer`.
    price_per_hour: Price of a device for an hour, None if not known.
  """
  names = ('time/step', 'time/probe')
  training = sum(
    row.get(name) or 0.0
    for row in run_reader.metrics(workdir)
    for name in names
  )
  evaluating = sum(
    result.get('seconds') or 0.0 for result in run_reader.evaluations(workdir)
  )
  devices = footer.get('devices', '')
  return Cost(
    training / 3600,
    evaluating / 3600,
    int(devices) if devices.isdecimal() else None,
    footer.get('device_kind', ''),
    price_per_hour,
  )


def alarms(workdir: epath.PathLike) -> list[Alarm]:
  """Returns the alarms, those that hold first."""
  joined = [
    Alarm(
      name=str(row.get('name', '')),
      since=row['since'] if isinstance(row['since'], int) else 0,
      ended=row['ended'],
      action=str(row.get('action', '')),
      signal=str(row.get('signal', '')),
      value=value
      if isinstance(value := row.get('value'), int | float)
      else None,
      detail=str(row.get('detail') or ''),
    )
    for row in alarms_lib.join(run_reader.alarms(workdir))
  ]
  return sorted(joined, key=lambda alarm: alarm.ended is not None)


def reviewed_votes(workdir: epath.PathLike) -> dict[str, float] | None:
  """Returns how often reviewers found votes right, on random draws alone.

  Returns:
    The numbers 'right' and 'total', and Wilson's interval 'low' and 'high';
    None without a verdict on a random draw.
  """
  events = verdicts.live(run_reader.review_events(workdir))
  right, total = verdicts.count_random(events)
  if not total:
    return None
  low, high = accuracy.wilson(right, total)
  return {'right': right, 'total': total, 'low': low, 'high': high}


def confusion(
  rows: Sequence[Row], *, max_classes: int
) -> tuple[list[str], np.ndarray] | None:
  """Counts greedy answers by the true answer.

  Args:
    rows: Rows of an evaluation.
    max_classes: Maximum number of true answers.

  Returns:
    The classes, and counts [true, answer] with a last column for all other
    answers; None if there are more classes, or if nearly every question has a
    true answer of its own.
  """
  classes = sorted({str(row['true']) for row in rows})
  if not classes or len(classes) > max_classes or len(classes) * 2 > len(rows):
    return None
  index = {name: i for i, name in enumerate(classes)}
  counts = np.zeros((len(classes), len(classes) + 1), int)
  for row in rows:
    true = index[str(row['true'])]
    # A right answer may be written in another way than the true answer.
    answer = true if row['right'][0] else index.get(str(row['answers'][0]), -1)
    counts[true, answer] += 1
  return classes, counts
