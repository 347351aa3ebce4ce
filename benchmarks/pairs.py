"""Measures several sides in turn (A B A B) and tells what came of it."""

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
  """Measures every side, then every side again, and so on.

  What slows the machine down for a while so hits all sides alike, and one
  round's numbers may be compared with each other.

  Args:
    sides: name -> one measurement. Whatever happens only once (compilation,
      first use of memory) is behind it.
    repeats: rounds.
  """
  found = {name: [] for name in sides}
  for _ in range(repeats):
    for name, measure in sides.items():
      found[name].append(measure())
  return found


def seconds(call: Callable[[], Any]) -> Callable[[], float]:
  """A measurement: how long `call()` takes, which waits for its result."""

  def measure():
    start = time.perf_counter()
    call()
    return time.perf_counter() - start

  return measure


def ratios(over: Sequence[float], under: Sequence[float]) -> list[float]:
  """`over / under`, round by round."""
  return [a / b for a, b in zip(over, under, strict=True)]


def spread(values: Sequence[float]) -> dict[str, Any]:
  """Median, range, and the values themselves in the order of the rounds."""
  return {
    'median': statistics.median(values),
    'low': min(values),
    'high': max(values),
    'values': list(values),
  }


def tell(values: Sequence[float], form: str = '{:.3g}') -> str:
  """The median, and in brackets the range."""
  found = (statistics.median(values), min(values), max(values))
  median, low, high = map(form.format, found)
  return f'{median} ({low}-{high})'


def show(benchmark: str, result: dict[str, Any], line: str) -> None:
  """Prints a result as a line of JSON and as a line for people."""
  whole = {'benchmark': benchmark} | result | {'machine': machine()}
  print(json.dumps(_rounded(whole)))
  print(f'{benchmark}: {line}', flush=True)


def machine() -> str:
  """The processor and what runs on it."""
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
  """Four digits are more than any timing has."""
  if isinstance(x, dict):
    return {key: _rounded(value) for key, value in x.items()}
  if isinstance(x, list | tuple):
    return [_rounded(value) for value in x]
  return float(f'{x:.4g}') if isinstance(x, float) else x
