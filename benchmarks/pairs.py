"""Measures several sides alternately (A B A B) and prints the results."""

import importlib.metadata
import json
import os
import pathlib
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any


def in_turn(
  sides: dict[str, Callable[[], float]], repeats: int
) -> dict[str, list[float]]:
  """Measures all sides in turn, `repeats` times.

  A temporary slowdown of the machine therefore affects all sides, and the
  numbers of one round can be compared with each other.

  Args:
    sides: name -> a function that returns one measurement. One-time costs, such
      as compilation and the first use of memory, must already be paid.
    repeats: the number of rounds.

  Returns:
    The measurements by name, in the order of the rounds.
  """
  measured = {name: [] for name in sides}
  for _ in range(repeats):
    for name, measure in sides.items():
      measured[name].append(measure())
  return measured


def seconds(call: Callable[[], Any]) -> Callable[[], float]:
  """Returns a function that measures the seconds of `call()`.

  `call` must wait for its result.
  """

  def measure():
    start = time.perf_counter()
    call()
    return time.perf_counter() - start

  return measure


def ratios(over: Sequence[float], under: Sequence[float]) -> list[float]:
  """Returns `over / under` for each round."""
  return [a / b for a, b in zip(over, under, strict=True)]


def spread(values: Sequence[float]) -> dict[str, Any]:
  """Returns the median, the range, and the values in the order of rounds."""
  return {
    'median': statistics.median(values),
    'low': min(values),
    'high': max(values),
    'values': list(values),
  }


def summarize(values: Sequence[float], form: str = '{:.3g}') -> str:
  """Formats the median, and the range in parentheses."""
  numbers = (statistics.median(values), min(values), max(values))
  median, low, high = map(form.format, numbers)
  return f'{median} ({low}-{high})'


def show(benchmark: str, result: dict[str, Any], line: str) -> None:
  """Prints a result as a line of JSON and as a line of text."""
  row = {'benchmark': benchmark} | result | {'machine': machine()}
  print(json.dumps(_rounded(row)))
  print(f'{benchmark}: {line}', flush=True)


def machine() -> str:
  """Describes the processor and the software versions."""
  cpuinfo = pathlib.Path('/proc/cpuinfo')
  model = platform.processor()
  if cpuinfo.exists():
    lines = cpuinfo.read_text().splitlines()
    named = [line for line in lines if line.startswith('model name')]
    model = named[0].partition(':')[2].strip() if named else model
  return (
    f'{model}, {os.cpu_count()} cores, Python {platform.python_version()}, '
    f'jax {importlib.metadata.version("jax")}'
  )


def _rounded(x: Any) -> Any:
  """Rounds to four significant digits, more than the precision of timings."""
  if isinstance(x, dict):
    return {key: _rounded(value) for key, value in x.items()}
  if isinstance(x, list | tuple):
    return [_rounded(value) for value in x]
  return float(f'{x:.4g}') if isinstance(x, float) else x
