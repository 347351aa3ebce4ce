"""Suggests settings that need less memory, in order of increasing cost."""

from typing import Any

from tools.plan import programs


def largest(measurements: dict[str, dict[str, Any]]) -> tuple[str, int]:
  """Returns the program with the largest memory, and its bytes per device."""
  name = max(measurements, key=lambda name: measurements[name]['total'])
  return name, measurements[name]['total']


def next_try(
  settings: programs.Settings, worst: str
) -> tuple[dict[str, str | None], programs.Settings] | None:
  """Returns settings with which the largest program needs less memory.

  Args:
    settings: the settings that do not fit.
    worst: the program that needs the most memory.

  Returns:
    Config keys with their new values (None for the default), and the new
    settings; None if there is nothing left to try.
  """
  workload = settings.workload
  min_groups = settings.mesh[0] * settings.mesh[1]  # one group per chip
  rows = settings.max_rows or workload.questions * workload.group_size
  fewer_rows = max(rows // 4, min_groups * workload.group_size)
  if worst == 'update' and settings.remat != 'full':
    return {'model.remat': 'full'}, settings._replace(remat='full')
  if worst == 'update' and settings.groups_per_microbatch > min_groups:
    return (
      {'optimizer.groups_per_microbatch': str(min_groups)},
      settings._replace(groups_per_microbatch=min_groups),
    )
  if worst != 'update' and fewer_rows < rows:
    return {'sampler.max_rows': str(fewer_rows)}, settings._replace(
      max_rows=fewer_rows
    )
  if settings.lora_rank:
    return None
  if settings.dtypes != 'bfloat16':
    return (
      {'model.param_dtype': 'bfloat16'},
      settings._replace(dtypes='bfloat16'),
    )
  # Adapters are small enough to be trained in float32.
  return (
    {'model.param_dtype': None, 'model.lora.rank': '16'},
    settings._replace(dtypes='mixed', lora_rank=16),
  )
