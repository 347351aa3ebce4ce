"""Converts what a worker reports about a run to the result of a test."""

import os
import signal

from sqlm_jax.game import types
from sqlm_jax.sandbox import process, unit_tests

LOST = 'lost: '  # prefix of the detail of a test that was not run
MAX_DETAIL = 200  # characters

# Text in the last line of a program's stderr -> the limit that was exceeded.
_LIMIT_MESSAGES = {
  'MemoryError': 'memory',
  "can't start new thread": 'processes or memory',
  '[Errno 27]': 'file size',
  '[Errno 28]': 'file size',
}
# The worker's reason for ending a program -> result.
_ENDED = {
  b'w': types.Result(unit_tests.TIMEOUT, 'wall clock'),
  b'c': types.Result(unit_tests.TIMEOUT, 'processor time'),
  b'o': types.Result(unit_tests.LIMIT, 'output'),
  b'f': types.Result(unit_tests.LIMIT, 'number of files'),
  b'x': types.Result(unit_tests.ERROR, 'the program broke its sandbox'),
}


def result_of(answer: process.Answer, expected: str) -> types.Result:
  """Returns the result of a run.

  Args:
    answer: the worker's report on the run.
    expected: the output that the test expects.
  """
  if answer.why in _ENDED:
    return _ENDED[answer.why]
  code = os.waitstatus_to_exitcode(answer.status)
  if code == 0:
    output = answer.output.decode(errors='replace')
    if unit_tests.same_output(expected, output):
      return types.Result(unit_tests.PASSED)
    return types.Result(unit_tests.WRONG, output[:MAX_DETAIL])
  lines = answer.errors.decode(errors='replace').strip().splitlines()
  message = lines[-1][:MAX_DETAIL] if lines else f'exit status {code}'
  if message.startswith(LOST):
    # The program printed it; its sandbox was not lost.
    message = f'stderr: {message}'
  for words, limit in _LIMIT_MESSAGES.items():
    if words in message:
      return types.Result(unit_tests.LIMIT, limit)
  if code < 0:
    return types.Result(unit_tests.ERROR, f'killed by {_signal_name(-code)}')
  return types.Result(unit_tests.ERROR, message)


def _signal_name(number: int) -> str:
  try:
    return signal.Signals(number).name
  except ValueError:
    return f'signal {number}'
