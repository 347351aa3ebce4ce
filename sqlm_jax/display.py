"""What a run shows while it goes: a live table, or plain lines in a log.

On a terminal the last steps stand in a table that is redrawn in place, with a
few sample questions under it. Anywhere else, say in a log file, a step is a
line without control codes. Models write what they like: their text is shown
on one line, without control characters, and never read as markup.
"""

import collections
import contextlib
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import rich
import rich.cells
import rich.console
import rich.live
import rich.progress
import rich.table
import rich.text
from absl import logging


class Column(NamedTuple):
  """A column of the table: where its value comes from, and how it looks."""

  title: str
  metric: str
  form: str  # of str.format


class Sample(NamedTuple):
  """A question and what its answers agreed on."""

  question: str
  vote: str | None  # None: nobody was rewarded
  count: int  # answers that agree with the vote
  size: int  # answers
  passed: float | None = None  # share of the tests that the answers passed


def columns(evaluated: str, samples: int) -> tuple[Column, ...]:
  """The columns of a run, by the names of its metrics.

  Args:
    evaluated: task and evaluation set, as they stand in metric names.
    samples: k of mean@k.
  """
  return (
    Column('step', 'step', '{:.0f}'),
    Column('s/step', 'time/step', '{:.1f}'),
    Column('valid', 'proposer/valid_rate', '{:.2f}'),
    Column('majority', 'vote/majority_rate', '{:.2f}'),
    Column('solver', 'solver/reward', '{:.2f}'),
    Column('proposer', 'proposer/reward', '{:+.2f}'),
    Column(f'mean@{samples}', f'eval/{evaluated}/mean@{samples}', '{:.1%}'),
    Column('greedy', f'eval/{evaluated}/greedy', '{:.1%}'),
  )


class LiveTable:
  """Shows the steps of a run; a context manager.

  Log lines of absl and anything else that is written meanwhile appear above
  the table.

  Args:
    columns: what to show of a step.
    title: above the table.
    height: steps that stay in view.
    console: where to; default, standard output.
  """

  def __init__(
    self,
    columns: Sequence[Column],
    *,
    title: str = '',
    height: int = 12,
    console: rich.console.Console | None = None,
  ):
    self._columns = tuple(columns)
    self._title = title
    self._console = console or rich.get_console()
    self._rows = collections.deque(maxlen=height)
    self._samples = ()
    self._live = None
    self._open = contextlib.ExitStack()

  def __enter__(self) -> 'LiveTable':
    if self._console.is_terminal:
      live = rich.live.Live(
        self._table(),
        console=self._console,
        auto_refresh=False,
        # What the user sent to a file stays out of the terminal.
        redirect_stderr=sys.stderr.isatty(),
      )
      self._live = self._open.enter_context(live)
      self._open.enter_context(_absl_follows_stderr())
    return self

  def __exit__(self, *_):
    self._live = None
    self._open.close()

  def update(
    self, values: Mapping[str, float], samples: Sequence[Sample] = ()
  ) -> None:
    """Shows one more step.

    Args:
      values: metrics by name, with 'step'; a missing one leaves a blank.
      samples: questions to show below.
    """
    row = [
      column.form.format(values[column.metric])
      if column.metric in values
      else ''
      for column in self._columns
    ]
    self._rows.append(row)
    self._samples = tuple(samples)
    if self._live is not None:
      self._live.update(self._table(), refresh=True)
      return
    cells = [
      f'{column.title} {cell}'
      for column, cell in zip(self._columns, row, strict=True)
      if cell
    ]
    _print(self._console, '  '.join(cells))
    for sample in self._samples:
      _print(self._console, '  ' + describe(sample))

  def _table(self) -> rich.console.Group:
    table = rich.table.Table(title=self._title or None, title_justify='left')
    for column in self._columns:
      table.add_column(column.title, justify='right')
    for row in self._rows:
      table.add_row(*row)
    width = max(self._console.width - 2, 20)
    lines = [
      rich.text.Text('  ' + clip(describe(sample), width), style='cyan')
      for sample in self._samples
    ]
    return rich.console.Group(table, *lines)


def describe(sample: Sample) -> str:
  """A sample on one line: `7 + 8 → 15 (6 of 8)`."""
  question = clip(sample.question, 100)
  if sample.passed is not None:
    return f'{question} → {sample.passed:.0%} of the tests passed'
  if sample.vote is None:
    return f'{question} → no majority of {sample.size}'
  vote = clip(sample.vote, 40)
  return f'{question} → {vote} ({sample.count} of {sample.size})'


def clip(text: str, width: int) -> str:
  """One line of at most `width` columns that cannot steer a terminal.

  Control and format characters (categories C and Z of Unicode: escape codes,
  line breaks, changes of writing direction) become spaces, and spaces in a
  row become one.
  """
  # A column may hold many marks above each other: bound their number, too.
  text = ''.join(
    ' ' if unicodedata.category(c)[0] in 'CZ' else c for c in text[: 8 * width]
  )
  text = ' '.join(text.split())
  if rich.cells.cell_len(text) <= width:
    return text
  return rich.cells.set_cell_size(text, width - 1).rstrip() + '…'


@contextlib.contextmanager
def progress(
  description: str,
  total: int,
  *,
  console: rich.console.Console | None = None,
) -> Iterator[Callable[[int, int], None]]:
  """A progress bar on a terminal, a line now and then anywhere else.

  Both say how much time is left.

  Yields:
    `report(done, total)`. What is done at the first report is not counted in
    the speed: it was done before.
  """
  console = console or rich.get_console()
  if not console.is_terminal:
    _print(console, f'{description} ({total})')
    yield _lines_now_and_then(console)
    return
  with rich.progress.Progress(
    *rich.progress.Progress.get_default_columns(),
    console=console,
    # Rich forgets after 30 seconds: a batch may take longer.
    speed_estimate_period=float('inf'),
    transient=True,
  ) as bar:
    task = bar.add_task(description, total=total)
    yield lambda done, total: bar.update(task, completed=done, total=total)


def _lines_now_and_then(console: rich.console.Console, every: float = 30.0):
  begun, said = None, time.monotonic()

  def report(done, total):
    nonlocal begun, said
    now = time.monotonic()
    begun = begun or (now, done)
    if now - said < every or done in (begun[1], total):
      return
    said = now
    left = (now - begun[0]) / (done - begun[1]) * (total - done)
    minutes, seconds = divmod(round(left), 60)
    _print(console, f'  {done} of {total}, {minutes}:{seconds:02d} left')

  return report


def summary(
  title: str,
  rows: Mapping[str, str],
  *,
  console: rich.console.Console | None = None,
) -> None:
  """Shows names and values in two columns, unwrapped, so that they copy."""
  console = console or rich.get_console()
  _print(console, '')
  _print(console, title, style='bold')
  width = max(map(len, rows), default=0)
  for name, value in rows.items():
    _print(console, f'  {name:<{width}}  {value}')


def message(text: str, *, console: rich.console.Console | None = None) -> None:
  """Shows a line, above the table if there is one."""
  _print(console or rich.get_console(), text)


def mute() -> None:
  """Shows nothing from here on: another process does."""
  rich.get_console().quiet = True


def _print(console: rich.console.Console, line: str, style: str | None = None):
  # A terminal that cannot write a character shows a question mark instead.
  line = line.encode(console.encoding, 'replace').decode(console.encoding)
  console.print(rich.text.Text(line), style=style, soft_wrap=True)


@contextlib.contextmanager
def _absl_follows_stderr():
  """Lets absl log through the table's stand-in for standard error.

  Its handler holds on to the stream that was standard error when it was made,
  and would write into the table. A log file is left alone.
  """
  handler = logging.get_absl_handler().python_handler
  stream = handler.stream
  if getattr(sys.stderr, 'rich_proxied_file', None) is stream:
    handler.setStream(sys.stderr)
  try:
    yield
  finally:
    handler.setStream(stream)
