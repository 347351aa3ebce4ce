"""Does it fit, and what else would: settings to try, cheapest first."""

from collections.abc import Iterator
from typing import Any

from launch import programs


def largest(found: dict[str, dict[str, Any]]) -> tuple[str, int]:
  """The program that needs most, and its bytes a device."""
  name = max(found, key=lambda name: found[name]['total'])
  return name, found[name]['total']


def tries(
  settings: programs.Settings, worst: str
) -> Iterator[tuple[str, programs.Settings]]:
  """Settings that need less where it is short, each with the last one's.

  Args:
    settings: those that do not fit.
    worst: the program that needs most.

  Yields:
    Config keys that differ from `settings`, and the new settings.
  """
  words = []

  def step(word, **changes):
    nonlocal settings
    words.append(word)
    settings = settings._replace(**changes)
    return ' '.join(words), settings

  data, fsdp, _ = settings.mesh
  if worst == 'update':
    if settings.remat != 'full':
      yield step('model.remat=full', remat='full')
    least = data * fsdp
    if settings.groups_per_microbatch > least:
      yield step(
        f'optimizer.groups_per_microbatch={least}', groups_per_microbatch=least
      )
  else:
    w = settings.workload
    rows = settings.max_rows or w.questions * w.group_size
    for part in (4, 16):
      # A row a group and a chip is the least.
      least = max(rows // part, data * fsdp * w.group_size)
      if least < rows:
        yield step(f'sampler.max_rows={least}', max_rows=least)
        rows = least
  if settings.dtypes != 'bfloat16':
    yield step('model.param_dtype=bfloat16', dtypes='bfloat16')
  if not settings.lora_rank:
    yield step('model.lora.rank=16', dtypes='mixed', lora_rank=16)
