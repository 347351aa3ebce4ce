"""Runs --mode=why and --mode=report, which need only the files of a run."""

from collections.abc import Sequence

from etils import epath

from sqlm_jax import display
from sqlm_jax.reporting import (
  data_card,
  messages,
  page,
  why,
  why_tables,
)
from sqlm_jax.text import json_text
from sqlm_jax.workdir import storage


def explain(
  workdir: epath.PathLike,
  *,
  step: int | None = None,
  question: str | None = None,
) -> None:
  """Shows what made the update of a step, or the history of a question.

  Args:
    workdir: Directory of the run.
    step: Self-play step.
    question: Text of a question. Exactly one of the two is given.

  Raises:
    ValueError: If both or none are given, or the run does not have them.
  """
  if (step is None) == (question is None):
    raise ValueError('--mode=why: expected either --step=N or --question=TEXT')
  if step is not None:
    why_tables.show_update(why.update(workdir, step))
  elif question is not None:
    why_tables.show_history(why.history(workdir, question))


def report(
  workdirs: Sequence[epath.PathLike],
  *,
  directory: epath.PathLike | None = None,
  language: str = messages.ENGLISH,
  price_per_hour: float | None = None,
) -> epath.Path:
  """Writes the report of one or several runs, and their data card.

  The files are report.html, or report.<language>.html, and for a single run
  also data_card.md and croissant.json.

  Args:
    workdirs: Directories of the runs.
    directory: Directory to write to; by default, that of the first run.
    language: Language of the report, one of `messages.LANGUAGES`.
    price_per_hour: Price of a device for an hour, None if not known.

  Returns:
    The path of the report.

  Raises:
    ValueError: If there is no run, or a file of a run is damaged.
    OSError: If a file cannot be written.
  """
  workdirs = list(dict.fromkeys(map(str, workdirs)))
  if not workdirs:
    raise ValueError('--workdir: expected the directory of a run')
  runs = [
    page.read_run(workdir, price_per_hour=price_per_hour)
    for workdir in workdirs
  ]
  target = epath.Path(directory or workdirs[0])
  target.mkdir(parents=True, exist_ok=True)
  ending = '' if language == messages.ENGLISH else f'.{language}'
  path = target / f'report{ending}.html'
  with storage.replacing(path) as temporary:
    temporary.write_bytes(page.encode(page.render(runs, language)))
  rows = {'report': str(path)}
  if len(runs) == 1:
    rows |= _write_card(workdirs[0], runs[0], target)
  for run in runs:
    reason = run.advice.reason
    text = reason.text.format(**reason.values)
    rows[run.name] = f'{run.advice.verdict}: {text}'
  display.summary('Report', rows)
  return path


def _write_card(
  workdir: epath.PathLike, run: page.Run, target: epath.Path
) -> dict[str, str]:
  """Writes the data card, and returns the paths of its files."""
  card = data_card.read(workdir, run.tallies, run.labels)
  markdown, croissant = target / 'data_card.md', target / 'croissant.json'
  storage.write_text(markdown, data_card.to_markdown(card))
  storage.write_text(
    croissant, json_text.dumps(data_card.to_croissant(card), indent=2) + '\n'
  )
  return {'data card': str(markdown), 'for programs': str(croissant)}
