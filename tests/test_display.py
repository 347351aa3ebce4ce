"""Tests of the output on a terminal and in a log."""

import contextlib
import io
import os
import re
import subprocess
import sys

import hypothesis
import pytest
import rich.cells
import rich.console
from hypothesis import strategies

from sqlm_jax import display

SAMPLE = display.Sample('7 + 8', '15', 6, 8)


def log_console(**kwargs):
  return rich.console.Console(file=io.StringIO(), width=80, **kwargs)


def terminal_console():
  return log_console(force_terminal=True, color_system=None)


def shown(console) -> str:
  return console.file.getvalue()


def screen(output: str) -> list[str]:
  """Returns the lines that a terminal shows, without trailing spaces.

  It handles the codes that rich writes: line feeds, carriage returns, cursor up
  and erase line. Colors and the visibility of the cursor are ignored.
  """
  rows, row, column = [''], 0, 0
  for part in re.findall(r'\x1b\[[?\d;]*[A-Za-z]|\r|\n|[^\x1b\r\n]+', output):
    if part == '\r':
      column = 0
    elif part == '\n':
      row, column = row + 1, 0
      rows += [''] * (row + 1 - len(rows))
    elif up := re.fullmatch(r'\x1b\[(\d*)A', part):
      row = max(row - int(up[1] or 1), 0)
    elif part == '\x1b[2K':
      rows[row] = ''
    elif part.startswith('\x1b'):
      assert part[-1] in 'mhl', f'{part!r} is not handled'
    else:
      line = rows[row].ljust(column)
      rows[row] = line[:column] + part + line[column + len(part) :]
      column += len(part)
  return [row.rstrip() for row in rows]


@pytest.mark.parametrize(
  'sample, line',
  [
    (SAMPLE, '7 + 8 → 15 (6 of 8)'),
    (display.Sample('7 + 8', None, 0, 8), '7 + 8 → no majority of 8'),
    (display.Sample(' 7\n+\t8 ', '15', 8, 8), '7 + 8 → 15 (8 of 8)'),
    (display.Sample('', '', 8, 8), ' →  (8 of 8)'),
  ],
)
def test_a_sample_is_shown_on_one_line(sample, line):
  assert display.describe(sample) == line


@pytest.mark.parametrize(
  'text, line',
  [
    ('abcdef', 'abcdef'),
    ('abcdefg', 'abcde…'),
    ('abcde fgh', 'abcde…'),
    ('\x1b[2Jab', '[2Jab'),  # without the escape character, a code is text
    ('a\u202eb', 'a b'),  # would write the rest of the line backwards
    ('a\u2028b\x85c', 'a b c'),  # line breaks beyond \n
    ('日本語', '日本語'),  # two columns each
    ('日本語日', '日本…'),
  ],
)
def test_clip_returns_one_line_of_at_most_width_columns(text, line):
  assert display.clip(text, 6) == line


@hypothesis.given(strategies.text(), strategies.integers(1, 30))
def test_clipped_text_is_printable_and_not_too_wide(text, width):
  line = display.clip(text, width)
  assert rich.cells.cell_len(line) <= width
  assert line == '' or line.isprintable()


def test_a_log_has_a_plain_line_per_step():
  console = log_console()
  columns = display.columns('addition/test', 4)
  with display.LiveTable(columns, console=console) as table:
    table.update({'step': 0, 'eval/addition/test/greedy': 0.831, 'other': 1.0})
    table.update(
      {'step': 1, 'time/step': 4.04, 'proposer/reward': 0.5},
      [SAMPLE, display.Sample('[bold]2[/bold] + [/] \x1b[2J', None, 0, 8)],
    )
  assert shown(console) == (
    'step 0  greedy 83.1%\n'
    'step 1  s/step 4.0  proposer +0.50\n'
    '  7 + 8 → 15 (6 of 8)\n'
    '  [bold]2[/bold] + [/] [2J → no majority of 8\n'
  )


def test_long_lines_of_a_log_are_not_wrapped():
  console = log_console()
  columns = [display.Column(f'name{i}', f'm{i}', '{:.2f}') for i in range(20)]
  with display.LiveTable(columns, console=console) as table:
    table.update({f'm{i}': 0.5 for i in range(20)})
  assert shown(console).count('\n') == 1


def test_a_terminal_shows_the_last_steps_and_samples_once():
  console = terminal_console()
  columns = display.columns('addition/test', 4)
  with display.LiveTable(columns, height=2, console=console) as table:
    for step in range(4):
      table.update({'step': step, 'solver/reward': step / 8}, [SAMPLE])
    display.message('a message [bold]', console=console)
  rows = screen(shown(console))
  assert rows[0] == 'a message [bold]'
  numbers = [row.split('│') for row in rows if re.match(r'│ +\d', row)]
  assert [(cells[1].strip(), cells[5].strip()) for cells in numbers] == [
    ('2', '0.25'),
    ('3', '0.38'),
  ]
  assert [row for row in rows if '→' in row] == ['  7 + 8 → 15 (6 of 8)']


def test_the_current_step_and_the_time_left():
  times = [0.0]
  steps = display.Steps(12, now=lambda: times[-1])
  shown = [steps.describe()]
  for now, step, stage in (
    (0, 0, 'propose'),
    (90, 0, 'learn'),
    (100, 1, 'propose'),  # 100 seconds for each of the remaining 11 steps
    (104, 2, 'propose'),  # 4 seconds, since the first step compiles
    (107, 2, 'learn'),
    (200, 2, 'learn'),
  ):
    times.append(now)
    steps.begin(step, stage)
    shown.append(steps.describe())
  assert shown == [
    '',
    'Step 1 of 12: propose',
    'Step 1 of 12: learn',
    'Step 2 of 12: propose, 18:20 left',
    'Step 3 of 12: propose, 0:40 left',
    'Step 3 of 12: learn, 0:37 left',
    'Step 3 of 12: learn, 0:00 left',
  ]


def test_a_terminal_shows_the_stage_below_the_table():
  console = terminal_console()
  columns = display.columns('t', 4)
  with display.LiveTable(columns, total=3, console=console) as table:
    table.begin(0, 'propose')
    table.begin(0, 'learn')
    table.update({'step': 0}, [SAMPLE])
    table.begin(1, 'propose')
    rows = [row for row in screen(shown(console)) if row]
    assert rows[-1].startswith('  Step 2 of 3: propose, 0:0')
    assert sum('Step' in row for row in rows) == 1


def test_a_log_has_a_line_for_the_stage_of_a_long_step(monkeypatch):
  times = [0.0]
  monkeypatch.setattr(display.time, 'monotonic', lambda: times[-1])
  console = log_console()
  with display.LiveTable(
    display.columns('t', 4), total=3, console=console
  ) as table:
    for now, stage in ((10, 'propose'), (35, 'solve'), (50, 'learn')):
      times.append(now)
      table.begin(0, stage)
    table.update({'step': 0})
  assert shown(console) == '  Step 1 of 3: solve\nstep 0\n'


@pytest.mark.parametrize(
  'width, checked, dropped',
  [
    (120, True, set()),
    (100, False, set()),
    (100, True, {'new'}),
    (80, False, {'new', 'entropy', 'same'}),
    (80, True, {'new', 'entropy', 'same', 'solver'}),
  ],
)
def test_a_narrow_terminal_has_fewer_columns(width, checked, dropped):
  console = rich.console.Console(
    file=io.StringIO(), width=width, force_terminal=True, color_system=None
  )
  columns = display.columns('t', 4, checked=checked)
  assert ('right' in [column.title for column in columns]) == checked
  values = {column.metric: 0.5 for column in columns}
  with display.LiveTable(columns, console=console) as table:
    table.update(values)
  output = shown(console)
  for column in columns:
    assert (f' {column.title} ' in output) == (column.title not in dropped)


def test_generated_text_cannot_control_the_terminal():
  console = terminal_console()
  text = '[bold]x[/bold] [/] \x1b[2J\x1b]0;title\x07 \r\n\x9b2J'
  with display.LiveTable(display.columns('t', 4), console=console) as table:
    table.update({'step': 0}, [display.Sample(text, text, 1, 8)])
  assert '\x1b[2J' not in shown(console)
  assert '\x1b]' not in shown(console)
  assert '\x9b' not in shown(console)
  line = '[bold]x[/bold] [/] [2J ]0;title 2J'
  assert f'  {line} → ' in '\n'.join(screen(shown(console)))


def test_the_table_is_closed_after_an_error():
  console = terminal_console()
  stderr = sys.stderr
  table = display.LiveTable(display.columns('t', 4), console=console)
  with pytest.raises(KeyboardInterrupt), table:
    raise KeyboardInterrupt
  assert sys.stderr is stderr
  assert shown(console).count('\x1b[?25h') == 1  # the cursor is shown again


SCRIPT = """
import sys
from absl import app, logging
from sqlm_jax import display

def main(_):
  logging.set_verbosity(logging.INFO)
  logging.get_absl_handler().setFormatter(None)
  with display.LiveTable(display.columns('addition/test', 4)) as table:
    for step in range(3):
      table.update({'step': step}, [display.Sample('7 + 8', '15', 6, 8)])
      logging.info('log line %d', step)
      sys.stderr.write(f'error line {step}\\n')
      with display.progress('evaluating', 2) as report:
        report(1, 2)
  logging.info('log line after')

app.run(main)
"""


COMMAND = [sys.executable, '-W', 'error', '-c', SCRIPT]
ENVIRONMENT = os.environ | {'TERM': 'xterm', 'COLUMNS': '80', 'LINES': '40'}


def test_log_lines_appear_above_the_table():
  terminal_end, process_end = os.openpty()
  process = subprocess.Popen(
    COMMAND,
    env=ENVIRONMENT,
    stdin=process_end,
    stdout=process_end,
    stderr=process_end,
  )
  os.close(process_end)
  output = b''
  with (
    os.fdopen(terminal_end, 'rb', buffering=0) as terminal,
    contextlib.suppress(OSError),  # raised by Linux when the process has ended
  ):
    while part := terminal.read(65536):
      output += part
  assert process.wait(timeout=60) == 0, output.decode()
  rows = screen(output.decode())
  logged = [f'{kind} line {i}' for i in range(3) for kind in ('log', 'error')]
  assert rows[:6] == logged
  table = '\n'.join(rows[6:])
  assert re.findall(r'│ +(\d)', table) == ['0', '1', '2']
  assert table.count('┏') == table.count('└') == 1
  assert [row for row in rows[6:] if row][-1] == 'log line after'


def test_a_log_file_has_no_control_codes():
  process = subprocess.run(
    COMMAND,
    env=ENVIRONMENT,
    capture_output=True,
    text=True,
    check=True,
    timeout=60,
  )
  assert process.stdout.splitlines() == [
    line
    for step in range(3)
    for line in (
      f'step {step}',
      '  7 + 8 → 15 (6 of 8)',
      'evaluating (2)',
    )
  ]
  assert 'log line 1\n' in process.stderr


def test_a_terminal_without_unicode_shows_question_marks():
  buffer = io.BytesIO()
  file = io.TextIOWrapper(buffer, encoding='ascii')
  console = rich.console.Console(file=file, width=80)
  with display.LiveTable(display.columns('t', 4), console=console) as table:
    table.update({'step': 0}, [SAMPLE])
  file.flush()
  assert buffer.getvalue() == b'step 0\n  7 + 8 ? 15 (6 of 8)\n'


def test_the_remaining_time_is_shown_for_slow_batches():
  times = [0.0]
  console = log_console(
    force_terminal=True, color_system=None, get_time=lambda: times[-1]
  )
  with display.progress('evaluating', 100, console=console) as report:
    # 5 were done before this start, and 10 more in each minute.
    for minute, done in enumerate((5, 15, 25)):
      times.append(60.0 * minute)
      report(done, 100)
  assert '0:07:30' in shown(console)


def test_a_summary_is_aligned_and_does_not_wrap_commands():
  console = log_console()
  command = 'python -m sqlm_jax.main ' + '--config.some.key=value ' * 5
  rows = {'before': '50%', 'now try': command.strip()}
  display.summary('[done]', rows, console=console)
  assert shown(console) == (
    f'\n[done]\n  before   50%\n  now try  {command.strip()}\n'
  )
