"""Compiles a step's programs for a TPU slice to check whether they fit.

  python -m launch.plan --models=7B --slices=v5e-16
  python -m launch.plan --models=7B --slices=v5p-8 --mesh=1,2,2
  python -m launch.plan --cache_dir=/tmp/plans

Compiles the learner's update and the sampler's programs for a TPU topology and
prints the memory and the work of each device. This needs no TPU, but the TPU
compiler (`pip install 'jax[tpu]'`, Linux) and some minutes for each program. No
arrays are created.
"""

import os

# Must be set before jax is imported: the host has no TPU, and other processes
# may use the TPU compiler at the same time.
os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['TPU_SKIP_MDS_QUERY'] = '1'
os.environ['ALLOW_MULTIPLE_LIBTPU_LOAD'] = '1'

import hashlib
import importlib.metadata
import json
import math
import pathlib
import sys

from absl import app, flags
from jax.experimental import topologies

from launch import programs, sizes, slices, verdict
from sqlm_jax.distributed import sharding
from sqlm_jax.models import decoder

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
  measure = lambda changed: _measure_all(
    name, config, place, changed, cache_dir
  )
  found = measure(settings)
  worst, needed = verdict.largest(found)
  row = {
    'model': name,
    'slice': place.name,
    'mesh': settings.mesh,
    'hbm': place.chip.hbm,
    'worst': worst,
    'needed': needed,
    'fits': needed <= place.chip.hbm,
    'try': None,
    'programs': found,
  }
  keys = {}
  while needed > place.chip.hbm:
    step = verdict.next_try(settings, worst)
    if step is None:
      return row
    changes, settings = step
    keys |= changes
    worst, needed = verdict.largest(measure(settings))
  words = [f'{k}={v}' for k, v in keys.items() if v is not None]
  return row | {'try': ' '.join(words) or None}


def _measure_all(name, config, place, settings, cache_dir) -> dict:
  """Measures the programs until one does not fit."""
  mesh = _mesh(place, settings.mesh)
  found = {}
  for key, program in programs.build(config, mesh, settings).items():
    # The size of the arrays is known without compiling.
    if (needed := programs.arrays(program)) > place.chip.hbm:
      found[key] = {'total': needed, 'arrays_alone': True}
      return found
    what = (name, config, place.topology, _of(key, settings), key, versions())
    found[key] = _cached(what, cache_dir, lambda p=program: programs.measure(p))
    if found[key]['total'] > place.chip.hbm:
      return found
  return found


def _of(key: str, settings: programs.Settings) -> programs.Settings:
  """Resets the settings that a program does not depend on.

  The update does not depend on how responses are sampled, and the sampler's
  programs do not depend on how full the learner's rows are.
  """
  if key != 'update':
    return settings._replace(filled=1.0)
  return settings._replace(max_rows=0, gather_weights=False)


def _cached(what, cache_dir, compute) -> dict:
  if cache_dir is None:
    return compute()
  digest = hashlib.sha256(repr(what).encode()).hexdigest()[:16]
  path = pathlib.Path(cache_dir) / f'{digest}.json'
  if not path.exists():
    print(f'compiles {what[0]} {what[2]} {what[4]}', file=sys.stderr)
    path.parent.mkdir(parents=True, exist_ok=True)
    found = compute()
    path.write_text(json.dumps({'what': repr(what)} | found))
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
    'temporaries | sampler: arrays | temporaries | most | chip | verdict |',
    '|---' * 10 + '|',
  ]
  for row in rows:
    found = row['programs']
    sampler = max(
      (found[x] for x in SAMPLER if x in found),
      key=lambda x: x['total'],
      default={},
    )
    cells = [
      row['model'],
      row['slice'],
      'x'.join(map(str, row['mesh'])),
      *_split(found.get('update', {})),
      *_split(sampler),
      f'{row["needed"] / GIB:.1f} ({row["worst"]})',
      f'{row["hbm"] / GIB:.1f}',
      _verdict(row),
    ]
    lines.append('| ' + ' | '.join(cells) + ' |')
  return '\n'.join(lines)


def _split(one: dict) -> tuple[str, str]:
  """Formats the size of a program's arrays, and of its temporaries."""
  if 'temporaries' not in one:
    return (f'{one["total"] / GIB:.1f}' if one else '-'), '-'
  stays = one['arguments'] + one['resident']
  return f'{stays / GIB:.1f}', f'{(one["total"] - stays) / GIB:.1f}'


def _verdict(row: dict) -> str:
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
      one = row['programs'].get(name, {})
      if 'cycles' not in one:
        continue
      kinds = {k: v['bytes'] for k, v in one['collectives'].items()}
      moved = sum(kinds.values())
      cells = [
        row['model'],
        row['slice'],
        name,
        f'{one["flops"] / 1e12:.2f}',
        f'{one["flops"] / chip.flops:.3f}',
        f'{one["cycles"] / chip.hertz:.3f}',
        ', '.join(
          f'{k} {v / 1e9:.1f}'
          for k, v in sorted(kinds.items(), key=lambda x: -x[1])
          if v >= 5e7
        )
        or '0',
        f'{moved / chip.link:.3f}',
      ]
      lines.append('| ' + ' | '.join(cells) + ' |')
  return '\n'.join(lines)


def _settings(place: slices.Slice) -> programs.Settings:
  """Returns the settings that the flags define."""
  workload = sizes.workload()
  if workload.questions % _UPDATES.value:
    raise ValueError(
      f'--updates={_UPDATES.value}: expected a divisor of '
      f'--questions={workload.questions}'
    )
  count = workload.questions // _UPDATES.value
  shape = slices.choose_mesh(place.chips, count)
  if _MESH.value:
    shape = tuple(int(x) if x.isdecimal() else 0 for x in _MESH.value)
    if len(shape) != 3 or math.prod(shape) != place.chips:
      raise ValueError(
        f'--mesh={",".join(_MESH.value)}: expected data,fsdp,tensor with a '
        f'product of {place.chips}, the chips of {place.name}'
      )
  size = _MICROBATCH.value or max(shape[0] * shape[1], 8)
  if count % min(size, count):
    raise ValueError(
      f'--groups_per_microbatch={size}: expected a divisor of {count}, the '
      'groups of an update'
    )
  return programs.Settings(
    mesh=shape,
    dtypes=sizes.DTYPES_FLAG.value,
    remat=_REMAT.value,
    kernels=_KERNELS.value,
    lora_rank=sizes.LORA_RANK.value,
    updates=_UPDATES.value,
    groups_per_microbatch=min(size, count),
    max_rows=_MAX_ROWS.value,
    filled=_FILLED.value,
    gather_weights=sizes.GATHER_WEIGHTS.value,
    workload=workload,
  )


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'{argv[1:]}: expected flags only')
  try:
    places = [slices.find(name) for name in _SLICES.value]
    todo = [
      (name, config, place, _settings(place))
      for name, config in sizes.models().items()
      for place in places
    ]
  except ValueError as error:
    raise app.UsageError(str(error)) from None
  try:
    found = versions()
  except importlib.metadata.PackageNotFoundError:
    raise app.UsageError(
      "libtpu: expected the TPU's compiler, pip install 'jax[tpu]'"
    ) from None
  rows = [plan(*one, cache_dir=_CACHE_DIR.value) for one in todo]
  if sizes.FORMAT.value == 'json':
    print('\n'.join(map(json.dumps, rows)))
    return
  print(', '.join(f'{k} {v}' for k, v in found.items()))
  print(f'\nGiB a chip:\n\n{memory_table(rows)}')
  print(f'\nA run of each program:\n\n{time_table(rows)}')
  for row in rows:
    for name, one in row['programs'].items():
      for gathered in one.get('gathered', ()):
        print(f'\n{row["model"]} {row["slice"]} {name} gathers {gathered}')


_SLICES = flags.DEFINE_list('slices', list(slices.DEFAULT), 'What is rented.')
_MESH = flags.DEFINE_list('mesh', None, 'data,fsdp,tensor; default: chosen.')
_REMAT = flags.DEFINE_enum(
  'remat', 'dots', list(decoder.REMAT), 'What is computed again.'
)
_KERNELS = flags.DEFINE_bool('kernels', True, 'Attention by kernels.')
_UPDATES = flags.DEFINE_integer('updates', 8, 'Minibatches of a step.', 1)
_MICROBATCH = flags.DEFINE_integer(
  'groups_per_microbatch', 0, 'Groups in memory at once; 0: one a chip or 8.', 0
)
_MAX_ROWS = flags.DEFINE_integer(
  'max_rows', 0, 'Responses decoded side by side; 0: all.', 0
)
_FILLED = flags.DEFINE_float(
  'filled',
  1.0,
  'Tokens of responses, as a share of --tokens each: the learner reads these.',
  0.01,
  1.0,
)
_CACHE_DIR = flags.DEFINE_string(
  'cache_dir', None, 'Keeps what was compiled, for a call that goes on.'
)

if __name__ == '__main__':
  app.run(main)
