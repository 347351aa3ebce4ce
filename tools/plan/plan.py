"""Measures a step's programs on a TPU slice and searches for settings that fit.

The programs are compiled for the slice's topology. This needs the TPU compiler,
but no TPU, and takes some minutes for each program.
"""

import hashlib
import importlib.metadata
import json
import pathlib
import sys

from jax.experimental import topologies

from sqlm_jax.distributed import sharding
from tools.plan import programs, slices, suggestions

GIB = 2**30
# The sampler's programs. Their memory includes the resident training state.
SAMPLER = ('prefill', 'decode', 'store')


def plan(name, config, place, settings, cache_dir=None) -> dict:
  """Measures a model on a slice and searches for settings that fit.

  Args:
    name: the name of the model.
    config: the model's config.
    place: the slice.
    settings: the training settings.
    cache_dir: a directory in which measurements of programs are kept, or None.

  Returns:
    A row with the model, the slice, the memory that is needed, `programs`, the
    measurements by program, `fits`, True if all programs fit, and `try`, config
    overrides with which they fit, None if none were found.
  """

  def measure(settings):
    return _measure_all(name, config, place, settings, cache_dir)

  measurements = measure(settings)
  worst, needed = suggestions.largest(measurements)
  row = {
    'model': name,
    'slice': place.name,
    'mesh': settings.mesh,
    'hbm': place.chip.hbm,
    'worst': worst,
    'needed': needed,
    'fits': needed <= place.chip.hbm,
    'try': None,
    'programs': measurements,
  }
  overrides = {}
  while needed > place.chip.hbm:
    suggestion = suggestions.next_try(settings, worst)
    if suggestion is None:
      return row
    changes, settings = suggestion
    overrides |= changes
    worst, needed = suggestions.largest(measure(settings))
  words = [f'{k}={v}' for k, v in overrides.items() if v is not None]
  return row | {'try': ' '.join(words) or None}


def _measure_all(name, config, place, settings, cache_dir) -> dict:
  """Measures the programs until one does not fit."""
  mesh = _mesh(place, settings.mesh)
  measurements = {}
  for key, program in programs.build(config, mesh, settings).items():
    # The size of the arrays is known without compiling.
    if (needed := programs.arrays(program)) > place.chip.hbm:
      measurements[key] = {'total': needed, 'arrays_alone': True}
      return measurements
    relevant = _relevant_settings(key, settings)
    identity = (name, config, place.topology, relevant, key, versions())
    measurements[key] = _cached(
      identity, cache_dir, lambda program=program: programs.measure(program)
    )
    if measurements[key]['total'] > place.chip.hbm:
      return measurements
  return measurements


def _relevant_settings(
  key: str, settings: programs.Settings
) -> programs.Settings:
  """Resets the settings that a program does not depend on.

  The update does not depend on how responses are sampled, and the sampler's
  programs do not depend on how full the learner's rows are.
  """
  if key != 'update':
    return settings._replace(filled=1.0)
  return settings._replace(max_rows=0, gather_weights=False)


def _cached(identity, cache_dir, compute) -> dict:
  """Returns the stored measurement of a program, or computes and stores it."""
  if cache_dir is None:
    return compute()
  digest = hashlib.sha256(repr(identity).encode()).hexdigest()[:16]
  path = pathlib.Path(cache_dir) / f'{digest}.json'
  if not path.exists():
    model, _, topology, _, key, _ = identity
    print(f'compiling {model} {topology} {key}', file=sys.stderr)
    path.parent.mkdir(parents=True, exist_ok=True)
    measured = compute()
    path.write_text(json.dumps({'what': repr(identity)} | measured))
  return json.loads(path.read_text())


def versions() -> dict[str, str]:
  """Returns the versions of the packages that the measurements depend on."""
  return {name: importlib.metadata.version(name) for name in ('jax', 'libtpu')}


def _mesh(place: slices.Slice, shape):
  topology = topologies.get_topology_desc(place.topology, platform='tpu')
  return sharding.make_mesh(
    dict(zip(sharding.AXES, shape, strict=True)), topology.devices
  )


def memory_table(rows: list[dict]) -> str:
  """Formats the memory of a chip as a Markdown table in GiB."""
  lines = [
    '| model | slice | chips: data x fsdp x tensor | update: arrays | '
    'temporaries | sampler: arrays | temporaries | most | chip | result |',
    '|---' * 10 + '|',
  ]
  for row in rows:
    measurements = row['programs']
    sampler = max(
      (measurements[x] for x in SAMPLER if x in measurements),
      key=lambda measured: measured['total'],
      default={},
    )
    cells = [
      row['model'],
      row['slice'],
      'x'.join(map(str, row['mesh'])),
      *_arrays_and_temporaries(measurements.get('update', {})),
      *_arrays_and_temporaries(sampler),
      f'{row["needed"] / GIB:.1f} ({row["worst"]})',
      f'{row["hbm"] / GIB:.1f}',
      _result(row),
    ]
    lines.append('| ' + ' | '.join(cells) + ' |')
  return '\n'.join(lines)


def _arrays_and_temporaries(measured: dict) -> tuple[str, str]:
  """Formats the size of a program's arrays, and of its temporaries."""
  if 'temporaries' not in measured:
    return (f'{measured["total"] / GIB:.1f}' if measured else '-'), '-'
  arrays = measured['arguments'] + measured['resident']
  return f'{arrays / GIB:.1f}', f'{(measured["total"] - arrays) / GIB:.1f}'


def _result(row: dict) -> str:
  if row['fits']:
    return 'fits'
  if row['try']:
    return f'does not fit; try {row["try"]}'
  return 'does not fit; try a larger slice'


def time_table(rows: list[dict]) -> str:
  """Formats the work and the estimated times as a Markdown table."""
  lines = [
    '| model | slice | program | TFLOP a chip | at the peak, s | '
    'compiler: compute, s | collectives, GB a chip | links at least, s |',
    '|---' * 8 + '|',
  ]
  for row in rows:
    chip = slices.find(row['slice']).chip
    for name in ('update', 'decode'):
      measured = row['programs'].get(name, {})
      if 'cycles' not in measured:
        continue
      sizes = {
        kind: moved['bytes'] for kind, moved in measured['collectives'].items()
      }
      cells = [
        row['model'],
        row['slice'],
        name,
        f'{measured["flops"] / 1e12:.2f}',
        f'{measured["flops"] / chip.flops:.3f}',
        f'{measured["cycles"] / chip.hertz:.3f}',
        ', '.join(
          f'{kind} {size / 1e9:.1f}'
          for kind, size in sorted(sizes.items(), key=lambda item: -item[1])
          if size >= 5e7
        )
        or '0',
        f'{sum(sizes.values()) / chip.link:.3f}',
      ]
      lines.append('| ' + ' | '.join(cells) + ' |')
  return '\n'.join(lines)
